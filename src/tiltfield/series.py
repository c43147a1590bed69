"""The two things that travel through tiltfield: a tilt series in, a volume out. Both are frozen and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiltfield.errors import InputError


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """Images of one specimen at many tilts, tilt axis along y (vertical).

    Attributes:
        images: float32, shape (tilt, row, col), in the units of the file; finite everywhere (masked pixels hold a local median).
        angles_deg: float64, shape (tilt,), degrees, within ±89, in the order of the images.
        pixel_size_nm: edge of a pixel, nm, or None if unknown.
        valid: bool, shape (tilt, row, col): False where a pixel is dead, hot, or has no data. None: all are valid.
        quantum: spacing of the grey values when the data are counted (integers after any scaling), else None.
        name: what to call it in messages.
        sources: where each fact came from, e.g. {"angles": "needle.rawtlt"}.
    """

    images: np.ndarray
    angles_deg: np.ndarray
    pixel_size_nm: float | None = None
    valid: np.ndarray | None = None
    quantum: float | None = None
    name: str = "series"
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Volume:
    """A density volume.

    Attributes:
        data: float32, shape (z, y, x).
        voxel_size_nm: edge of a voxel, nm, or None if unknown.
    """

    data: np.ndarray
    voxel_size_nm: float | None = None

    def save(self, path: str | Path) -> Path:
        """Write the volume as MRC (under a temporary name, then renamed).

        Args:
            path: file to write.

        Returns:
            the path written.
        """
        from tiltfield.io.mrc import write_volume

        return write_volume(self, Path(path))
