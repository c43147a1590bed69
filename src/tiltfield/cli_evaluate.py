"""The command `tiltfield evaluate`: a run by its own data, and any volume against the truth."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltfield.cli_flags import Switch
from tiltfield.errors import InputError

EXIT_STOPPED = 130


def evaluate(
    target: Path,
    /,
    *,
    truth: Path | None = None,
    inside: Path | None = None,
    views: int = 0,
    uncertainty: Switch = False,
    halves: Switch = False,
    every: int = 5,
    series: Path | None = None,
    threads: int | None = None,
    overwrite: Switch = False,
    quiet: Switch = False,
    json: Switch = False,
) -> None:
    """Say how far a run is to be trusted, without a truth; or compare a volume with the truth.

    Args:
        target: folder of a finished run, or a volume (MRC), which needs --truth
        truth: the true volume, MRC
        inside: volume that is 1 where the specimen is, for figures inside it
        views: random directions of which to compare projections, as the paper does of 20; 0 for none
        uncertainty: of a run: also write the uncertainty of each voxel, uncertainty.mrc
        halves: of a run: also keep the volumes of even and odd tilts, half-even.mrc and half-odd.mrc
        every: of a run: one of so many tilts is left out and predicted
        series: of a run: where the tilt series lies now, if it was moved
        threads: CPU threads; those of the run if not given
        overwrite: of a run: do again what is in evaluation.json already
        quiet: show no progress
        json: print JSON instead of a table
    """
    from tiltfield.jsontext import as_json

    if target.is_dir():
        from tiltfield.evidence.gather import Wanted

        wanted = Wanted(uncertainty, halves, every, overwrite, series, threads)
        figures = _of_run(target, wanted, (truth, inside, views), quiet)
        print(as_json(figures, indent=2) if json else _summary(figures, target))
        return
    if not target.exists():
        raise InputError(f"{target}: no such file or folder; expected the folder of a run, or a volume")
    if truth is None:
        raise InputError(
            f"{target} is a volume: give the truth to compare it with, --truth FILE; a finished run is evaluated "
            "without one, by naming its folder"
        )
    figures = dict(_comparison(truth, inside, views)(_volume(target)))
    print(as_json(figures, indent=2) if json else two_columns(figures))


def _comparison(truth: Path, inside: Path | None, views: int) -> Any:
    from tiltfield.evaluate import evaluate as evaluate_volume

    known, mask = _volume(truth), _volume(inside) if inside else None
    return lambda volume: evaluate_volume(volume, known, mask, views=views)


def _volume(path: Path) -> Any:
    from tiltfield.io import read_volume

    return read_volume(path)


def _of_run(folder: Path, wanted: Any, against: tuple[Path | None, Path | None, int], quiet: bool) -> dict[str, Any]:
    from tiltfield.evidence.gather import gather
    from tiltfield.report import Screen, make_report

    truth, inside, views = against
    with Screen(quiet=quiet) as screen:
        compare = None if truth is None else _comparison(truth, inside, views)
        try:
            figures = gather(folder, wanted, screen, compare)
            make_report(folder, series=wanted.series)
            return figures
        except KeyboardInterrupt:
            screen.say(
                f"stopped: what was done is in {folder / 'evaluation.json'}; the same command goes on from there"
            )
            sys.exit(EXIT_STOPPED)


def _summary(figures: Mapping[str, Any], folder: Path) -> str:
    """Return the evidence in words."""
    fsc, held, white = figures["fsc"], figures["heldout"], figures["whiteness"]
    lines = [
        f"halves     FSC of even and odd tilts falls below 0.143 at {_period(fsc, '')}, below 0.5 at "
        f"{_period(fsc, '_0.5')}; measured up to a period of {1 / max(fsc['measured_up_to'], 1e-9):.3g} pixels",
        f"held out   {held['tilts']} tilts left out are predicted with χ² {held['chi2']:.3f} per pixel (noise: 1; "
        f"tilts that were fitted: {held['fitted_chi2']:.3f}), {_error(held)}{_reach(held['frc'])}",
        f"residuals  {white['verdict']}: {white['words']}",
    ]
    if "uncertainty" in figures:
        lines.append(f"each voxel {folder / 'uncertainty.mrc'}: {figures['uncertainty']['rule']}")
    if "truth" in figures:
        lines += ["against the truth", two_columns(figures["truth"])]
    return "\n".join(
        [
            *lines,
            f"figures in {folder / 'evaluation.json'}; pictures fsc.png and residuals.png; all is in report.html",
        ]
    )


def _error(held: Mapping[str, Any]) -> str:
    """Return the error of predicted images, which cannot be told where the noise is taken for larger than it is."""
    if held["chi2"] > 1:
        return f"error {held['error_over_noise']:.2f} of the noise"
    return "no more than the noise is taken for, which may be too much: error unknown"


def _period(fsc: Mapping[str, Any], suffix: str) -> str:
    pixels, size = fsc[f"resolution_pixels{suffix}"], fsc[f"resolution_nm{suffix}"]
    best = "or better than " if pixels <= 2.0 + 1e-9 else ""
    return f"{best}{pixels:.3g} pixels" + ("" if size is None else f" ({size:.3g} nm)")


def _reach(frc: Mapping[str, Any] | None) -> str:
    if not frc or not frc["predicted_up_to"]:
        return ""
    return f"; images and prediction correlate down to periods of {1 / frc['predicted_up_to']:.3g} pixels"


def two_columns(figures: Mapping[str, Any]) -> str:
    """Return names and values in two columns.

    Args:
        figures: by name.
    """
    width = max(len(name) for name in figures)
    return "\n".join(f"{name:<{width}}  {_number(value)}" for name, value in figures.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
