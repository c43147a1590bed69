"""The conventions of tiltfield, written once.

Arrays
    Images are ``(tilt, row, col)``, volumes ``(z, y, x)``; rows are y, columns are x.

Tilt axis
    y, vertical in the image, as in an IMOD-aligned stack. Every plane of constant y is imaged onto one row.

Projection
    With all coordinates centred, ``(N - 1) / 2`` in index units, a point (x, z) at tilt θ lands in the column ::

        u = x cos θ + z sin θ                       beam ↓ (θ = 0)
                                                ┌──────────────→ x
        and lies, along the beam, at            │  slice of constant y
                                                │
        s = -x sin θ + z cos θ                  ↓ z (grows with the slice index)

Units
    Degrees at the border (files, CLI, config), radians inside. Lengths in nm, named so (``pixel_size_nm``); inside a
    fit lengths are in pixels. MRC voxel sizes are Å and are converted in :mod:`tiltfield.io.mrc` alone.

Other programs
    ASTRA ``parallel`` (2D) with angle φ and volume rows growing downwards projects to u = x cos φ - row sin φ:
    use φ = -θ.
    IMOD's ``tilt`` projects its slices to x cos θ - row sin θ (sinBeta in tilt.f90): rows run against z, and after
    ``trimvol -rx``, which turns them by -90° about x, its volumes lie as ours do. See ``turned`` in export/image.py.
    IMOD's transforms (.xf), six numbers a line, A11 A12 A21 A22 DX DY, move a point (x, y) = (column, row), counted
    from the image's centre (N - 1) / 2, to x' = A11 x + A12 y + DX, y' = A21 x + A22 y + DY. Shifts are pixels and
    come after the matrix; y grows with the row of the file, which IMOD shows upwards and tiltfield downwards, so that
    the numbers hold for arrays as they are. (Man pages of xf2rotmagstr and newstack.)
    IMOD and SerialEM count the tilt axis as tiltfield does, counter-clockwise from the vertical, but look at an image
    with its first row at the bottom: their 84° is tiltfield's -84°.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ROUNDING = 0.01  # pixel: files of transforms are rounded to thousandths


def centred(n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Return centred coordinates ``i - (n - 1) / 2`` of `n` samples, in pixels.

    Args:
        n: number of samples, > 0.
        dtype: type of the result.
        device: where it lives.

    Returns:
        shape (n,), from -(n-1)/2 to (n-1)/2.
    """
    return torch.arange(n, dtype=dtype, device=device) - (n - 1) / 2


def detector_coordinate(x: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    """Return the column coordinate u = x cos θ + z sin θ.

    Args:
        x: centred x, pixels.
        z: centred z, pixels, broadcastable with `x`.
        theta: tilt, radians, broadcastable with `x` and `z`.

    Returns:
        centred column coordinate, pixels.
    """
    return x * torch.cos(theta) + z * torch.sin(theta)


@dataclass(frozen=True)
class SliceGeometry:
    """One plane of constant y and the detector rows that see it.

    Attributes:
        n_z: samples of the slice along the beam at zero tilt.
        n_x: samples of the slice across the beam (may exceed `n_u`: padding beside the field of view).
        n_u: detector columns.
        angles: tilts, radians.
    """

    n_z: int
    n_x: int
    n_u: int
    angles: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.n_z, self.n_x, self.n_u, len(self.angles)) < 1:
            raise ValueError(f"a slice needs at least one sample, column and tilt, got {self}")
        if any(not math.isfinite(a) or abs(a) >= math.pi / 2 for a in self.angles):
            raise ValueError("tilts must be finite and within (-90°, 90°)")

    @classmethod
    def from_degrees(cls, n_z: int, n_x: int, n_u: int, angles_deg: np.ndarray) -> SliceGeometry:
        """Build the geometry from tilts in degrees.

        Args:
            n_z: slice samples along z.
            n_x: slice samples along x.
            n_u: detector columns.
            angles_deg: tilts in degrees, shape (tilt,).
        """
        return cls(n_z, n_x, n_u, tuple(float(a) for a in np.deg2rad(np.asarray(angles_deg, dtype=float))))

    @property
    def n_tilts(self) -> int:
        """Number of tilts."""
        return len(self.angles)


def side_padding(thickness: float, angles_deg: np.ndarray) -> int:
    """Return the columns to add on each side so that tilted rays stay inside the box.

    A ray through the edge of the field of view drifts by at most ``(thickness / 2) · tan θ_max`` inside a slab.

    Args:
        thickness: extent of the slab along z, pixels.
        angles_deg: tilts, degrees, shape (tilt,).

    Returns:
        whole pixels, ≥ 0.
    """
    return math.ceil(thickness / 2 * math.tan(math.radians(float(np.max(np.abs(angles_deg))))))


def full_padding(n_u: int, thickness: float, angles_deg: np.ndarray) -> int:
    """Return the columns to add on each side so that every ray stays inside the box all the way through the slab.

    The ray at detector column u passes z at x = (u - z sin θ) / cos θ, which for |u| ≤ n_u/2 and |z| ≤ t/2 is at most
    ``n_u / (2 cos θ) + (t / 2) · tan θ``.

    Args:
        n_u: detector columns.
        thickness: t, extent of the slab along z, pixels.
        angles_deg: tilts, degrees, shape (tilt,).

    Returns:
        whole pixels, ≥ 0.
    """
    steepest = math.radians(float(np.max(np.abs(angles_deg))))
    return math.ceil(n_u / 2 * (1 / math.cos(steepest) - 1) + thickness / 2 * math.tan(steepest))


def axis_degrees(tilt_axis: str | float) -> float:
    """Return the tilt axis in degrees.

    Args:
        tilt_axis: "y" (0°), "x" (90°), or the angle in degrees, counted counter-clockwise as seen on screen, first row
            at the top, from the vertical.

    Raises:
        ValueError: if it is none of these.
    """
    if tilt_axis in ("x", "y"):
        return 90.0 if tilt_axis == "x" else 0.0
    try:
        return float(tilt_axis)
    except ValueError:
        raise ValueError(f"tilt axis must be 'y', 'x' or an angle in degrees, got '{tilt_axis}'") from None


def orient(images: np.ndarray, tilt_axis: str | float) -> np.ndarray:
    """Turn images by quarters so that the tilt axis is vertical (along the rows' y), exactly.

    Args:
        images: shape (tilt, row, col).
        tilt_axis: as :func:`axis_degrees` takes it; a multiple of 90°. By other angles :class:`Placement` turns.

    Returns:
        shape (tilt, row', col'), the same array for "y".

    Raises:
        ValueError: if `tilt_axis` is no such axis.
    """
    degrees = axis_degrees(tilt_axis)
    if degrees % 90:
        raise ValueError(f"expected a tilt axis at a multiple of 90°, got {degrees:g}°")
    quarter = int(degrees // 90) % 4
    return np.ascontiguousarray(np.rot90(images, k=-quarter, axes=(1, 2))) if quarter else images


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the pixels of each image go: x' = A x + d, x = (column, row) from the centre of an image, in pixels.

    Attributes:
        matrices: A, shape (image, 2, 2), invertible.
        shifts: d, shape (image, 2), pixels, columns before rows.
    """

    matrices: np.ndarray
    shifts: np.ndarray

    @classmethod
    def unmoved(cls, n: int) -> Placement:
        """Return that of `n` images that stay where they are.

        Args:
            n: number of images.
        """
        return cls(np.tile(np.eye(2), (n, 1, 1)), np.zeros((n, 2)))

    def turned(self, degrees: float) -> Placement:
        """Return this followed by the turn that makes a tilt axis at `degrees` vertical.

        Args:
            degrees: the axis, as :func:`axis_degrees` gives it.
        """
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.array([[cos, -sin], [sin, cos]])
        return Placement(turn @ self.matrices, self.shifts @ turn.T)

    @property
    def turn(self) -> float:
        """Degrees by which the images are turned on the whole: a tilt axis at so many degrees becomes vertical."""
        mean = self.matrices.mean(axis=0)
        return math.degrees(math.atan2(mean[1, 0] - mean[0, 1], mean[0, 0] + mean[1, 1]))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the shape of the moved images: rows and columns swap if they are turned by more than 45°.

        Args:
            shape: rows and columns of the images.
        """
        mean = np.abs(self.matrices.mean(axis=0))
        rows, cols = shape
        return (cols, rows) if mean[0, 0] + mean[1, 1] < mean[0, 1] + mean[1, 0] else (rows, cols)

    def move(self, images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return the moved images, interpolated by a cubic spline; what lies beyond an image repeats its edge.

        Args:
            images: shape (image, row, col).
            shape: rows and columns of the result, whose centre is that of the images.

        Returns:
            float32, shape (image, *shape).
        """
        from scipy.ndimage import affine_transform

        moved = np.empty((len(images), *shape), np.float32)
        for i, image in enumerate(images):
            back, start = self._back(i, image.shape, shape)
            affine_transform(
                image.astype(np.float32, copy=False), back, start, shape, moved[i], order=3, mode="nearest"
            )
        return moved

    def seen(self, index: int, given: tuple[int, ...], shape: tuple[int, int]) -> np.ndarray:
        """Return which pixels of a moved image come from between pixels of the image given, bool of shape `shape`.

        Args:
            index: number of the image, from 0.
            given: rows and columns of the image given.
            shape: rows and columns of the moved one.
        """
        back, start = self._back(index, given, shape)
        rows, cols = np.arange(shape[0])[:, None], np.arange(shape[1])
        from_row, from_col = (back[k, 0] * rows + back[k, 1] * cols + start[k] for k in (0, 1))
        near = _ROUNDING
        return (
            (from_row >= -near) & (from_row <= given[0] - 1 + near)
            & (from_col >= -near) & (from_col <= given[1] - 1 + near)
        )  # fmt: skip

    def _back(self, index: int, given: tuple[int, ...], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix and the start by which a moved pixel (row, column) finds where it came from."""
        back = np.linalg.inv(self.matrices[index])[::-1, ::-1]
        centre = (np.array(shape) - 1) / 2 + self.shifts[index][::-1]
        return back, (np.array(given[:2]) - 1) / 2 - back @ centre
