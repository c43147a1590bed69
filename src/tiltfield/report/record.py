"""What a run has left in its folder, read back for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.runfolder import RunFolder
from tiltfield.series import TiltSeries, Volume


@dataclass(frozen=True, eq=False)
class Record:
    """A run, as its folder has it.

    Attributes:
        folder: where it lies.
        source: path of the tilt series.
        config: its settings.
        metrics: what metrics.json says.
        history: the lines of history.jsonl.
        volume: what was made.
        series: the data, or None if they cannot be read any more.
        rendered: images of the volume, shape (tilt, row, col), or None if the run did not keep them.
        evaluation: what `tiltfield evaluate DIR` found out, or nothing.
        uncertainty: standard deviation of the density, of the volume's shape, or None.
        finished: when.
        lost: why the series cannot be read, if so.
    """

    folder: Path
    source: Path | None
    config: ReconstructConfig
    metrics: Mapping[str, Any]
    history: list[dict[str, Any]]
    volume: Volume
    series: TiltSeries | None
    rendered: np.ndarray | None
    evaluation: Mapping[str, Any]
    uncertainty: np.ndarray | None
    finished: datetime
    lost: str = ""

    def __repr__(self) -> str:
        """Return where the run lies, its sizes, and the names of the figures."""
        series = self.lost if self.series is None else repr(self.series).replace("\n", "\n  ")
        return "\n  ".join(
            (
                f"Record of {self.folder}: {self.config.method}, finished {self.finished:%Y-%m-%d %H:%M}",
                f"source: {self.source}",
                f"volume: {self.volume!r}",
                f"series: {series}",
                f"metrics: {', '.join(self.metrics)}",
                f"evaluation: {', '.join(self.evaluation) or 'none'}",
            )
        )

    @property
    def angles_deg(self) -> list[float]:
        """Return the tilts, degrees, in the order of the file; none if they are not known."""
        if self.series is not None:
            return [float(angle) for angle in self.series.angles_deg]
        return list(self.metrics.get("tilts", {}).get("angle_deg", []))


def read_record(
    folder: Path,
    source: Path | None = None,
    *,
    series: TiltSeries | None = None,
    volume: Volume | None = None,
    rendered: np.ndarray | None = None,
) -> Record:
    """Read a run back.

    Args:
        folder: of `tiltfield reconstruct`.
        source: where the tilt series lies now; where the run says, if None.
        series: the data, if they are at hand; else they are read.
        volume: likewise.
        rendered: likewise.

    Raises:
        InputError: if there is no result, a file is damaged, or a series that is named is not that of the run.
    """
    kept = RunFolder(folder, resume=True, to_read=True)
    if not (kept.resuming and (folder / "metrics.json").exists()):
        raise InputError(
            f"{folder} holds no result of tiltfield reconstruct: expected config.yaml and metrics.json in it"
        )
    named, config = kept.recorded()
    volume = volume or Volume.load(folder / "volume.mrc")
    rendered = _stack(folder / "rendered.mrc") if rendered is None else rendered
    lost = ""
    if series is None:
        series, lost = _series(source or named, config, asked=source is not None)
    if series is not None and rendered is not None and series.images.shape != rendered.shape:
        lost = f"the series has images of shape {series.images.shape}, the run had {rendered.shape}"
        if source is not None:
            raise InputError(f"{source} is not what the run in {folder} was made from: {lost}")
        series = None
    evaluation = _evaluation(kept)
    return Record(
        folder,
        source or named,
        config,
        kept.metrics,
        _history(folder / "history.jsonl"),
        volume,
        series,
        rendered,
        evaluation or {},
        None if evaluation is None else _uncertainty(folder / "uncertainty.mrc", volume),
        datetime.fromtimestamp((folder / "metrics.json").stat().st_mtime),
        lost,
    )


def _series(path: Path | None, config: ReconstructConfig, *, asked: bool) -> tuple[TiltSeries | None, str]:
    """Return the series, or why it cannot be read; if it was asked for, that is an error."""
    from tiltfield.io import load

    if path is None:
        return None, "config.yaml names no series"
    try:
        return load(path, **config.reading), ""
    except InputError as error:
        if asked:
            raise
        return None, str(error)


def _stack(path: Path) -> np.ndarray | None:
    from tiltfield.io import load_frames

    return load_frames(path).images.astype(np.float32, copy=False) if path.exists() else None


def _uncertainty(path: Path, volume: Volume) -> np.ndarray | None:
    """Return the uncertainty, unless it is of another volume."""
    data = Volume.load(path).data if path.exists() else None
    return data if data is not None and data.shape == volume.data.shape else None


def _evaluation(kept: RunFolder) -> dict[str, Any] | None:
    """Return what evaluation.json says, nothing if there is none, and None if it is of another volume."""
    path = kept.path / "evaluation.json"
    try:
        found = dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; make it again with tiltfield evaluate {kept.path}") from None
    if "volume" in found and found["volume"] != kept.volume_digest():
        return None
    return found


def _history(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole: a run that was killed may have cut the last one short."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(dict(json.loads(line)))
        except ValueError:
            continue
    return entries
