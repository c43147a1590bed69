"""What every reader gives, and the guards that every reader needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tiltfield.errors import InputError

_NM_PER = {"pm": 1e-3, "å": 0.1, "a": 0.1, "ang": 0.1, "angstrom": 0.1, "angstroms": 0.1, "nm": 1.0, "nanometer": 1.0,
           "nanometers": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3, "mm": 1e6,
           "cm": 1e7, "m": 1e9}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RawStack:
    """Images as a file holds them, before anything is checked or turned.

    Attributes:
        images: shape (image, row, col), in the number type of the file.
        angles_deg: float64, shape (image,), degrees, or None if the file names none.
        pixel_size_nm: edge of a pixel, nm, or None if the file does not say.
        sources: where each fact came from, in words; keys that begin with "warning" hold doubts.
    """

    images: np.ndarray
    angles_deg: np.ndarray | None = None
    pixel_size_nm: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


def nm_per(unit: str) -> float | None:
    """Return how many nm one `unit` of length has, or None if it is no known unit of length.

    Args:
        unit: e.g. "nm", "Å", "µm", "micron", "m".
    """
    # the micro sign and the Greek letter mu, the angstrom sign and the letter Å
    key = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "Å").lower()
    return _NM_PER.get(key)


def plausible_pixel(size_nm: float) -> bool:
    """Return whether a pixel may be this large: between 0.1 pm and 0.1 mm.

    Args:
        size_nm: edge of a pixel, nm.
    """
    return bool(np.isfinite(size_nm)) and 1e-4 < size_nm < 1e5


def guard_size(shape: tuple[int, ...], itemsize: int, what: str) -> int:
    """Return the bytes an array takes, if this machine can hold it.

    Args:
        shape: its shape, each ≥ 1.
        itemsize: bytes of one value.
        what: what it is, for the message.

    Raises:
        InputError: if a length is not positive, or array and float32 copy exceed the memory of this machine.
    """
    if any(n < 1 for n in shape):
        raise InputError(f"{what}: expected at least one image, row and column, got shape {shape}; the file is damaged")
    count = 1
    for n in shape:
        count *= int(n)
    total = psutil.virtual_memory().total
    if count * (itemsize + 4) > total:
        raise InputError(
            f"{what}: {' x '.join(map(str, shape))} values need {count * (itemsize + 4) / 1e9:.1f} GB of memory, this "
            f"machine has {total / 1e9:.1f} GB; use a machine with more or cut the stack up; if the size is wrong, the "
            "file is damaged"
        )
    return count * itemsize


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into an InputError that names the file.

    Args:
        path: the file or folder being read.

    Raises:
        InputError: for every exception inside.
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory to read it; use a machine with more or bin it first") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file or folder; check the name") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be read ({reason}); it is damaged, cut short or not of this kind") from error
