"""Whether residuals are noise: their variance, their correlation with neighbours, and what they add up to.

Pure functions of numpy arrays. Residuals are whitened by the noise model: independent standard normals if image model
and noise model are right.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2

from tiltfield.noise.estimate import autocorrelation

LAGS = 4
BLOCKS = (1, 2, 4, 8)  # pixels along the edge of blocks over which residuals are averaged
CERTAIN = 0.001  # probability below which chance is ruled out
SMALL = 0.05  # correlation, or excess of the variance, that is small whatever its certainty
OVERFITTED = -0.15  # correlation below which a volume follows the noise more than any fit must
SUMMED = 1.5  # variance of sums above which small correlations add up to structure
_AXES = ("tilt", "y", "x")


@dataclass(frozen=True)
class Whiteness:
    """What residuals look like.

    Attributes:
        pixels: how many count.
        variance: mean square; 1 if the noise model is right.
        correlation: by axis ("tilt", "y", "x") at lags 1 to 4.
        probability: by axis, of so much correlation by chance (Ljung and Box); "mean": of so large a `mean_chi2`.
        block_variance: variance of means over blocks of 1, 2, 4, 8 pixels along y and x, times their pixels; all 1 for
            independent noise, above 1 where structure is left, below where noise was fitted.
        mean_chi2: mean square of the mean over tilts, times the tilts; 1 for independent noise.
        verdict: "noise", "slight", "structure" or "overfitted".
        words: the same in a sentence or two.
    """

    pixels: int
    variance: float
    correlation: dict[str, list[float]]
    probability: dict[str, float]
    block_variance: list[float]
    mean_chi2: float
    verdict: str
    words: str

    def figures(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "blocks": list(BLOCKS), "lags": list(range(1, LAGS + 1))}


def whiteness(white: np.ndarray, valid: np.ndarray, angles_deg: np.ndarray) -> Whiteness:
    """Judge whitened residuals.

    Args:
        white: shape (tilt, row, col).
        valid: bool, same shape: pixels that count.
        angles_deg: tilts, degrees; neighbours in tilt are those in order of angle.
    """
    order = np.argsort(angles_deg, kind="stable")
    w = np.where(valid, white, 0.0).astype(np.float64)[order]
    v = valid[order]
    pixels = int(v.sum())
    correlation, probability = {}, {}
    for axis, name in enumerate(_AXES):
        rho, pairs = correlations(w, v, axis)
        correlation[name], probability[name] = rho.tolist(), chance(rho, pairs)
    blocks = [block_variance(w, v, n) for n in BLOCKS]
    mean = mean_residual(w, v)
    seen = v.any(axis=0)
    mean_chi2 = float(np.mean(mean[seen] ** 2)) if seen.any() else math.nan
    probability["mean"] = float(chi2.sf((mean[seen] ** 2).sum(), max(1, int(seen.sum()))))
    variance = float((w[v] ** 2).mean()) if pixels else math.nan
    verdict, words = _judge(variance, correlation, probability, max(blocks[-1], mean_chi2))
    return Whiteness(pixels, variance, correlation, probability, blocks, mean_chi2, verdict, words)


def correlations(white: np.ndarray, valid: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation at lags 1 to 4 along an axis, and from how many pairs of valid pixels.

    Args:
        white: zero where not valid, shape (tilt, row, col).
        valid: bool, same shape.
        axis: along which.
    """
    lags, along = min(LAGS, white.shape[axis] - 1), np.moveaxis(valid, axis, -1)
    rho, count = np.zeros(LAGS), np.zeros(LAGS)
    rho[:lags] = autocorrelation(torch.from_numpy(white), axis, lags, torch.from_numpy(valid))
    count[:lags] = [np.count_nonzero(along[..., :-k] & along[..., k:]) for k in range(1, lags + 1)]
    return rho, count


def chance(rho: np.ndarray, pairs: np.ndarray) -> float:
    """Return the probability that independent noise has at least so much correlation, Q = Σ n_k ρ_k² against χ².

    Args:
        rho: correlation at each lag.
        pairs: n_k, how many pairs each comes from.

    Ljung & Box, Biometrika 65 (1978) 297, with each lag's own number of pairs.
    """
    told = pairs > 0
    return float(chi2.sf(float((pairs * rho**2)[told].sum()), max(1, int(told.sum()))))


def block_variance(white: np.ndarray, valid: np.ndarray, n: int) -> float:
    """Return the variance of sums over blocks of n × n valid pixels of an image, over that of independent noise.

    Args:
        white: zero where not valid, shape (tilt, row, col).
        valid: bool, same shape.
        n: edge of a block, pixels; made smaller for small images.
    """
    n_tilts, rows, cols = white.shape
    n = max(1, min(n, rows, cols))
    shape = (n_tilts, rows // n, n, cols // n, n)
    total, count = (a[:, : rows // n * n, : cols // n * n].reshape(shape).sum(axis=(2, 4)) for a in (white, valid))
    return float((total**2).sum() / max(1.0, float(count.sum())))


def mean_residual(white: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the mean over tilts times the root of their number: standard normal where residuals are noise.

    Args:
        white: zero where not valid, shape (tilt, row, col).
        valid: bool, same shape.

    Returns:
        shape (row, col).
    """
    return (white * valid).sum(axis=0) / np.sqrt(np.maximum(valid.sum(axis=0), 1))


def _judge(
    variance: float, correlation: dict[str, list[float]], probability: dict[str, float], summed: float
) -> tuple[str, str]:
    """Return the verdict and what it means."""
    level = f"The variance of the residuals is {variance:.2f} of what the noise model says."
    if abs(variance - 1) > SMALL:
        level += " Noise model or volume is off." if variance > 1 else " There is less noise than the model says."
    if min(probability.values()) >= CERTAIN / len(probability):
        return (
            "noise",
            f"{level} Neighbours in x, y and tilt do not correlate, nor does their sum over tilts stand out.",
        )
    first = {axis: rho[0] for axis, rho in correlation.items()}
    seen = ", ".join(f"{rho:+.3f} along {axis}" for axis, rho in first.items())
    seen = f"{level} Residuals of neighbours correlate by {seen}"
    name = max(first, key=lambda axis: first[axis])
    if first[name] >= SMALL:
        source = "misfit that goes on over tilts" if name == "tilt" else "structure left behind, or correlated noise"
        return "structure", f"{seen}: {source}; what can be seen in the mean residual is not in the volume."
    if summed >= SUMMED or probability["mean"] < CERTAIN:
        return "structure", f"{seen}, which adds up: what can be seen in the mean residual is not in the volume."
    if min(first.values()) <= OVERFITTED:
        return "overfitted", f"{seen}: the volume follows the noise; a larger --tv-weight leaves more of it behind."
    return "slight", f"{seen}: more than chance, but little; every fit takes some noise with it, hence minus signs."
