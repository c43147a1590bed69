"""What a microscopist should know before believing a volume, in words: pure functions from figures to sentences.

Each gives sentences, or none where there is nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiltfield.report.words import Finding, percent

CORRELATES, MISCALIBRATED = 0.2, 0.05
SATURATED, MASKED = 0.005, 0.01  # shares of the pixels
FALLING = 0.02  # of the whole fall of the held-out curve, in its last tenth
SHORT = 0.5  # of the passes of the preset, below which a limited run is a first look
CUT = 0.9  # of the middle layers' density, from which on the first or last layer is no end of a specimen
VACUUM = 0.8  # transmission of the brightest clean pixels, below which no vacuum is in view


def fit_ended(metrics: Mapping[str, Any], curve: Sequence[float], passes: int | None) -> list[Finding]:
    """Tell whether the fit came to its end.

    Args:
        metrics: interrupted, outcome.
        curve: held-out negative log-likelihood of each pass.
        passes: that the preset takes where a time limit was given, else None.
    """
    if metrics.get("interrupted"):
        text = "The run was stopped early: this is the best volume so far. Go on with `--resume`."
        return [Finding("act", text)]
    if metrics.get("outcome") == "diverged":
        text = "The loss became infinite, and the best volume until then was kept: try another `--seed`."
        return [Finding("act", text)]
    if passes is not None and len(curve) < SHORT * passes:
        times = "once" if len(curve) == 1 else f"{len(curve)} times"
        text = f"`--max-time` let the fit see every slice {times}, the preset takes {passes}: this is a first look."
        return [Finding("act", text)]
    if metrics.get("outcome") == "finished" and _still_falling(np.array(curve, float)):
        text = "The held-out error was still falling when the fit ended: a longer `--preset` may give more."
        return [Finding("look", text)]
    return []


def _still_falling(curve: np.ndarray) -> bool:
    """Return whether the last tenth of a curve lies clearly below the tenth before."""
    n = max(3, len(curve) // 10)
    if len(curve) < 4 * n:  # also of no curve
        return False
    last, before = curve[-n:], curve[-2 * n : -n]
    scatter = 1.4826 * float(np.median(np.abs(np.diff(curve[-2 * n :])))) / math.sqrt(n)
    fall = float(before.mean() - last.mean())
    return fall > max(3 * scatter, FALLING * float(curve[0] - curve.min()))


def correlation(noise: Mapping[str, Any], lags: Mapping[str, Any]) -> list[Finding]:
    """Tell if noise is correlated along the scan, and if residuals are along both axes.

    Args:
        noise: scan_axis, correlation.
        lags: autocorrelation of residuals along x and y, and with "white_" of whitened ones; may be empty.
    """
    found = []
    if noise.get("scan_axis") and noise.get("correlation"):
        text = (
            f"The noise of neighbouring pixels along {noise['scan_axis']} correlates ({noise['correlation'][0]:.2f}): "
            "the detector still answers the pixel before. The fit allows for it."
        )
        found.append(Finding("note", text))
    rho = [(lags.get(f"white_{axis}") or lags.get(axis) or [0.0])[0] for axis in "xy"]
    if min(rho) > CORRELATES:
        text = (
            f"Residuals of neighbouring pixels correlate in both directions ({rho[0]:.2f} along x, {rho[1]:.2f} along "
            "y). Images that were interpolated when they were aligned do that, and so does structure that the volume "
            "lacks: look for the specimen in the residuals below."
        )
        found.append(Finding("look", text))
    return found


def calibration(gap: float, misfit: bool) -> list[Finding]:
    """Tell if the noise model does not hold for pixels that it was not fitted to.

    Args:
        gap: largest difference of the distributions of the noise, as it is and as the model has it.
        misfit: whether the residuals' variance is already known not to be that of the noise.
    """
    text = f"The noise is not quite as the model has it: probabilities are off by up to {percent(gap)}."
    return [Finding("look", text)] if gap > MISCALIBRATED and not misfit else []


def saturation(dark: float, bright: float) -> list[Finding]:
    """Tell if many pixels are at the end of the detector's range.

    Args:
        dark: share of the pixels that saturate at the dark end, 0 if none do.
        bright: likewise at the bright end.
    """
    ends = [(name, share) for name, share in (("darkest", dark), ("brightest", bright)) if share > SATURATED]
    return [
        Finding(
            "look",
            f"{percent(share)} of the pixels have the {name} grey value there is: the detector's range was too small, "
            "a background was taken off, or an alignment filled them in. The fit knows that these only tell a bound.",
        )
        for name, share in ends
    ]


def masked(share: float) -> list[Finding]:
    """Tell if many pixels are left out.

    Args:
        share: of the pixels.
    """
    text = f"{percent(share)} of the pixels are bad or without data, and were left out."
    return [Finding("look", text)] if share > MASKED else []


def thickness(found: bool, n_z: int, width: int, ends: tuple[float, float]) -> list[Finding]:
    """Tell if the specimen may not fit into the box along the beam.

    Args:
        found: whether the thickness was found from the images, not given.
        n_z: layers of the box.
        width: of the images, pixels.
        ends: mean density of the first and the last layer over that of the middle ones.
    """
    if found and n_z >= width - 2:
        text = (
            "Where the specimen ends along the beam was not found: the box is as thick as the images are wide. "
            "Check the tilt axis (`--tilt-axis`) and the alignment; if they are right, give `--thickness` in nm, which "
            "is faster and better."
        )
        return [Finding("act", text)]
    cut = [name for name, share in zip(("top", "bottom"), ends, strict=True) if share > CUT]
    if not cut:
        return []
    text = f"The specimen reaches the {' and the '.join(cut)} of the box: give a larger `--thickness` in nm."
    return [Finding("act", text)]


def contrast_of_volume(low: float, high: float, mean: float) -> list[Finding]:
    """Tell if there is next to nothing in the volume.

    Args:
        low: density that 1 % of the voxels are below.
        high: density that 1 % are above.
        mean: of all.
    """
    if high - low > 0.02 * abs(mean):
        return []
    text = "The volume is nearly constant: the images hold no structure that the fit could tell from noise. Check the "
    return [Finding("act", text + "contrast (`--mode`), the tilt angles and the alignment.")]


def gain_and_offset(mode: str, brightest: float, gain: float, offset: float) -> list[Finding]:
    """Tell if densities are known up to a factor alone, because no vacuum is in view.

    Args:
        mode: contrast.
        brightest: clean intensity of the brightest pixels.
        gain: of the contrast.
        offset: likewise.
    """
    if mode != "bf" or gain <= 0 or (brightest - offset) / gain > VACUUM:
        return []
    text = "No vacuum is in view, so gain and offset are told from the change with tilt alone: shapes hold, but "
    return [Finding("look", text + "densities may be off by a factor.")]


def doubts(notes: Sequence[str]) -> list[Finding]:
    """Return what was doubtful when the series was read.

    Args:
        notes: what the run said, line by line.
    """
    parts = (line.partition(": ") for line in notes if line.startswith("warning "))
    return [Finding("look", f"{head.removeprefix('warning ').capitalize()}: {rest}.") for head, _, rest in parts]
