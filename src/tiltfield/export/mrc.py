"""MRC, as IMOD, ChimeraX, RELION and most of the field read it."""

from __future__ import annotations

from pathlib import Path

from tiltfield.export.image import Image
from tiltfield.io.mrc_sections import About, write_sections


def write_mrc(image: Image, path: Path) -> None:
    """Write a volume as MRC: mode 0, 1, 2 or 6, with voxel size, origin and labels.

    Args:
        image: the volume.
        path: file to write.
    """
    write_sections(path, image.slabs(), About(image.voxel_size_nm, True, image.origin_nm, image.about))
