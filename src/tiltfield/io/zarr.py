"""Zarr stores, folders or zip archives: OME-Zarr (0.4 and 0.5), and HyperSpy's .zspy."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io import hyperspy
from tiltfield.io.hyperspy import number
from tiltfield.io.npy import names_in
from tiltfield.io.raw import (
    MOST_COMPRESSION,
    RawStack,
    evenly_spaced,
    guard_stored,
    missing_chunks,
    nm_per,
    square_pixel,
)

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_BLOSC_HEAD = 16  # bytes


def matches(path: Path, head: bytes) -> bool:
    """Return whether a folder is a Zarr store, or a file a zip archive of one.

    Args:
        path: the folder or file.
        head: its first bytes; empty for a folder.
    """
    if path.is_dir():
        return any((path / mark).is_file() for mark in _MARKS)
    return head.startswith(b"PK") and any(name in _MARKS for name in names_in(path))


def read(path: Path) -> RawStack:
    """Read the images of a store: an OME image at its full resolution, or the first HyperSpy experiment with images.

    Args:
        path: the folder or archive.

    Raises:
        InputError: if it is neither, holds no stack of images, or most of it is missing.
    """
    import zarr

    store: Any = path if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
    try:
        root: Any = zarr.open(store, mode="r")
        if isinstance(root, zarr.Array):
            raise InputError(
                f"{path}: a bare Zarr array says nothing of its axes; give the OME-Zarr or .zspy around it"
            )
        attributes = root.attrs.asdict()
        if "Experiments" in root:
            return hyperspy.read(path, root, _guard)
        image = (attributes.get("ome") or attributes).get("multiscales")
        if not image:
            raise InputError(
                f"{path}: expected an OME-Zarr image (multiscales) or a HyperSpy store (Experiments), "
                f"got {sorted(root)[:8]}"
            )
        return _ome(path, root, image[0])
    finally:
        if not path.is_dir():
            store.close()


def _ome(path: Path, root: zarr.Group, image: dict[str, Any]) -> RawStack:
    full = image["datasets"][0]
    data: Any = root[full["path"]]
    notes = _guard(path, data)
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
    long = [i for i in range(data.ndim) if data.shape[i] > 1 or i >= data.ndim - 2]
    if len(axes) != data.ndim or len(long) not in (2, 3) or data.dtype.kind not in "iuf":
        named = " ".join(str(axis.get("name", "?")) for axis in axes)
        raise InputError(
            f"{path}: expected images (tilt, row, col), got axes {named} of lengths {data.shape}, {data.dtype}; "
            "take one channel and one time"
        )
    scale, offset = _coordinates([image, full], data.ndim)
    steps = [_step_nm(axes[i], scale[i]) for i in long[-2:]]
    size, sources = square_pixel(steps, f"scale in {path.name}")
    sources |= notes | {"images": f"{path.name} (OME-Zarr, {full['path']}, {data.dtype})"}
    images = np.asarray(data[...]).reshape(-1, *data.shape[-2:])
    unit = str(axes[long[0]].get("unit", "")) if len(long) == 3 else ""
    angles = evenly_spaced(scale[long[0]], offset[long[0]], unit, len(images))
    if angles is not None:
        sources["angles"] = f"axis '{axes[long[0]].get('name')}' of {path.name}"
    return RawStack(images, angles, size, sources)


def _coordinates(parts: list[dict[str, Any]], ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of each axis, all transformations one after the other, the dataset's own first."""
    scale, offset = np.ones(ndim), np.zeros(ndim)
    for part in reversed(parts):
        for step in part.get("coordinateTransformations") or ():
            values = step.get(step.get("type"))
            if not isinstance(values, list) or len(values) != ndim or any(number(v) is None for v in values):
                continue
            if step["type"] == "scale":
                scale, offset = scale * values, offset * values
            elif step["type"] == "translation":
                offset = offset + values
    return scale, offset


def _step_nm(axis: dict[str, Any], scale: float) -> float | None:
    unit = nm_per(str(axis.get("unit", "")))
    return None if unit is None or not math.isfinite(scale) else scale * unit


def _guard(path: Path, data: zarr.Array) -> dict[str, str]:
    """Refuse an array whose chunks cannot be in the store, or are cut short where that would go unnoticed."""
    chunks = list(_chunks(path, data.path))
    if not chunks:
        raise InputError(f"{path}: none of the {data.nchunks} chunks of {data.path} is there; copy the whole store")
    stored = sum(size for _, size, _ in chunks)
    guard_stored(data.shape, data.dtype.itemsize, stored, path, packed=True)
    guard_stored(data.chunks, data.dtype.itemsize, stored, path, packed=True)
    blosc = data.shards is None and any("blosc" in type(codec).__name__.lower() for codec in data.compressors)
    for name, size, head in chunks:
        if size == 0 or (blosc and not _is_blosc(size, head)):
            raise InputError(f"{path}: chunk {name} is damaged or cut short ({size} bytes); copy the store again")
    return missing_chunks(data.nchunks - data.nchunks_initialized, data.nchunks)


def _is_blosc(size: int, head: bytes) -> bool:
    """Whether a chunk of Blosc is as long as it says; the decoder reads on beyond the end of one that is not."""
    if len(head) < _BLOSC_HEAD:
        return False
    unpacked, packed = struct.unpack_from("<4xI4xI", head)
    return packed == size and unpacked <= size * MOST_COMPRESSION


def _chunks(path: Path, array: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, size and first bytes of the files that hold the chunks of an array."""
    if path.is_dir():
        for file in sorted((path / array).rglob("*")):
            if file.is_file() and file.name not in _MARKS:
                with file.open("rb") as content:
                    yield file.name, file.stat().st_size, content.read(_BLOSC_HEAD)
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename
            if name.startswith(f"{array}/") and not info.is_dir() and name.rpartition("/")[2] not in _MARKS:
                with archive.open(info) as content:
                    yield name, info.file_size, content.read(_BLOSC_HEAD)
