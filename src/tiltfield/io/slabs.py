"""A volume a few planes at a time, so that no second copy of it is ever made."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TypeGuard

import numpy as np

SLAB = 32 * 2**20  # bytes at a time


def in_slabs(volume: np.ndarray, depth: int | None = None) -> Iterator[np.ndarray]:
    """Return a volume slab by slab; one that is mapped from a file is read anew, not kept in memory.

    Args:
        volume: shape (z, y, x).
        depth: planes of a slab, ≥ 1; as many as make 32 MiB if None.
    """
    depth = depth or max(1, SLAB // max(volume[0].nbytes, 1))
    for k in range(0, len(volume), depth):
        part = volume[k : k + depth]
        if _is_mapped_as_it_lies(volume):
            start = volume.offset + k * volume[0].nbytes
            part = np.fromfile(str(volume.filename), volume.dtype, part.size, offset=start).reshape(part.shape)
        yield part


def in_memory(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a volume or stack in memory, as another type; of one that is mapped from a file no page stays mapped.

    Args:
        volume: shape (z, y, x).
        dtype: of the result; what is too large for it becomes infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if not isinstance(volume, np.memmap):
            return volume.astype(dtype, copy=False)
        kept = np.empty(volume.shape, dtype)
        for plane, part in zip(kept, in_slabs(volume, 1), strict=True):
            plane[...] = part[0]
        return kept


def _is_mapped_as_it_lies(volume: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether an array is all of a mapped file's values, in their order."""
    return isinstance(volume, np.memmap) and isinstance(volume.base, mmap.mmap) and volume.flags.c_contiguous
