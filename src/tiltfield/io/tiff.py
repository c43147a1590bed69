"""TIFF files of one or many pages, with the pixel sizes of ImageJ and OME."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, guard_stored, nm_per, square_pixel

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_XML = 2**24  # bytes


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is TIFF.

    Args:
        path: the file.
        head: its first bytes.
    """
    return head.startswith(_SIGNATURES)


def read(path: Path) -> RawStack:
    """Read the pages of a TIFF; where they lie in one piece, they are mapped.

    Args:
        path: the file.

    Raises:
        InputError: if the pages are not all of one shape, are not grey, or do not fit the size of the file.
    """
    with _quiet(), tifffile.TiffFile(path) as tif:
        images = _images(path, tif)
        sizes, where = _ome_sizes(tif) or _imagej_sizes(tif)
    size, sources = square_pixel(sizes, f"{where} {path.name}")
    sources["images"] = f"{path.name} (TIFF, {images.dtype.newbyteorder('=')})"
    return RawStack(images, None, size, sources)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile's log of damaged tags off the screen: what matters becomes an error."""
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _images(path: Path, tif: tifffile.TiffFile) -> np.ndarray:
    series = list(tif.series)
    shapes = {(s.shape, s.dtype) for s in series}
    if len(shapes) != 1:
        listed = ", ".join(str(s.shape) for s in series[:5]) or "none"
        raise InputError(f"{path}: expected pages of one shape and number type, got {listed}")
    shape, dtype = _stack_shape(path, series[0].shape, series[0].dtype), series[0].dtype
    packed = int(tif.pages.first.compression) != 1
    guard_stored((len(series), *shape), dtype.itemsize, path.stat().st_size, path, packed=packed)
    if len(series) == 1 and not packed and series[0].dataoffset is not None:
        return np.memmap(path, dtype.newbyteorder(tif.byteorder), "r", series[0].dataoffset, shape)
    parts = [s.asarray().reshape(shape) for s in series]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stack_shape(path: Path, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    long = [n for n in shape if n != 1]
    if dtype is None or dtype.kind not in "iuf" or len(long) not in (2, 3) or (len(long) == 3 and long[-1] in (3, 4)):
        raise InputError(
            f"{path}: expected grey images (page, row, col), got shape {shape}, type {dtype}; convert them to grey"
        )
    return (1, *long) if len(long) == 2 else tuple(long)


Sizes = tuple[tuple[float | None, ...], str]


def _imagej_sizes(tif: tifffile.TiffFile) -> Sizes:
    """ImageJ's own: pixels per unit in the resolutions, and the unit in its description."""
    unit, tags = nm_per(str((tif.imagej_metadata or {}).get("unit", ""))), tif.pages.first.tags
    return tuple(_resolution(tags.get(f"{side}Resolution"), unit) for side in "YX"), "resolution in"


def _resolution(tag: Any, unit: float | None) -> float | None:
    """Edge of a pixel, nm, of a tag that has pixels per unit as a fraction."""
    value = getattr(tag, "value", None)
    good = unit is not None and isinstance(value, tuple) and len(value) == 2 and 0 not in value
    return unit * value[1] / value[0] if good and unit and value else None


def _ome_sizes(tif: tifffile.TiffFile) -> Sizes | None:
    """OME's: PhysicalSizeY and PhysicalSizeX of the first image, in µm if no unit is named."""
    text = tif.ome_metadata if tif.is_ome else None
    if not text or len(text) > _MOST_XML:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    return tuple(_physical(pixels, side) for side in "YX"), "OME metadata of"


def _physical(pixels: ElementTree.Element, side: str) -> float | None:
    unit = nm_per(pixels.get(f"PhysicalSize{side}Unit", "µm"))
    try:
        return float(pixels.get(f"PhysicalSize{side}", "")) * (unit or 0.0)
    except ValueError:
        return None
