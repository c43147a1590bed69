"""What every reader gives, and the guards that every reader needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tiltfield.errors import InputError

_NM_PER = {"pm": 1e-3, "picometer": 1e-3, "å": 0.1, "a": 0.1, "ang": 0.1, "angstrom": 0.1, "angstroms": 0.1, "nm": 1.0,
           "nanometer": 1.0, "nanometers": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3,
           "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9, "meter": 1e9}  # fmt: skip
_DEGREES_PER = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / math.pi, "radian": 180 / math.pi,
                "radians": 180 / math.pi}  # fmt: skip
MOST_COMPRESSION = 1100  # deflate cannot shrink more


@dataclass(frozen=True, eq=False)
class RawStack:
    """Images as a file holds them, before anything is checked or turned.

    Attributes:
        images: shape (image, row, col), in the number type of the file; may be mapped from it, and read-only.
        angles_deg: float64, shape (image,), degrees, or None if the file names none.
        pixel_size_nm: edge of a pixel, nm, or None if the file does not say.
        sources: where each fact came from, in words; keys that begin with "warning" hold doubts.
        tilt_axis_deg: tilt axis by the file, degrees as `load` counts them, or None if it does not say.
        valid: bool, shape of the images, if the file says which pixels are; then they are not screened again.
    """

    images: np.ndarray
    angles_deg: np.ndarray | None = None
    pixel_size_nm: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    tilt_axis_deg: float | None = None
    valid: np.ndarray | None = None


def nm_per(unit: str) -> float | None:
    """Return how many nm one `unit` of length has, or None if it is no known unit of length.

    Args:
        unit: e.g. "nm", "Å", "µm", "micron", "m".
    """
    # the micro sign and the Greek letter mu, the angstrom sign and the letter Å
    key = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "Å").lower()
    return _NM_PER.get(key)


def degrees_per(unit: str) -> float | None:
    """Return how many degrees one `unit` of angle has, or None if it is no known unit of angle.

    Args:
        unit: e.g. "deg", "degrees", "°", "rad".
    """
    return _DEGREES_PER.get(unit.strip().lower())


def from_imod(degrees: float) -> float:
    """Return a tilt axis that IMOD and SerialEM call `degrees` as tiltfield counts it, within (-180°, 180°].

    Both count counter-clockwise from the vertical, but IMOD shows an image with its first row at the bottom, tiltfield
    with it at the top. (IMOD, man page of tiltalign; the sign of "Tilt axis angle" in the titles of SerialEM.)

    Args:
        degrees: the angle, IMOD's count.
    """
    return 180.0 - (180.0 + degrees) % 360.0


def evenly_spaced(scale: float | None, offset: float | None, unit: str, n: int) -> np.ndarray | None:
    """Return the tilts of an axis with units of angle, degrees, shape (n,); None if it is no such axis.

    Args:
        scale: from one image to the next.
        offset: of the first image.
        unit: of both.
        n: number of images.
    """
    each = degrees_per(unit)
    if each is None or not scale or offset is None:
        return None
    return usable_angles((offset + scale * np.arange(n)) * each)


def usable_angles(angles: np.ndarray) -> np.ndarray | None:
    """Return tilts as float64 if they can be tilts, else None: many that are all zero were never filled in.

    Args:
        angles: degrees, shape (image,).
    """
    angles = np.asarray(angles, np.float64).ravel()
    good = angles.size and np.all(np.isfinite(angles)) and np.all(np.abs(angles) <= 180)
    return angles if good and (angles.size == 1 or np.any(angles != 0)) else None


def square_pixel(sizes_nm: Sequence[float | None], where: str) -> tuple[float | None, dict[str, str]]:
    """Return the pixel size and its sources, with a doubt if pixels are not square.

    Args:
        sizes_nm: of a pixel along the rows and along the columns, nm; None if unknown.
        where: what says so.

    Returns:
        the size along the columns, nm, None if either is missing or implausible; and entries for `RawStack.sources`.
    """
    known = [abs(size) for size in sizes_nm if size is not None and plausible_pixel(abs(size))]
    if len(known) != len(sizes_nm) or not known:
        return None, {}
    sources = {"pixel_size": where}
    if abs(known[0] / known[-1] - 1) > 0.01:
        sources["warning pixel size"] = f"pixels of {known[-1]:.4g} x {known[0]:.4g} nm are not square"
    return known[-1], sources


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


def guard_stored(shape: tuple[int, ...], itemsize: int, stored: int, path: Path, *, packed: bool) -> None:
    """Refuse an array that cannot be in its file, before memory is taken for it.

    Args:
        shape: of the array.
        itemsize: bytes of one value.
        stored: bytes that the file has for it.
        path: the file.
        packed: whether they may be compressed.

    Raises:
        InputError: if there are too few of them, or the array does not fit this machine.
    """
    need = guard_size(shape, itemsize, str(path))
    if need > stored * (MOST_COMPRESSION if packed else 1):
        raise InputError(
            f"{path}: images of shape {tuple(shape)} need {need} bytes, the file holds {stored} of them; "
            "it is damaged or cut short, copy it again"
        )


def missing_chunks(missing: int, count: int) -> dict[str, str]:
    """Return an entry for `RawStack.sources` that says that chunks of an array were never written.

    Args:
        missing: how many.
        count: of how many.
    """
    if not missing:
        return {}
    return {"warning chunks": f"{missing} of {count} chunks of the images are not there; they are read as constant"}


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
