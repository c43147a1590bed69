"""From densities to the values of a file, and the words that say how to go back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tiltfield.config import ExportConfig
from tiltfield.errors import InputError
from tiltfield.io.slabs import in_slabs

DENSITY = "density = "  # begins what `Scaling.words` says
BINS = 2**16  # of the histogram that percentiles are read from
ENOUGH = 10**6  # voxels to find what is shown from
SHOWN = (0.1, 99.9)  # percentiles that are black and white
BYTE_RANGE = (0.001, 0.999)  # shares of the voxels below the least and the greatest byte: a bead must not take them all


@dataclass(frozen=True)
class Scaling:
    """value = factor · density + shift, rounded and cut off if the values are whole numbers.

    Attributes:
        dtype: of the values.
        factor: values per unit of density; negative if dense is dark. Never 0.
        shift: value of zero density.
        cut_off: share of the voxels whose values are cut off, 0 to 1.
    """

    dtype: np.dtype
    factor: float = 1.0
    shift: float = 0.0
    cut_off: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the values are the densities."""
        return self.factor == 1 and self.shift == 0 and self.dtype == np.float32

    def apply(self, density: np.ndarray) -> np.ndarray:
        """Return densities as values of the file.

        Args:
            density: any shape.
        """
        if self.is_plain:
            return density.astype(np.float32, copy=False)
        values = density * np.float32(self.factor) + np.float32(self.shift)
        if self.dtype.kind == "f":
            return values.astype(self.dtype, copy=False)
        return np.clip(np.rint(values, out=values), *ends(self.dtype), out=values).astype(self.dtype)

    @property
    def inverse(self) -> tuple[float, float]:
        """Return (step, zero): density = step · value + zero."""
        return 1 / self.factor, 0.0 - self.shift / self.factor

    def words(self) -> str:
        """Return how to get the density back, as "density = 0.5 * value - 1"; empty if the values are densities."""
        if self.is_plain:
            return ""
        step, zero = self.inverse
        rest = f" {'-' if zero < 0 else '+'} {abs(zero):.7g}" if zero else ""
        return f"{DENSITY}{step:.7g} * value{rest}"


PLAIN = Scaling(np.dtype(np.float32))


def find_scaling(data: np.ndarray, config: ExportConfig) -> Scaling:
    """Return the scaling that the settings ask for.

    Whole numbers span what there is: 16 bits from minimum to maximum, 8 bits from the 0.1 to the 99.9 percentile. With
    a mean given, values are rounded as they come, so that the mean is what was asked for.

    Args:
        data: densities, shape (z, y, x).
        config: the settings.

    Raises:
        InputError: if a mean is asked for and that of the densities is not positive.
    """
    dtype, sign = np.dtype(config.dtype), -1.0 if config.invert else 1.0
    if config.mean_intensity is not None:
        factor = sign * config.mean_intensity / _positive_mean(data)
        shift = 2 * config.mean_intensity if config.invert else 0.0
        return _counted(data, Scaling(dtype, factor, shift))
    if dtype.kind == "f":
        return Scaling(dtype, sign)
    low, high = extremes(data)
    if dtype.itemsize == 1:
        low, high = percentiles(data, low, high, BYTE_RANGE)
    least, greatest = ends(dtype)
    factor = sign * (greatest - least) / (high - low) if high > low else sign
    return _counted(data, Scaling(dtype, factor, least - factor * (high if config.invert else low)))


def ends(dtype: np.dtype) -> tuple[int, int]:
    """Return the least and the greatest whole number that is written.

    Those of signed types are ± the same: Bio-Formats takes 16 bits of MRC that reach -32768 for unsigned ones.

    Args:
        dtype: a type of whole numbers.
    """
    kind = np.iinfo(dtype)
    return max(int(kind.min), -int(kind.max)), int(kind.max)


def display_range(data: np.ndarray, scaling: Scaling = PLAIN) -> tuple[float, float]:
    """Return the values that a viewer is to show black and white: the 0.1 and the 99.9 percentile, never the same.

    Args:
        data: densities, shape (z, y, x); about a million of them are looked at.
        scaling: from densities to the values shown.
    """
    step = max(1, round((data.size / ENOUGH) ** (1 / 3)))
    low, high = (float(v) for v in np.percentile(scaling.apply(data[::step, ::step, ::step]), SHOWN))
    return low, high if high > low else low + 1.0


def extremes(data: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest value.

    Args:
        data: shape (z, y, x).
    """
    pairs = np.array([(part.min(), part.max()) for part in in_slabs(data)])
    return float(pairs[:, 0].min()), float(pairs[:, 1].max())


def percentiles(data: np.ndarray, low: float, high: float, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return values below which given shares of all lie, to 1/65536 of the range.

    Args:
        data: shape (z, y, x).
        low: least value.
        high: greatest value.
        shares: 0 to 1, each.
    """
    if low == high:
        return tuple(low for _ in shares)
    counts = np.zeros(BINS, np.int64)
    for part in in_slabs(data):
        counts += np.histogram(part, BINS, (low, high))[0]
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return tuple(float(v) for v in np.interp(shares, below, np.linspace(low, high, BINS + 1)))


def _counted(data: np.ndarray, scaling: Scaling) -> Scaling:
    """Return the scaling with the share that it cuts off, by more than rounding would."""
    if scaling.dtype.kind == "f":
        return scaling
    (least, greatest), (step, zero) = ends(scaling.dtype), scaling.inverse
    low, high = sorted(step * value + zero for value in (least - 0.51, greatest + 0.51))
    beyond = sum(int(np.count_nonzero((part < low) | (part > high))) for part in in_slabs(data))
    return replace(scaling, cut_off=beyond / data.size)


def _positive_mean(data: np.ndarray) -> float:
    mean = sum(float(part.sum(dtype=np.float64)) for part in in_slabs(data)) / data.size
    if mean > 0:
        return mean
    raise InputError(
        f"--mean-intensity scales a volume of positive mean, this one's is {mean:.4g}: leave it out, or give --dtype, "
        "which spans whatever there is"
    )
