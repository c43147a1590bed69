"""How close one array is to another: PSNR, SSIM, Fourier shell correlation; and one distribution to another.

Pure functions of numpy arrays.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from tiltfield.errors import InputError

Scaling = Literal["affine", "minmax"]


def affine_fit(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Return the scale a and shift b that bring an estimate closest to the truth, min Σ (a·estimate + b - truth)².

    Args:
        estimate: any shape and unit.
        truth: same shape.
        mask: bool, same shape: where to sum; everywhere if None.

    Returns:
        scale and shift; a constant estimate gets scale 0.

    Raises:
        InputError: if shapes differ or the mask is empty.
    """
    x, y = _selected(estimate, truth, mask)
    dx = x - x.mean()
    power = float(dx @ dx)
    scale = float(dx @ (y - y.mean())) / power if power > 0 else 0.0
    return scale, float(y.mean() - scale * x.mean())


def mse_affine(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the mean squared error after the best affine fit, in the truth's unit squared.

    Args:
        estimate: any shape and unit.
        truth: same shape.
        mask: bool, same shape: where to fit and to average; everywhere if None.

    Raises:
        InputError: if shapes differ or the mask is empty.
    """
    scale, shift = affine_fit(estimate, truth, mask)
    x, y = _selected(estimate, truth, mask)
    return float(np.mean((scale * x + shift - y) ** 2))


def psnr_affine(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio after the best affine fit, 10 log10(peak² / MSE).

    Args:
        estimate: any shape and unit.
        truth: same shape; its range over the whole array is the peak, with a mask too.
        mask: bool, same shape: where to fit and to average; everywhere if None.

    Returns:
        dB; infinite for a perfect fit.

    Raises:
        InputError: if shapes differ, the mask is empty, or the truth is constant.
    """
    return _decibels(_range(truth, "truth"), mse_affine(estimate, truth, mask))


def mse_minmax(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean squared error after both arrays are scaled to [0, 1] by their minimum and maximum.

    Args:
        estimate: any shape and unit.
        truth: same shape.

    Returns:
        0 to 1. One outlying voxel moves it: that is the published measure.

    Raises:
        InputError: if shapes differ or the truth is constant.

    Kniesel et al., CVPR 2022; its tables show 100 times this.
    """
    _check_shapes(estimate, truth)
    _range(truth, "truth")
    return float(np.mean((_minmax(estimate) - _minmax(truth)) ** 2))


def psnr_minmax(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of arrays scaled to [0, 1], -10 log10(MSE).

    Args:
        estimate: any shape and unit.
        truth: same shape.

    Returns:
        dB; infinite if equal.

    Raises:
        InputError: if shapes differ or the truth is constant.

    Kniesel et al., CVPR 2022.
    """
    return _decibels(1.0, mse_minmax(estimate, truth))


def ssim(estimate: np.ndarray, truth: np.ndarray, scaling: Scaling = "affine") -> float:
    """Return the mean structural similarity, in windows of 7 samples along every axis.

    Args:
        estimate: shape (row, col) or (z, y, x), any unit.
        truth: same shape.
        scaling: bring the estimate to the truth by the best affine fit, with the truth's range as the data range;
            or scale both to [0, 1] by minimum and maximum, as the paper does.

    Returns:
        at most 1.

    Raises:
        InputError: if shapes differ, the truth is constant, or an axis is shorter than 3.

    Wang et al., IEEE Trans. Image Process. 13 (2004).
    """
    from skimage.metrics import structural_similarity

    _check_shapes(estimate, truth)
    window = min(7, *truth.shape)
    if window < 3:
        raise InputError(f"SSIM needs at least 3 samples along every axis, got shape {truth.shape}")
    peak = _range(truth, "truth")
    if scaling == "minmax":
        fitted, target, peak = _minmax(estimate), _minmax(truth), 1.0
    else:
        scale, shift = affine_fit(estimate, truth)
        fitted, target = scale * np.asarray(estimate, float) + shift, np.asarray(truth, float)
    return float(structural_similarity(fitted, target, win_size=window - (window + 1) % 2, data_range=peak))


def fsc(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fourier shell correlation of two volumes, Σ Re(A B*) / sqrt(Σ|A|² Σ|B|²) over each shell.

    Shells are 1 / (longest edge) cycles per voxel wide; the mean is left out.

    Args:
        a: volume, shape (z, y, x), edges may differ.
        b: same shape.
        where: bool, shape of ``numpy.fft.rfftn(a)``: Fourier components that count; None: all.

    Returns:
        frequency in cycles per voxel, from the first shell to Nyquist (0.5), and correlation, -1 to 1; 0 where a
        shell of either volume is empty.

    Raises:
        InputError: if shapes differ.

    Harauz & van Heel, Optik 73 (1986).
    """
    _check_shapes(a, b)
    edge = max(a.shape)
    shell, weight = half_shells(a.shape)
    weight = weight if where is None else weight * where
    fa, fb = np.fft.rfftn(a), np.fft.rfftn(b)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, (values * weight).ravel(), edge // 2 + 1)[1 : edge // 2 + 1]

    cross = summed((fa * fb.conj()).real)
    power = np.sqrt(summed(np.abs(fa) ** 2) * summed(np.abs(fb) ** 2))
    correlation = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
    return np.arange(1, edge // 2 + 1) / edge, correlation


def curve_resolution(
    frequency: np.ndarray, correlation: np.ndarray, threshold: float, voxel_size_nm: float | None = None
) -> float:
    """Return the period at which a correlation curve first falls below a threshold, interpolated linearly.

    Args:
        frequency: increasing, cycles per voxel, shape (shell,).
        correlation: shape (shell,); it is taken to be 1 at frequency 0.
        threshold: below 1.
        voxel_size_nm: edge of a voxel, nm.

    Returns:
        nm, or voxels if no voxel size is given. A curve that never falls below the threshold gives the period of its
        last frequency, that is Nyquist, 2 voxels: no better can be told.
    """
    f, c = np.append(0.0, frequency), np.append(1.0, correlation)
    below = np.flatnonzero(c < threshold)
    crossing = f[-1]
    if len(below):
        k = below[0]
        crossing = f[k - 1] + (c[k - 1] - threshold) / (c[k - 1] - c[k]) * (f[k] - f[k - 1])
    return (voxel_size_nm or 1.0) / float(crossing)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two histograms, ½ Σ p log₂(p/m) + ½ Σ q log₂(q/m), m = (p + q)/2.

    Args:
        p: counts or probabilities ≥ 0, any shape; scaled to sum 1.
        q: same bins.

    Returns:
        bits, 0 (equal) to 1 (disjoint).

    Raises:
        InputError: if shapes differ, or a histogram is negative or empty.

    Lin, IEEE Trans. Inf. Theory 37 (1991) 145.
    """
    p, q = _histograms(p, q)
    middle = (p + q) / 2
    return 0.5 * sum(float(np.sum(h[h > 0] * np.log2(h[h > 0] / middle[h > 0]))) for h in (p, q))


def bhattacharyya(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Bhattacharyya coefficient of two histograms, Σ √(p q).

    Args:
        p: counts or probabilities ≥ 0, any shape; scaled to sum 1.
        q: same bins.

    Returns:
        0 (disjoint) to 1 (equal).

    Raises:
        InputError: if shapes differ, or a histogram is negative or empty.

    Bhattacharyya, Bull. Calcutta Math. Soc. 35 (1943) 99.
    """
    p, q = _histograms(p, q)
    return min(1.0, float(np.sum(np.sqrt(p * q))))


def bhattacharyya_distance(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Bhattacharyya distance of two histograms, -ln Σ √(p q).

    Args:
        p: as for :func:`bhattacharyya`.
        q: as there.

    Returns:
        0 (equal) to infinite (disjoint).

    Raises:
        InputError: as there.
    """
    coefficient = bhattacharyya(p, q)
    return -math.log(coefficient) if coefficient > 0 else math.inf


def _histograms(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both scaled to sum 1."""
    _check_shapes(p, q)
    scaled = []
    for h in (np.asarray(p, float), np.asarray(q, float)):
        if not (np.all(h >= 0) and 0 < h.sum() < math.inf):
            raise InputError("expected histograms that are not negative and not empty: check the range of their bins")
        scaled.append(h / h.sum())
    return scaled[0], scaled[1]


def half_shells(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return each component's shell, |k| · edge rounded, and how often it stands in the whole spectrum.

    Args:
        shape: of an array of which ``numpy.fft.rfftn`` makes half a spectrum; its longest side is the edge.

    Returns:
        shells, int, raveled, and weights, 1 or 2, of the half spectrum's last axis.
    """
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    radius = np.sqrt(sum(f**2 for f in np.ix_(*axes)))
    weight = np.full(radius.shape[-1], 2.0)
    weight[0] = 1.0
    if shape[-1] % 2 == 0:
        weight[-1] = 1.0
    return np.rint(radius * max(shape)).astype(np.int64).ravel(), weight


def _check_shapes(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise InputError(f"expected arrays of one shape, got {np.shape(a)} and {np.shape(b)}: crop or bin one of them")


def _selected(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays where the mask holds, as flat float64."""
    _check_shapes(estimate, truth)
    if mask is None:
        return np.asarray(estimate, float).ravel(), np.asarray(truth, float).ravel()
    _check_shapes(mask, truth)
    chosen = np.asarray(mask, bool)
    if not chosen.any():
        raise InputError("the mask is empty: nothing to compare")
    return np.asarray(estimate, float)[chosen], np.asarray(truth, float)[chosen]


def _range(values: np.ndarray, name: str) -> float:
    span = float(np.max(values)) - float(np.min(values))
    if span == 0:
        raise InputError(
            f"the {name} is constant ({float(np.min(values)):g}): there is no range to measure errors against"
        )
    return span


def _minmax(values: np.ndarray) -> np.ndarray:
    """Return values scaled to [0, 1]; a constant becomes 0."""
    low, high = float(np.min(values)), float(np.max(values))
    return (np.asarray(values, float) - low) / ((high - low) or 1.0)


def _decibels(peak: float, mse: float) -> float:
    return 20 * math.log10(peak) - 10 * math.log10(mse) if mse > 0 else math.inf
