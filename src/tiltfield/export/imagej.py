"""TIFF, as ImageJ and Fiji read it: a stack with the spacing of its slices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tiltfield.export.image import Image
from tiltfield.replacing import replacing

LARGEST = 2**32 - 2**22  # bytes of planes that the offsets of a TIFF can reach, less room for its directories


def write_tiff(image: Image, path: Path) -> None:
    """Write a volume as a TIFF hyperstack of ImageJ.

    Above 4 GB it has ImageJ's own form, one directory and then all planes: ImageJ, Fiji and tifffile read all of it,
    other programs its first plane.

    Args:
        image: the volume; values float32, uint8, int16 or uint16.
        path: file to write.
    """
    metadata: dict[str, Any] = {"axes": "ZYX", "Info": "\n".join(image.about)}
    resolution: tuple[float, float] | None = None
    if image.voxel_size_nm is not None:
        metadata |= {"spacing": image.voxel_size_nm, "unit": "nm"}
        resolution = (1 / image.voxel_size_nm, 1 / image.voxel_size_nm)
    with replacing(path) as part, tifffile.TiffWriter(part, imagej=True) as file:
        file.write(
            _planes(image),
            shape=image.data.shape,
            dtype=image.scaling.dtype,
            resolution=resolution,
            resolutionunit="NONE",
            metadata=metadata,
            truncate=image.data.size * image.scaling.dtype.itemsize > LARGEST,
        )


def _planes(image: Image) -> Iterator[np.ndarray]:
    return (plane for slab in image.slabs() for plane in slab)
