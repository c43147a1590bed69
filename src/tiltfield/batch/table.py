"""How each series of a batch fared: one row each, in a table that is whole whenever it is looked at."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from tiltfield.replacing import atomic
from tiltfield.runfolder import read_metrics

SUMMARY = "summary.csv"
Outcome = Literal["waiting", "running", "finished", "stopped", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """How a series fared; the columns of the table, in their order.

    Attributes:
        series: its path.
        outcome: "stopped" can be gone on with; "refused" is the input's fault, "failed" the program's or the machine's.
        method: of the reconstruction.
        seconds: of its last sitting.
        heldout_nll: mean negative log-likelihood of the pixels held out of the fit.
        thickness_pixels: extent of the volume along the beam.
        resolution_nm: from half sets of tilts, where the run was evaluated.
        folder: of the run.
        message: why it was refused or failed, and where the traceback is.
    """

    series: str
    outcome: Outcome
    method: str = ""
    seconds: float | None = None
    heldout_nll: float | None = None
    thickness_pixels: int | None = None
    resolution_nm: float | None = None
    folder: str
    message: str = ""

    def with_figures(self) -> Row:
        """Return the row with the figures that the run's folder has."""
        metrics = read_metrics(Path(self.folder))
        names = ("method", "seconds", "heldout_nll", "thickness_pixels")
        known = {name: metrics[name] for name in names if name in metrics}
        return replace(self, **known, resolution_nm=_resolution(Path(self.folder)))


def _resolution(folder: Path) -> float | None:
    """Return what `tiltfield evaluate` found, unless it was for an earlier volume."""
    evaluation = folder / "evaluation.json"
    try:
        if evaluation.stat().st_mtime < (folder / "volume.mrc").stat().st_mtime:
            return None
        return float(json.loads(evaluation.read_text())["fsc"]["resolution_nm"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


COLUMNS = tuple(field.name for field in fields(Row))


def write_summary(path: Path, rows: Iterable[Row]) -> None:
    """Write the table as CSV; what is not known is left empty.

    Args:
        path: the file.
        rows: in the order of the table.
    """
    with atomic(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
