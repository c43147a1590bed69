"""All evidence of a run, kept in its folder part by part as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiltfield
from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.evidence.figures import save_fsc, save_residuals
from tiltfield.evidence.rerun import Run, reopen
from tiltfield.evidence.tilts import EVERY, fsc_figures, halves, held_out_tilts
from tiltfield.evidence.uncertainty import uncertainty
from tiltfield.evidence.whiteness import mean_residual, whiteness
from tiltfield.jsontext import as_json
from tiltfield.observe import Observer
from tiltfield.replacing import atomic
from tiltfield.series import Volume

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Wanted:
    """What is asked of an evaluation.

    Attributes:
        uncertainty: also make uncertainty.mrc.
        halves: also keep the volumes of the even and the odd tilts.
        every: one of so many tilts is left out and predicted.
        overwrite: do again what is done already.
        series: where the tilt series lies now; where the run says, if None.
        threads: CPU threads; those of the run if None.
    """

    uncertainty: bool = False
    halves: bool = False
    every: int = EVERY
    overwrite: bool = False
    series: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.every < 2:
            raise InputError(f"--every leaves out one tilt of so many: expected 2 or more, got {self.every}")


class _Kept:
    """evaluation.json, written after every part; figures of another volume are dropped.

    Args:
        run: gives the folder and the digest.
        overwrite: start anew.
    """

    def __init__(self, run: Run, *, overwrite: bool) -> None:
        self.path = run.folder / EVALUATION
        self.figures: dict[str, Any] = {"tiltfield": tiltfield.__version__, "volume": run.digest}
        found = _read(self.path)
        if not overwrite and found.get("volume") == run.digest:
            self.figures |= found

    def lacks(self, name: str, **settings: Any) -> bool:
        """Return whether a part is not there yet, or was made with other settings."""
        part = self.figures.get(name)
        return not isinstance(part, Mapping) or any(part.get(key) != value for key, value in settings.items())

    def add(self, **parts: Any) -> None:
        """Write some parts."""
        self.figures |= parts
        with atomic(self.path) as part:
            part.write_text(as_json(self.figures, indent=2) + "\n")


def gather(
    folder: Path,
    wanted: Wanted,
    observer: Observer,
    truth: Callable[[Volume], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Evaluate a run without the truth, and with it where there is one.

    What is in evaluation.json already, of the same volume, is not done again. Ctrl-C leaves what is done.

    Args:
        folder: of a finished run.
        wanted: what is asked.
        observer: told of progress and findings.
        truth: compares a volume with the truth; None where that is unknown.

    Returns:
        what evaluation.json holds.

    Raises:
        InputError: if there is no finished run, or its series is not to be had.
        KeyboardInterrupt: if it was stopped.
    """
    run = reopen(folder, wanted.series, wanted.threads)
    kept = _Kept(run, overwrite=wanted.overwrite)
    if truth is not None:
        kept.add(truth=dict(truth(run.volume)))
    if kept.lacks("whiteness"):
        kept.add(whiteness=_whiteness(run))
    volumes = [folder / f"half-{name}.mrc" for name in ("even", "odd")]
    if kept.lacks("fsc") or (wanted.halves and not all(path.exists() for path in volumes)):
        kept.add(fsc=_fsc(run, observer, volumes if wanted.halves else []))
    if kept.lacks("heldout", every=wanted.every):
        per_tilt, total = held_out_tilts(run, observer, wanted.every)
        kept.add(heldout=total, heldout_per_tilt=per_tilt)
    target = folder / "uncertainty.mrc"
    if wanted.uncertainty and (kept.lacks("uncertainty") or not target.exists()):
        deviation, figures = uncertainty(run, observer)
        Volume(deviation, run.volume.voxel_size_nm).save(target)
        kept.add(uncertainty=figures)
    return kept.figures


def _whiteness(run: Run) -> dict[str, Any]:
    shown = run.fit.show(run.series)
    result = whiteness(shown.white, shown.valid, run.series.angles_deg)
    with atomic(run.folder / "residuals.png") as part:
        save_residuals(part, mean_residual(shown.white, shown.valid), result)
    return result.figures()


def _fsc(run: Run, observer: Observer, paths: list[Path]) -> dict[str, Any]:
    found = halves(run, observer)
    for volume, path in zip(found.volumes, paths, strict=False):
        Volume(volume, run.volume.voxel_size_nm).save(path)
    with atomic(run.folder / "fsc.png") as part:
        save_fsc(part, found.shells, run.volume.voxel_size_nm)
    return fsc_figures(found.shells, run.volume.voxel_size_nm)


def against(truth: Volume, inside: Volume | None, views: int) -> Callable[[Volume], Mapping[str, Any]]:
    """Return what compares a volume with the truth.

    Args:
        truth: true density.
        inside: where the specimen is, or None.
        views: random directions of which to compare projections.
    """
    return lambda volume: evaluate(volume, truth, inside, views=views)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
