"""What fits of some of the tilts say: the correlation of half sets, and how well left-out images are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.evidence.rerun import Run, Shown, fit_part
from tiltfield.evidence.resolution import HALVES, STRICT, Shells, compare_halves, ring_correlation
from tiltfield.observe import Observer
from tiltfield.series import TiltSeries

EVERY = 5  # one of so many tilts is left out
WHOLE = 0.95  # share of an image's pixels that must be valid for its correlation by frequency
_SEEDS = (1, 2, 3)  # after the run's: even half, odd half, held-out tilts; equal seeds would start fits alike


@dataclass(frozen=True, eq=False)
class Halves:
    """The volumes of the even and the odd tilts.

    Attributes:
        volumes: density, shape (z, y, x).
        shells: their correlation.
    """

    volumes: tuple[np.ndarray, np.ndarray]
    shells: Shells


def halves(run: Run, observer: Observer) -> Halves:
    """Fit the even and the odd tilts, in order of their angles, each on its own.

    Args:
        run: gives series and settings.
        observer: told of progress.
    """
    order = np.argsort(run.series.angles_deg, kind="stable")
    parts = [np.sort(order[first::2]) for first in (0, 1)]
    names = ("even tilts", "odd tilts")
    fits = [
        fit_part(run, part, run.config.seed + seed, Stage(observer, name))
        for part, seed, name in zip(parts, _SEEDS[:2], names, strict=True)
    ]
    volumes = (fits[0].volume, fits[1].volume)
    angles = (run.series.angles_deg[parts[0]], run.series.angles_deg[parts[1]])
    return Halves(volumes, compare_halves(volumes, angles))


def fsc_figures(shells: Shells, pixel_size_nm: float | None) -> dict[str, Any]:
    """Return the correlation of two halves as plain values.

    Args:
        shells: the curves.
        pixel_size_nm: edge of a pixel, or None.
    """
    periods = {"": shells.resolution(HALVES), "_0.5": shells.resolution(STRICT)}
    found: dict[str, Any] = {
        "frequency": shells.frequency.tolist(),
        "correlation": shells.correlation.tolist(),
        "threshold": HALVES,
    }
    for suffix, period in periods.items():
        found[f"resolution_pixels{suffix}"] = period
        found[f"resolution_nm{suffix}"] = None if pixel_size_nm is None else period * pixel_size_nm
    limit = shells.limit
    return found | {
        "correlation_everywhere": shells.everywhere.tolist(),
        "correlation_unmeasured": shells.unmeasured.tolist(),
        "measured_share": shells.share.tolist(),
        "measured_up_to": limit,
        "beyond_measured": bool(limit > 0 and periods[""] < 1 / limit),
    }


def left_out(n_tilts: int, every: int) -> np.ndarray:
    """Return the tilts to leave out, in order of angle: every so many, from the middle of the first lot on.

    Args:
        n_tilts: of the series, six or more.
        every: at least 2; made smaller so that three tilts are left out.

    Raises:
        InputError: if there are fewer than six tilts.
    """
    if n_tilts < 6:
        raise InputError(f"to fit some tilts and predict others takes six or more, got {n_tilts}")
    every = max(2, min(every, n_tilts // 3))
    return np.arange(every // 2, n_tilts, every)


def held_out_tilts(run: Run, observer: Observer, every: int = EVERY) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fit without some of the tilts, and predict them.

    Args:
        run: gives series and settings.
        observer: told of progress.
        every: one of so many tilts is left out.

    Returns:
        for each tilt left out "tilt" (its number in the file, from 1), "angle_deg", "chi2", "log_likelihood" (mean over
        pixels, of intensities in units of their range); the same over all of them, beside those of the tilts that
        the same fit has seen, and the correlation of prediction and image by frequency.
    """
    order = np.argsort(run.series.angles_deg, kind="stable")
    out = np.sort(order[left_out(len(order), every)])
    used = np.setdiff1d(order, out)
    fit = fit_part(run, used, run.config.seed + _SEEDS[2], Stage(observer, "without held-out tilts"))
    unseen, seen = run.series.select(out), run.series.select(used)
    shown = fit.show(unseen)
    per_tilt, total = _judged(shown, unseen)
    _, fitted = _judged(fit.show(seen), seen)
    excess = total["chi2"] - 1.0
    return per_tilt, {
        "every": int(every),
        "tilts": len(out),
        **total,
        "fitted_chi2": fitted["chi2"],
        "fitted_log_likelihood": fitted["log_likelihood"],
        "error_over_noise": float(np.sqrt(max(0.0, excess))),
        "frc": _rings(shown),
    }


def _rings(shown: Shown) -> dict[str, Any] | None:
    """Return how prediction and unseen images correlate by frequency, or None if too many pixels are missing."""
    whole = shown.valid.mean(axis=(1, 2)) >= WHOLE
    if not whole.any():
        return None
    rings = ring_correlation(shown.clean[whole], shown.observed[whole])
    return {
        "frequency": rings.frequency.tolist(),
        "correlation": rings.correlation.tolist(),
        "chance": rings.chance.tolist(),
        "predicted_up_to": rings.limit,
    }


def _judged(shown: Shown, series: TiltSeries) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return figures of each image, and of all."""
    white, log_prob, valid = shown.white, shown.log_prob, shown.valid
    each = [
        {
            "tilt": int(number),
            "angle_deg": float(angle),
            "chi2": float(np.mean(w[v].astype(np.float64) ** 2)) if v.any() else None,
            "log_likelihood": float(np.mean(p[v], dtype=np.float64)) if v.any() else None,
        }
        for number, angle, w, p, v in zip(series.tilt_numbers, series.angles_deg, white, log_prob, valid, strict=True)
    ]
    count = max(1, int(valid.sum()))
    total = {
        "chi2": float((white[valid].astype(np.float64) ** 2).sum() / count),
        "log_likelihood": float(log_prob[valid].sum(dtype=np.float64) / count),
        "chi2_error": float(np.std(white[valid].astype(np.float64) ** 2) / np.sqrt(count)),
    }
    return each, total


class Stage(Observer):
    """Passes on the progress of a fit under the name of what it is for; what the fit finds is not said again.

    Args:
        observer: told of it.
        name: of the fit.
    """

    def __init__(self, observer: Observer, name: str) -> None:
        self.observer, self.name = observer, name

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Any) -> None:
        """Show the state of the fit."""
        self.observer.progress(f"{self.name}: {stage}", done, seconds_left, figures)
