"""A tilt series: what goes into tiltfield. Frozen and validated, as the volume that comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiltfield.blank import constant_images, image_names, one_value
from tiltfield.errors import InputError
from tiltfield.screening import quantum_of, screen
from tiltfield.volume import Volume, as_array, size_problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TiltSeries", "Volume", "quantum_of", "screen"]

_FEWEST_TILTS = 3
_STEEPEST = 89.0


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """Images of one specimen at many tilts, tilt axis along y (vertical).

    Attributes:
        images: float32, shape (tilt, row, col), in the units of the file; finite everywhere (masked pixels hold
            a local median).
        angles_deg: float64, shape (tilt,), degrees, within ±89, in the order of the images.
        pixel_size_nm: edge of a pixel, nm, or None if unknown.
        valid: bool, shape (tilt, row, col): False where a pixel is dead, hot, or has no data. None: all are valid.
        quantum: spacing of the grey values when the data are counted (integers after any scaling), else None.
        name: what to call it in messages.
        numbers: int, shape (tilt,): of each image in its file, counted from 1 as IMOD does. None: 1, 2, …
        sources: where each fact came from, e.g. {"angles": "needle.rawtlt"}.

    Raises:
        InputError: if one of these does not hold; the message lists everything that is wrong.
    """

    images: np.ndarray
    angles_deg: np.ndarray
    pixel_size_nm: float | None = None
    valid: np.ndarray | None = None
    quantum: float | None = None
    name: str = "series"
    sources: Mapping[str, str] = field(default_factory=dict)
    numbers: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", as_array(self.images, np.float32, "images", self.name))
        object.__setattr__(self, "angles_deg", as_array(self.angles_deg, np.float64, "angles_deg", self.name))
        if self.valid is not None:
            object.__setattr__(self, "valid", np.asarray(self.valid, dtype=bool))
        problems = _shape_problems(self) + _angle_problems(self) + _number_problems(self)
        problems = problems or _image_problems(self)
        if problems:
            raise InputError("\n".join(f"{self.name}: {problem}" for problem in problems))

    def __len__(self) -> int:
        """Return the number of tilts."""
        return len(self.images)

    def __repr__(self) -> str:
        """Return the summary."""
        return "\n  ".join((f"TiltSeries {self.summary()[0]}", *self.summary()[1:]))

    @property
    def tilt_numbers(self) -> np.ndarray:
        """Return the number of each image in its file, counted from 1, shape (tilt,)."""
        return np.arange(1, len(self.images) + 1) if self.numbers is None else np.asarray(self.numbers)

    def binned(self, n: int) -> TiltSeries:
        """Return the series with blocks of n × n pixels averaged; the tilt axis stays in the middle.

        Rows and columns that fill no block are left out on both sides. Where an odd number of columns would be left
        out, there is one block less across if n is odd. Else blocks lie between columns: of n + 1 columns the outer
        two count half, so neighbouring blocks share one, and white noise gets a correlation of 1/(4n - 2) along rows.
        A block is valid if all its pixels are. Means of counts are no counts any more, so `quantum` is lost.

        Args:
            n: edge of a block, pixels, from 1 to the smaller edge of the images.

        Returns:
            the series with pixels n times as large; the same object for n = 1.

        Raises:
            InputError: if `n` is not such a number.
        """
        count, rows, cols = self.images.shape
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= min(rows, cols):
            raise InputError(
                f"{self.name}: bin must be a whole number from 1 to {min(rows, cols)} (the images), got {n}"
            )
        if n == 1:
            return self
        wide = _blocks_across(cols, n)
        images = np.empty((count, rows // n, wide), np.float32)
        for i, image in enumerate(self.images):
            images[i] = np.mean([b.mean(axis=(1, 3), dtype=np.float64) for b in _blocks(image, n, wide)], axis=0)
        valid = None
        if self.valid is not None:
            valid = np.stack([np.all([b.all(axis=(1, 3)) for b in _blocks(v, n, wide)], axis=0) for v in self.valid])
        size = None if self.pixel_size_nm is None else self.pixel_size_nm * n
        sources = {**self.sources, "bin": f"blocks of {n} x {n} pixels averaged"}
        return replace(self, images=images, valid=valid, quantum=None, pixel_size_nm=size, sources=sources)

    def cropped(self, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None) -> TiltSeries:
        """Return the series with images cut to some rows and columns; the tilt axis stays in the middle.

        Args:
            rows: the first, and the one after the last, from 0; None: all.
            columns: likewise; as many are cut off on the left as on the right.

        Returns:
            the smaller series.

        Raises:
            InputError: if they are not such numbers, or the tilt axis would not be in the middle any more.
        """
        high, wide = self.images.shape[1:]
        part = (slice(None), _cut(self.name, "rows", rows, high), _cut(self.name, "columns", columns, wide))
        first, last = part[2].start, part[2].stop
        if first != wide - last:
            raise InputError(
                f"{self.name}: cut off as many columns on the left as on the right, so that the tilt axis stays in the "
                f"middle, got {first} and {wide - last}: take columns=({first}, {wide - first})"
            )
        valid = None if self.valid is None else self.valid[part]
        cut = f"rows {part[1].start} to {part[1].stop - 1}, columns {first} to {last - 1} (from 0)"
        return replace(self, images=self.images[part], valid=valid, sources={**self.sources, "cropped": cut})

    @property
    def images_by_tilt(self) -> np.ndarray:
        """Return the images in the order of their tilts, whatever that of the file; a copy only if they are not."""
        return self._by_tilt(self.images)

    @property
    def valid_by_tilt(self) -> np.ndarray | None:
        """Return `valid` likewise."""
        return None if self.valid is None else self._by_tilt(self.valid)

    def _by_tilt(self, stack: np.ndarray) -> np.ndarray:
        order = np.argsort(self.angles_deg, kind="stable")
        return stack if (order == np.arange(len(self))).all() else stack[order]

    def select(self, indices: slice | Sequence[int] | np.ndarray) -> TiltSeries:
        """Return the series with some of its tilts.

        Args:
            indices: which, in the order wanted, from 0; or a slice; or a bool for each tilt. At least three.

        Returns:
            a series of those tilts.

        Raises:
            InputError: if an index does not exist, or too few tilts are left.
        """
        which = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices)
        if which.dtype == bool and which.shape == self.angles_deg.shape:
            which = np.flatnonzero(which)
        n = len(self.angles_deg)
        if which.ndim != 1 or which.dtype.kind not in "iu" or np.any((which < -n) | (which >= n)):
            raise InputError(
                f"{self.name}: expected a list of tilts from 0 to {n - 1} or {n} yes and no, got {indices!r}"
            )
        valid = None if self.valid is None else self.valid[which]
        numbers = self.tilt_numbers[which]
        return replace(self, images=self.images[which], angles_deg=self.angles_deg[which], valid=valid, numbers=numbers)

    def save(self, path: str | Path) -> Path:
        """Write images, angles, pixel size and valid pixels as NumPy's .npz, which `load` reads as they are.

        Args:
            path: file to write, ending in .npz.

        Returns:
            the path written.

        Raises:
            InputError: for another ending, or if the folder is not there or cannot be written to.
        """
        from tiltfield.io.npy import write_series

        path = Path(path)
        if path.suffix.lower() != ".npz":
            raise InputError(f"{path}: a tilt series is written as NumPy's .npz: give a name that ends in .npz")
        return write_series(self, path)

    def show(self, tilt: int | Sequence[int] | None = None) -> Figure:
        """Draw images side by side, in one grey scale.

        Args:
            tilt: which, from 0, one or several; None: the one nearest 0°.

        Raises:
            InputError: if there is no such tilt.
        """
        from tiltfield.report import draw_images

        chosen = np.atleast_1d(np.argmin(np.abs(self.angles_deg)) if tilt is None else tilt)
        if chosen.dtype.kind not in "iu" or np.any((chosen < -len(self)) | (chosen >= len(self))):
            raise InputError(f"{self.name}: expected tilts from 0 to {len(self) - 1}, got {tilt!r}")
        return draw_images(self, chosen % len(self))

    def summary(self) -> list[str]:
        """Return what the series is and where its facts came from, line by line."""
        count, rows, cols = self.images.shape
        lines = [f"{self.name}: {count} images of {rows} x {cols} pixels{self._from('images')}"]
        lines.append(f"tilts {_span(self.angles_deg)}{self._from('angles')}")
        if self.pixel_size_nm is None:
            lines.append("pixel size unknown (give it with --pixel-size-nm)")
        else:
            lines.append(f"pixel size {self.pixel_size_nm:.4g} nm{self._from('pixel_size')}")
        counted = "" if self.quantum is None else f", in steps of {self.quantum:g}"
        lines.append(f"grey values {self.images.min():.6g} to {self.images.max():.6g}{counted}")
        if self.valid is not None:
            masked = int(np.count_nonzero(~self.valid))
            lines.append(f"{masked} pixels ({100 * masked / self.valid.size:.2g} %) masked")
        told = ("images", "angles", "pixel_size")
        lines += [f"{key.replace('_', ' ')}: {text}" for key, text in self.sources.items() if key not in told]
        return lines

    def _from(self, key: str) -> str:
        return f" (from {self.sources[key]})" if key in self.sources else ""


def _cut(name: str, what: str, ends: tuple[int, int] | None, n: int) -> slice:
    first, last = (0, n) if ends is None else ends
    if not 0 <= first < last <= n:
        raise InputError(f"{name}: expected {what} (first, after the last) within 0 and {n}, got {ends!r}")
    return slice(int(first), int(last))


def _shape_problems(series: TiltSeries) -> list[str]:
    shape = series.images.shape
    if len(shape) != 3 or 0 in shape[1:]:
        return [f"expected images of shape (tilt, row, col), got {shape}"]
    problems = []
    if shape[0] < _FEWEST_TILTS:
        problems.append(f"a tilt series needs at least {_FEWEST_TILTS} tilts, got {shape[0]}; give the whole stack")
    if series.valid is not None and series.valid.shape != shape:
        problems.append(f"the mask of valid pixels has shape {series.valid.shape}, the images {shape}; they must agree")
    if series.numbers is not None and np.shape(series.numbers) != shape[:1]:
        problems.append(f"expected a number for each of {shape[0]} images, got {np.shape(series.numbers)}")
    return problems


def _angle_problems(series: TiltSeries) -> list[str]:
    angles, count = series.angles_deg, len(series.images) if series.images.ndim else 0
    if angles.ndim != 1 or len(angles) != count:
        got = len(angles) if angles.ndim == 1 else f"shape {angles.shape}"
        return [f"expected one tilt angle for each of the {count} images, got {got}; give the right file with --angles"]
    if not np.all(np.isfinite(angles)):
        which = series.tilt_numbers[~np.isfinite(angles)][0]
        return [f"tilt angle {which} (counted from 1) is not a number"]
    if count > 1 and np.all(angles == angles[0]):
        return [
            f"all {count} tilt angles are equal ({angles[0]:g}°); a tilt series needs different ones: check --angles"
        ]
    steep = np.flatnonzero(np.abs(angles) > _STEEPEST)
    if len(steep):
        worst = f"{angles[steep[0]]:g}° for image {series.tilt_numbers[steep[0]]} (counted from 1)"
        return [f"tilt angles must lie within ±{_STEEPEST:g}°, got {worst}; are they degrees, and of the tilt axis?"]
    if count >= _FEWEST_TILTS and np.all(np.abs(angles) < np.pi / 2):
        return [
            f"tilt angles must be degrees, got {angles.min():g} to {angles.max():g}: these look like radians, of which "
            "one is 57.3°; check --angles"
        ]
    return []


def _number_problems(series: TiltSeries) -> list[str]:
    problems = [size_problem("pixel", series.pixel_size_nm)]
    if series.quantum is not None and not (np.isfinite(series.quantum) and series.quantum > 0):
        problems.append(f"the spacing of the grey values must be positive, got {series.quantum}")
    return [problem for problem in problems if problem]


def _image_problems(series: TiltSeries) -> list[str]:
    constant = {}
    names = image_names(len(series), series.angles_deg, series.numbers)
    for name, image in zip(names, series.images, strict=True):
        value = one_value(image)
        if not (np.isfinite(image.min()) and np.isfinite(image.max())):
            return [f"{name} holds NaN or infinite pixels; use screen() to mask them"]
        if value is not None:
            constant[name] = value
    return [constant_images(constant)] if constant else []


def _blocks_across(cols: int, n: int) -> int:
    """Return how many blocks of n columns are taken: if possible so many that an even number of columns is left."""
    wide = cols // n
    return wide - 1 if n % 2 and (cols - wide * n) % 2 and wide > 1 else wide


def _blocks(image: np.ndarray, n: int, wide: int) -> list[np.ndarray]:
    """Return the middle of an image in blocks, shape (row, n, col, n); with an odd number of columns left, twice.

    What lies half a column to the left and half a column to the right of the middle has its mean there.
    """
    high = image.shape[0] // n
    top, left = (image.shape[0] - high * n) // 2, image.shape[1] - wide * n
    rows = image[top : top + high * n]
    return [rows[:, s : s + wide * n].reshape(high, n, wide, n) for s in sorted({left // 2, (left + 1) // 2})]


def _span(angles: np.ndarray) -> str:
    steps = np.diff(angles)
    even = np.ptp(steps) < 0.01
    step = (
        f"in steps of {steps.mean():.4g}°"
        if even
        else f"median step {np.median(np.abs(np.diff(np.sort(angles)))):.4g}°"
    )
    return f"{angles.min():.4g}° to {angles.max():.4g}°, {step}"
