"""TIFF: a file of many pages, or a folder of single images."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, guard_size, nm_per, plausible_pixel

_SUFFIXES = (".tif", ".tiff")
_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_COMPRESSION = 1100


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is TIFF, or a folder has TIFF files in it.

    Args:
        path: the file or folder.
        head: its first bytes; empty for a folder.
    """
    return bool(_files(path)) if path.is_dir() else head.startswith(_SIGNATURES)


def read(path: Path) -> RawStack:
    """Read a multi-page TIFF, or a folder of single TIFFs in the natural order of their names.

    Args:
        path: the file or folder.

    Raises:
        InputError: if the images are not all of one shape, are not grey, or do not fit the size of the file.
    """
    with _quiet():
        if path.is_dir():
            return _read_folder(path)
        images, size = _read_file(path)
    sources = {"images": f"{path.name} (TIFF, {images.dtype})"}
    if size is not None:
        sources["pixel_size"] = f"resolution in {path.name}"
    return RawStack(images, None, size, sources)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key in which "image 10" comes after "image 9".

    Args:
        name: a file name.
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts if part]


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


def _files(folder: Path) -> list[Path]:
    found = [
        p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file() and not p.name.startswith(".")
    ]
    return sorted(found, key=lambda p: (natural(p.name), p.name))


def _read_folder(folder: Path) -> RawStack:
    files = _files(folder)
    first, size = _read_file(files[0])
    guard_size((len(files), *first.shape[1:]), first.dtype.itemsize, str(folder))
    images = np.empty((len(files), *first.shape[1:]), first.dtype)
    for i, file in enumerate(files):
        page = first if i == 0 else _read_file(file)[0]
        if page.shape != (1, *first.shape[1:]) or page.dtype != first.dtype:
            want = f"one image of {first.shape[1]} x {first.shape[2]} ({first.dtype}) as in {files[0].name}"
            got = f"{page.shape[0]} of {page.shape[1]} x {page.shape[2]} ({page.dtype})"
            raise InputError(f"{file}: expected {want}, got {got}; keep one series in a folder")
        images[i] = page[0]
    sources = {"images": f"{len(files)} TIFF files in {folder.name}, {files[0].name} to {files[-1].name}"}
    if size is not None:
        sources["pixel_size"] = f"resolution in {files[0].name}"
    return RawStack(images, None, size, sources)


def _read_file(path: Path) -> tuple[np.ndarray, float | None]:
    with tifffile.TiffFile(path) as tif:
        series = list(tif.series)
        shapes = {(s.shape, s.dtype) for s in series}
        if len(shapes) != 1:
            listed = ", ".join(str(s.shape) for s in series[:5]) or "none"
            raise InputError(f"{path}: expected pages of one shape and number type, got {listed}")
        shape = _stack_shape(path, series[0].shape, series[0].dtype)
        _guard(path, tif, (len(series), *shape), series[0].dtype)
        parts = [s.asarray().reshape(shape) for s in series]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)), _pixel_size(tif)


def _stack_shape(path: Path, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    long = [n for n in shape if n != 1]
    if dtype is None or dtype.kind not in "iuf" or len(long) not in (2, 3) or (len(long) == 3 and long[-1] in (3, 4)):
        raise InputError(
            f"{path}: expected grey images (page, row, col), got shape {shape}, type {dtype}; convert them to grey"
        )
    return (1, *long) if len(long) == 2 else tuple(long)


def _guard(path: Path, tif: tifffile.TiffFile, shape: tuple[int, ...], dtype: np.dtype) -> None:
    need, size = guard_size(shape, dtype.itemsize, str(path)), path.stat().st_size
    compressed = int(tif.pages.first.compression) != 1
    if need > size * (_MOST_COMPRESSION if compressed else 1):
        raise InputError(
            f"{path}: images of shape {shape} need {need} bytes, the file has {size}; "
            "it is damaged or cut short, copy it again"
        )


def _pixel_size(tif: tifffile.TiffFile) -> float | None:
    """ImageJ's own: pixels per unit in XResolution, and the unit in its description."""
    unit = nm_per(str((tif.imagej_metadata or {}).get("unit", "")))
    tag = tif.pages.first.tags.get("XResolution")
    if unit is None or tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2 or 0 in tag.value:
        return None
    size = unit * tag.value[1] / tag.value[0]
    return size if plausible_pixel(size) else None
