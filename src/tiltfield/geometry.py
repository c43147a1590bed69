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
    IMOD's ``tilt`` with an unrotated .tlt file agrees up to the direction of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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


def orient(images: np.ndarray, tilt_axis: str | float) -> np.ndarray:
    """Turn images so that the tilt axis is vertical (along the rows' y).

    Args:
        images: shape (tilt, row, col).
        tilt_axis: "y" (nothing to do), "x" (axis horizontal in the image), or the angle in degrees, counted
            counter-clockwise as seen on screen from the vertical, by which the axis is turned away from y.

    Returns:
        shape (tilt, row', col'); for "x" a quarter turn, for an angle a spline rotation that keeps the shape.

    Raises:
        ValueError: if `tilt_axis` is neither.
    """
    if tilt_axis == "y":
        return images
    if tilt_axis == "x":
        return np.ascontiguousarray(np.rot90(images, k=-1, axes=(1, 2)))
    try:
        degrees = float(tilt_axis)
    except ValueError:
        raise ValueError(f"tilt axis must be 'y', 'x' or an angle in degrees, got '{tilt_axis}'") from None
    quarter, rest = divmod(degrees + 45.0, 90.0)
    turned = np.rot90(images, k=-int(quarter), axes=(1, 2))
    if abs(rest - 45.0) < 1e-9:
        return np.ascontiguousarray(turned)
    from scipy.ndimage import rotate

    return rotate(turned, -(rest - 45.0), axes=(2, 1), reshape=False, order=3, mode="nearest").astype(images.dtype)
