"""From line integrals to intensities: bright field and HAADF, and what the data themselves say of gain and offset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import minimum_filter, uniform_filter
from scipy.optimize import least_squares
from torch import Tensor, nn

from tiltfield.errors import InputError
from tiltfield.screening import quantile
from tiltfield.series import TiltSeries
from tiltfield.threads import by_image

ContrastMode = Literal["bf", "haadf"]

DEPTH = 7.0  # I = exp(-7 ∫ρ dl) over a box [-1, 1]: the optical depth of the paper's images (Kniesel et al., CVPR 2022)
_CENTRE = 0.3  # share of the columns around the tilt axis in which a slab fills the view at every tilt
_DARK_OFFSET = -0.04  # offset, from the darkest level, in units of the range, where nothing better is known
_NO_VACUUM = 2.5  # a free gain must explain the means so many times better before vacuum counts as not in view
_TRANSMISSION_FLOOR = 0.05  # classical methods take the logarithm of noisy transmissions no lower than this


@dataclass(frozen=True)
class Levels:
    """What the intensities of a series mean, in the units of its images.

    Attributes:
        low: darkest clean intensity, robustly.
        high: brightest clean intensity.
        offset: intensity without signal (bf: nothing transmitted; haadf: vacuum).
        gain: bf: intensity of vacuum above the offset; haadf: intensity per unit depth.
        depth: typical line integral through the specimen at zero tilt.
    """

    low: float
    high: float
    offset: float
    gain: float
    depth: float


class Contrast(nn.Module):
    """Intensity of a line integral: bf I = o + g·exp(-∫ρ dl), haadf I = o + g·∫ρ dl.

    In bright field gain and offset are both refined with the field. In HAADF the gain is the unit of the
    density, a gauge, and fixed.
    """

    def __init__(self, mode: ContrastMode, offset: float, gain: float) -> None:
        """Start from estimated levels.

        Args:
            mode: "bf" or "haadf".
            offset: o, in the units of the images.
            gain: g, likewise.
        """
        super().__init__()
        self.mode = mode
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.gain = nn.Parameter(torch.tensor(float(gain)), requires_grad=mode == "bf")

    def forward(self, line_integrals: Tensor) -> Tensor:
        """Return intensities of line integrals, any shape."""
        signal = torch.exp(-line_integrals) if self.mode == "bf" else line_integrals
        return self.offset + self.gain * signal

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": learning_rate}]


def smooth(images: np.ndarray, width: int) -> np.ndarray:
    """Return running means over `width` pixels of each image, to see clean intensities through the noise.

    Args:
        images: shape (tilt, row, col).
        width: pixels, ≥ 1.
    """
    means = np.empty(images.shape, np.float32)

    def put(k: int) -> None:
        means[k] = smooth_one(images, k, width)

    by_image(put, range(len(images)))
    return means


def smooth_one(images: np.ndarray, k: int, width: int) -> np.ndarray:
    """Return the means over `width` × `width` pixels of one image and the two beside it; at the ends it counts twice.

    Args:
        images: shape (tilt, row, col).
        k: which, from 0.
        width: pixels, ≥ 1.
    """
    mean = np.add(images[max(k - 1, 0)], images[k], dtype=np.float64)
    mean += images[min(k + 1, len(images) - 1)]
    mean /= 3
    return uniform_filter(mean.astype(np.float32), width, mode="nearest")


def all_valid_around(valid: np.ndarray, k: int, width: int) -> np.ndarray:
    """Return where :func:`smooth_one` averages over valid pixels alone, bool, shape (row, col).

    Args:
        valid: bool, shape (tilt, row, col).
        k: which image, from 0.
        width: pixels, ≥ 1.
    """
    near = valid[max(k - 1, 0)] & valid[k] & valid[min(k + 1, len(valid) - 1)]
    return np.asarray(minimum_filter(near, width, mode="nearest"))


def decide_mode(series: TiltSeries) -> tuple[ContrastMode, str]:
    """Tell bright field from HAADF by how the intensity changes with tilt.

    Around the tilt axis a slab is 1/cos θ times as thick at tilt θ: bright field darkens, HAADF brightens. Where the
    thickness does not change so (a needle), vacuum beside the specimen tells: it is the brightest in bright field and
    the darkest in HAADF.

    Args:
        series: the tilt series.

    Returns:
        the mode, and the reason in words.

    Raises:
        InputError: if neither tells; the message asks for ``--mode``.
    """
    slope, certainty = _slope_with_thickness(series)
    if certainty > 6 and abs(slope) > 0.05:
        mode: ContrastMode = "haadf" if slope > 0 else "bf"
        verb = "brighten" if slope > 0 else "darken"
        return mode, f"{mode}: images {verb} by {abs(slope):.0%} of their range as the path 1/cos θ doubles"
    vacuum = _vacuum_contrast(series)
    if abs(vacuum) > 0.25:
        mode = "haadf" if vacuum > 0 else "bf"
        return mode, f"{mode}: the specimen is {'brighter' if vacuum > 0 else 'darker'} than the vacuum beside it"
    raise InputError(
        f"{series.name}: cannot tell bright field from HAADF: the intensity changes by {slope:+.1%} of its range as "
        "the path through a slab doubles, and no vacuum is seen beside the specimen; say which with --mode bf or "
        "--mode haadf, and check the tilt axis (--tilt-axis) and the alignment, on which this rests"
    )


def _slope_with_thickness(series: TiltSeries) -> tuple[float, float]:
    """Return the change of the central mean as 1/cos θ doubles, over the range of the images, and its t value."""
    mean, path = _central_means(series)
    design = np.stack([path, np.ones_like(path)], axis=1)
    fit, *_ = np.linalg.lstsq(design, mean, rcond=None)
    scatter = np.sqrt(np.sum((mean - design @ fit) ** 2) / max(1, len(mean) - 2))
    error = scatter / max(1e-12, np.sqrt(np.sum((path - path.mean()) ** 2)))
    low, high = clean_range(series)
    return float(fit[0] / (high - low)), float(abs(fit[0]) / max(error, np.finfo(float).tiny))


def _central_means(series: TiltSeries) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of every image around the tilt axis, and the path 1/cos θ through a slab; shape each (tilt,)."""
    n = series.images.shape[2]
    half = max(1, round(n * _CENTRE / 2))
    columns = (slice(None), slice(None), slice(n // 2 - half, n // 2 + half))
    return _valid_mean(series, columns, (1, 2)), 1 / np.cos(np.deg2rad(series.angles_deg))


def _valid_mean(series: TiltSeries, part: tuple[slice, ...], axes: tuple[int, int]) -> np.ndarray:
    """Return means over two axes of the pixels that are valid; of all, which have been filled, where none is."""
    images = series.images[part]
    every = np.asarray(images.mean(axis=axes, dtype=np.float64))
    if series.valid is None:
        return every
    valid = series.valid[part]
    count = valid.sum(axis=axes)
    total = images.sum(axis=axes, dtype=np.float64, where=valid)
    return np.where(count > 0, total / np.maximum(count, 1), every)


def _vacuum_contrast(series: TiltSeries) -> float:
    """Return (centre - sides) / range at the column profile, if it is no noise and both sides are alike, else 0."""
    profile = _valid_mean(series, (slice(None),), (0, 1))
    edge = max(1, len(profile) // 20)
    sides = np.array([profile[:edge].mean(), profile[-edge:].mean()])
    spread = profile.max() - profile.min()
    middle = profile[len(profile) // 3 : -(len(profile) // 3)].mean()
    error = float(series.images.std(axis=(0, 1), dtype=np.float64).mean()) / math.sqrt(series.images[:, :, 0].size)
    if spread <= 10 * error or abs(sides[0] - sides[1]) > 0.25 * spread:  # noise alone spans up to 8 errors
        return 0.0
    return float((middle - sides.mean()) / spread)


def clean_range(series: TiltSeries) -> tuple[float, float]:
    """Return the range of the clean intensities: the extremes of locally averaged images.

    Args:
        series: the tilt series.

    Returns:
        darkest and brightest level, in the units of the images.
    """
    width = max(1, min(5, min(series.images.shape[1:]) // 4))
    means, valid = smooth(series.images_by_tilt, width), series.valid_by_tilt
    if valid is not None:
        whole = np.stack(by_image(lambda k: all_valid_around(valid, k, width), range(len(valid))))
        means = means[whole] if np.count_nonzero(whole) > 1 else means
    low, high = (quantile(means, share) for share in (0.001, 0.999))
    if not high > low:
        raise InputError(f"{series.name}: the images hold no contrast (all means are {low:g}); check the file")
    return float(low), float(high)


def estimate_levels(series: TiltSeries, mode: ContrastMode) -> Levels:
    """Estimate gain, offset and depth from how the central mean follows o + g·exp(-τ/cos θ), or o + g·τ/cos θ.

    In bright field the brightest level is taken for o + g, unless the means say clearly that no vacuum is in view; in
    HAADF the darkest is taken for o. They start the fit, which refines them.

    Args:
        series: the tilt series.
        mode: contrast.
    """
    low, high = clean_range(series)
    mean, path = _central_means(series)
    unit = (mean - low) / (high - low)
    if mode == "haadf":
        depth = float(np.clip(np.median(unit / path), 0.05, 1.0))
        return Levels(low, high, low, high - low, depth)
    offset, gain, depth = _bright_field_levels(unit, path)
    return Levels(low, high, low + offset * (high - low), gain * (high - low), depth)


def _bright_field_levels(mean: np.ndarray, path: np.ndarray) -> tuple[float, float, float]:
    """Return o, g and τ of o + g·exp(-τ·path), in units of the range of the images.

    A section that fills every image shows no vacuum, and g lies beyond the range. Gain and offset are not both to be
    told from the means: with the gain free, the offset is a little below the darkest level.
    """
    seen = least_squares(
        lambda p: p[0] + (1 - p[0]) * np.exp(-p[1] * path) - mean,
        x0=[_DARK_OFFSET, 1.5],
        bounds=([-0.1, 0.1], [0.0, 5.0]),
    )
    unseen = least_squares(
        lambda p: _DARK_OFFSET + p[0] * np.exp(-p[1] * path) - mean, x0=[1.0, 1.5], bounds=([1.0, 0.1], [20.0, 5.0])
    )
    if seen.cost > _NO_VACUUM * unseen.cost:
        return _DARK_OFFSET, float(unseen.x[0]), float(unseen.x[1])
    return float(seen.x[0]), float(1 - seen.x[0]), float(seen.x[1])


def linearise(images: np.ndarray, mode: ContrastMode, levels: Levels) -> np.ndarray:
    """Return line integrals, as the classical methods need them.

    bf: -log of the transmission (I - o)/g, no lower than 0.05 lest the noise be blown up; haadf: (I - o)/g.

    Args:
        images: any shape, in the units of the series.
        mode: contrast.
        levels: gain and offset.
    """
    signal = (images - levels.offset) / levels.gain
    return (-np.log(np.maximum(signal, _TRANSMISSION_FLOOR)) if mode == "bf" else signal).astype(np.float32)
