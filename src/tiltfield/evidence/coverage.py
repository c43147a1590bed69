"""Whether an uncertainty is what it says: how its intervals cover the truth, and how errors grow with it."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr


def errors(volume: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return volume - truth in the unit of the volume, the truth brought there by the scale that suits it best.

    The scale of a density is a gauge; its zero, the vacuum, is not. The scale s minimises Σ (s·volume - truth)².

    Args:
        volume: shape (z, y, x).
        truth: same shape, any unit.
    """
    v, t = np.asarray(volume, np.float64), np.asarray(truth, np.float64)
    scale = float(np.vdot(v, t) / np.vdot(v, v))
    return v - t / scale


def coverage(error: np.ndarray, deviation: np.ndarray, width: float) -> float:
    """Return the share of voxels with |error| ≤ width × deviation.

    Args:
        error: any shape.
        deviation: same shape, > 0.
        width: of the interval on either side, in deviations.
    """
    return float(np.mean(np.abs(error) <= width * deviation))


def widths(error: np.ndarray, deviation: np.ndarray, levels: tuple[float, ...]) -> dict[float, float]:
    """Return the width that covers each share of voxels, a quantile of |error| / deviation.

    Args:
        error: any shape.
        deviation: same shape, > 0.
        levels: shares, 0 to 1.
    """
    ratio = np.abs(error) / deviation
    return {level: float(np.quantile(ratio, level)) for level in levels}


def rank_correlation(error: np.ndarray, deviation: np.ndarray) -> float:
    """Return Spearman's correlation of |error| with the deviation, voxel by voxel.

    Even a perfect deviation scores far below 1: an error is one draw from its law.

    Args:
        error: any shape.
        deviation: same shape.
    """
    return float(spearmanr(np.abs(error).ravel(), deviation.ravel()).statistic)


def error_by_deviation(error: np.ndarray, deviation: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean deviation and the root mean square error in bins of equally many voxels, by rising deviation.

    Args:
        error: any shape.
        deviation: same shape.
        bins: how many.
    """
    order = np.argsort(deviation, axis=None)
    parts = np.array_split(order, bins)
    e, u = error.ravel(), deviation.ravel()
    return (
        np.array([u[part].mean(dtype=np.float64) for part in parts]),
        np.array([np.sqrt(np.mean(e[part].astype(np.float64) ** 2)) for part in parts]),
    )
