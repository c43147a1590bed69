"""HDF5 files: HyperSpy's, Velox's, and EMD of Berkeley (tomviz); opened only if reading them comes to an end."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import h5py

from tiltfield.errors import InputError
from tiltfield.io import emd, hyperspy
from tiltfield.io.raw import RawStack, guard_stored, missing_chunks

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01"
_LEAST_HEAP = 4096
_PIECE = 2**20


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is HDF5.

    Args:
        path: the file.
        head: its first bytes.
    """
    return head.startswith(_SIGNATURE)


def read(path: Path) -> RawStack:
    """Read the images of an HDF5 file, whichever program laid it out.

    Args:
        path: the file.

    Raises:
        InputError: if it holds no images, they do not fit the size of the file, or reading it would not end.
    """
    check_heaps(path)
    with h5py.File(path, "r") as file:
        if "Experiments" in file:
            return hyperspy.read(path, file, _guard)
        if "Data/Image" in file:
            return emd.read_velox(path, file, _guard)
        berkeley = emd.find_berkeley(file)
        if berkeley is not None:
            return emd.read_berkeley(path, berkeley, _guard)
        raise InputError(
            f"{path}: expected images as HyperSpy (Experiments), Velox (Data/Image) or EMD (emd_group_type) lay them "
            f"out, got {sorted(file)[:8]}; write it as .hspy, MRC or TIFF"
        )


def check_heaps(path: Path) -> None:
    """Refuse a file whose strings HDF5 would read for ever.

    Strings lie in global heaps, blocks of objects one behind the other. The library steps from object to object by the
    sizes that stand there, without a look at whether a step leads on: an object of no size, as one damaged byte makes
    it, keeps it in one place. So the steps are tried here first. (HDF5 file format specification, section III.E.)

    Args:
        path: an HDF5 file.

    Raises:
        InputError: if a step leads nowhere or out of its heap.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if not head.startswith(_SIGNATURE) or len(head) < 16:
            raise InputError(f"{path}: expected an HDF5 file, got something else; check what it is")
        if head[10 if head[8] >= 2 else 14] != 8:  # bytes of a length; also in the header of every heap
            raise InputError(f"{path}: expected an HDF5 file with lengths of 8 bytes; the file is damaged")
        for start in _heaps(path):
            file.seek(start + 8)
            size = int.from_bytes(file.read(8), "little")
            if not _LEAST_HEAP <= size <= path.stat().st_size - start:
                continue  # HDF5 sees this itself
            if not _is_walkable(file.read(size - 16)):
                raise InputError(
                    f"{path}: the strings at byte {start} are damaged (HDF5 global heap); copy the file again, or "
                    "write it anew with the program that made it"
                )


def _heaps(path: Path) -> Iterator[int]:
    """Yield where global heaps begin."""
    with path.open("rb") as file:
        before, base = b"", 0
        while piece := file.read(_PIECE):
            text = before + piece
            at = text.find(_HEAP)
            while at >= 0:
                yield base - len(before) + at
                at = text.find(_HEAP, at + 1)
            base += len(piece)
            before = text[-len(_HEAP) + 1 :]


def _is_walkable(objects: bytes) -> bool:
    """Whether stepping through a heap's objects comes to its end."""
    at = 0
    while at + 16 <= len(objects):
        index, size = struct.unpack_from("<H6xQ", objects, at)
        step = size if index == 0 else 16 + (size + 7) // 8 * 8  # object 0 is the free space, its header included
        if not 16 <= step <= len(objects) - at:
            return False
        at += step
    return True


def _guard(path: Path, data: h5py.Dataset) -> dict[str, str]:
    stored, size = data.id.get_storage_size(), path.stat().st_size
    guard_stored(data.shape, data.dtype.itemsize, min(stored, size), path, packed=data.chunks is not None)
    if stored > size:
        raise InputError(f"{path}: the images take {stored} bytes, the file has {size}; it is cut short, copy it again")
    if data.chunks is None:
        return {}
    guard_stored(data.chunks, data.dtype.itemsize, size, path, packed=True)
    count = math.prod(math.ceil(n / each) for n, each in zip(data.shape, data.chunks, strict=True))
    return missing_chunks(count - data.id.get_num_chunks(), count)
