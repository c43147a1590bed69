"""A volume that is written plane by plane: in memory if it is small, else in a file that goes when the volume does."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from tiltfield.errors import InputError

IN_MEMORY = 256 * 2**20  # bytes; what is larger goes to a file


class Sections:
    """Planes of a volume, zero until written.

    Args:
        shape: (z, y, x).
        dtype: of the values.
        folder: where the file goes if one is needed; made if absent. The system's temporary folder if None.

    Raises:
        InputError: if the file cannot be made.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: type, folder: Path | None = None) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        size = int(np.prod(shape)) * self.dtype.itemsize
        self._memory: np.ndarray | None = np.zeros(shape, dtype) if size <= IN_MEMORY else None
        self._path = None if self._memory is not None else _scratch_file(folder, size)

    def write(self, k: int, plane: np.ndarray) -> None:
        """Write a plane.

        Args:
            k: its index along z.
            plane: shape (y, x).
        """
        if self._memory is not None:
            self._memory[k] = plane
        elif self._path is not None:
            with self._path.open("r+b") as file:
                file.seek(k * plane.size * self.dtype.itemsize)
                file.write(np.ascontiguousarray(plane, self.dtype).data)

    def array(self) -> np.ndarray:
        """Return the volume; one that lies in a file is mapped, read-only, and its file goes when the array does."""
        if self._memory is not None:
            return self._memory
        assert self._path is not None
        mapped = np.memmap(self._path, self.dtype, "r", shape=self.shape)
        weakref.finalize(mapped, _remove, self._path)
        return mapped

    def discard(self) -> None:
        """Remove the file, if there is one."""
        if self._path is not None:
            _remove(self._path)


def _scratch_file(folder: Path | None, size: int) -> Path:
    """Return a new file of zeros."""
    where = folder or Path(tempfile.gettempdir())
    try:
        where.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(".part", ".volume-", where)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(size)
    except OSError as error:
        raise InputError(f"cannot make a file of {size / 2**30:.1f} GiB in {where}: {error.strerror}") from None
    return Path(name)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
