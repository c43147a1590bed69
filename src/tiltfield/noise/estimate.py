"""First guesses of the noise from the images: variance against intensity, saturation, quantisation, correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import convolve, uniform_filter
from torch import Tensor

from tiltfield.contrast import all_valid_around, smooth_one
from tiltfield.noise.base import Recording
from tiltfield.series import TiltSeries
from tiltfield.threads import by_image

_BINS, _WIDTH = 24, 5  # classes of the local mean; pixels across which it is taken
ENOUGH = 2**24  # pixels to estimate the noise from: deviations within 0.2 %, as with 67 million
_FEWEST = 5  # images, however large
SLACK = 3e-5  # of the range: single-precision arithmetic moves a saturated value by less, noise by far more
_SMALL_QUANTUM = 0.2  # grey-value steps below this share of the noise deviation may be treated as continuous


@dataclass(frozen=True)
class NoiseLine:
    """Variance of the noise, floor + slope · max(intensity - dark, 0).

    Attributes:
        slope: variance per intensity, > 0.
        floor: variance at the dark level, > 0.
        dark: intensity without electrons.
    """

    slope: float
    floor: float
    dark: float

    def deviation(self, intensity: float) -> float:
        """Return the standard deviation at a clean intensity."""
        return float(np.sqrt(self.floor + self.slope * max(0.0, intensity - self.dark)))


def estimate_noise(images: np.ndarray, valid: np.ndarray | None = None) -> NoiseLine:
    """Return the line through the variance of neighbour differences against the local mean.

    The residual of a pixel against the mean of its four neighbours has 5/4 of the noise variance where the clean image
    is locally linear. Medians over bins of the local mean keep structure and outliers from counting.

    Args:
        images: intensities scaled to about 0 to 1, shape (tilt, row, col). Of a large series some images are enough,
            spread evenly over the tilts.
        valid: bool, same shape: pixels that count, as those that were filled have no noise; None: all.
    """
    n, every = len(images), -(-images.size // ENOUGH)
    every = min(every, max(1, n // _FEWEST))
    chosen = range((n - 1) % every // 2, n, every)
    seen = by_image(lambda k: _seen(images, valid, k), chosen)
    mean, square = (np.concatenate(values) for values in zip(*seen, strict=True))
    edges = np.quantile(np.sort(mean), np.linspace(0, 1, _BINS + 1))
    index = np.concatenate(by_image(lambda m: np.searchsorted(edges, m, side="right") - 1, [m for m, _ in seen]))
    index = np.clip(index, 0, _BINS - 1).astype(np.uint8)
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index, minlength=_BINS))[:-1]
    classes = zip(np.split(mean[order], ends), np.split(square[order], ends), strict=True)
    points = [(float(m.mean()), float(np.median(s))) for m, s in classes if len(m)]
    x, v = np.array(points).T
    slope, level = np.polyfit(x, v, 1)
    typical = max(float(np.median(v)), 1e-8)
    slope = max(float(slope), 0.02 * typical)
    dark = float(min(0.0, x.min()))
    floor = float(max(level + slope * dark, 0.05 * typical))
    return NoiseLine(slope, floor, dark)


def _seen(images: np.ndarray, valid: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return local mean and variance at the pixels of an image, those alone whose neighbours are all valid."""
    mean, square = smooth_one(images, k, _WIDTH), _local_variance(images[k])
    if valid is None:
        return mean.ravel(), square.ravel()
    whole = all_valid_around(valid, k, _WIDTH + 2)
    if not whole.any():
        whole = valid[k]
    return mean[whole], square[whole]


def _local_variance(image: np.ndarray) -> np.ndarray:
    kernel = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]], np.float32)
    return uniform_filter(convolve(image, kernel, mode="nearest") ** 2 / 1.25, _WIDTH, mode="nearest")


def scaled(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return images in units where `low` is 0 and `high` is 1, (I - low) / (high - low), in single precision.

    The one place where that is done: a saturated value becomes the same number wherever it is asked for.

    Args:
        images: intensities, any shape.
        low: intensity that becomes 0.
        high: intensity that becomes 1.
    """
    return (np.asarray(images, np.float32) - np.float32(low)) / np.float32(high - low)


def find_recording(series: TiltSeries, line: NoiseLine, low: float, high: float) -> Recording:
    """Return saturation values and grey-value spacing, in units where `low` is 0 and `high` is 1.

    A series saturates at its extreme value if far more pixels have exactly that value than the one next to it.

    Args:
        series: the tilt series.
        line: its noise, to judge the spacing by.
        low: intensity that becomes 0.
        high: intensity that becomes 1.
    """
    span = high - low
    images = series.images if series.valid is None else series.images[series.valid]
    values, counts = _ends(images)
    ends = [float(end) for end in scaled(np.array(values), low, high)]
    bottom = ends[0] if counts[0] > 20 + 2 * counts[1] else None
    top = ends[1] if counts[2] > 20 + 2 * counts[3] else None
    quantum = None if series.quantum is None else float(series.quantum) / span
    if quantum is not None and quantum < _SMALL_QUANTUM * line.deviation(0.5):
        quantum = None
    return Recording(bottom, top, quantum, SLACK)


def _ends(images: np.ndarray) -> tuple[tuple[float, float], tuple[int, int, int, int]]:
    """Return smallest and largest value, and how many pixels have the smallest, its neighbour, the largest, its.

    The neighbour is the most common value within 2 % of the range.
    """
    low, high = float(images.min()), float(images.max())
    near = 0.02 * (high - low)

    def most_common(part: np.ndarray) -> int:
        return int(np.unique(part, return_counts=True)[1].max()) if part.size else 0

    below = images[(images > low) & (images < low + near)]
    above = images[(images < high) & (images > high - near)]
    return (low, high), (
        int((images == low).sum()),
        most_common(below),
        int((images == high).sum()),
        most_common(above),
    )


def autocorrelation(residuals: Tensor, axis: int, lags: int, used: Tensor | None = None) -> Tensor:
    """Return the correlation of residuals with those 1 to `lags` places on, Σ r_t r_{t+k} / Σ (r_t² + r_{t+k}²)/2.

    Args:
        residuals: of zero mean, any shape.
        axis: along which.
        lags: how many.
        used: bool, same shape: pixels that count; None: all.

    Returns:
        shape (lags,).
    """
    r = residuals.detach().double().movedim(axis, -1)
    w = torch.ones_like(r) if used is None else used.movedim(axis, -1).double()
    rho = r.new_zeros(lags)
    for lag in range(1, lags + 1):
        first, second, both = r[..., :-lag], r[..., lag:], w[..., :-lag] * w[..., lag:]
        power = 0.5 * ((first.square() + second.square()) * both).sum()
        rho[lag - 1] = (first * second * both).sum() / power.clamp_min(1e-30)
    return rho.to(residuals.dtype)
