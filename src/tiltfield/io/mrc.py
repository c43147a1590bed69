"""MRC: the stacks and volumes of IMOD, SerialEM and FEI, old and new.

Only here are voxel sizes in Å turned into nm and back. Headers are read without their stamps where these are missing:
old FEI files have neither 'MAP ' nor a machine stamp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

import tiltfield
from tiltfield.errors import InputError
from tiltfield.io.mrc_extended import read_extended
from tiltfield.io.raw import RawStack, guard_size, plausible_pixel
from tiltfield.series import Volume

_HEADER = 1024
_ANGSTROM_PER_NM = 10.0
_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_KNOWN_MODES = {3: "complex", 4: "complex", 16: "RGB", 101: "4-bit"}
_UNKNOWN_SIZE = "voxel size unknown"


@dataclass(frozen=True, eq=False)
class Header:
    """The facts in an MRC header.

    Attributes:
        record: the 1024 bytes, in the byte order of the file.
        shape: sections, rows, columns as they lie in the file.
        dtype: type of the values, in the byte order of the file.
        offset: where the values begin, bytes.
        extended: the extended header.
        excess: bytes after the values.
    """

    record: np.void
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    extended: bytes
    excess: int

    @property
    def order(self) -> str:
        """Byte order, '<' or '>'."""
        return "<" if self.record.dtype["nx"].str[0] in "<|" else ">"


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is MRC: by its 'MAP ' stamp, or because all of an old header makes sense.

    Args:
        path: the file.
        head: its first 1024 bytes or more.
    """
    if len(head) < _HEADER:
        return False
    if head[208:211] == b"MAP":
        return True
    return any(_sensible(r) and _expected(r) <= path.stat().st_size for r in _both_orders(head))


def read(path: Path) -> RawStack:
    """Read a stack of images with the angles and the pixel size of its headers.

    Args:
        path: the file.

    Raises:
        InputError: if the header makes no sense or does not fit the size of the file.
    """
    header = read_header(path)
    images = _values(path, header)
    sources = {"images": f"{path.name} (MRC, {header.dtype.newbyteorder('=')})"}
    angles, extended_nm = read_extended(header.record, header.order, header.extended, header.shape[0])
    size, where, doubt = _pixel_size(header, extended_nm)
    if size is not None:
        sources["pixel_size"] = f"{where} of {path.name}"
    if doubt:
        sources["warning pixel size"] = doubt
    if header.excess:
        sources["warning size"] = f"{path.name} goes on for {header.excess} bytes after its last image"
    if angles is not None:
        sources["angles"] = f"extended header of {path.name}"
    return RawStack(images, angles, size, sources)


def read_volume(path: Path) -> Volume:
    """Read a volume.

    Args:
        path: an MRC file.

    Raises:
        InputError: if it is no MRC file, or its header makes no sense or does not fit its size.
    """
    header = read_header(path)
    data = _values(path, header)
    return Volume(data.astype(np.float32, copy=False), _pixel_size(header, None)[0])


def read_header(path: Path) -> Header:
    """Read and check the header before anything large is allocated.

    Args:
        path: the file.

    Raises:
        InputError: if the file is shorter than its header says, or the header makes no sense.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if len(head) < _HEADER:
            raise InputError(f"{path}: an MRC header has {_HEADER} bytes, the file only {len(head)}; it is cut short")
        record = _choose(path, head, size)
        extended = file.read(int(record["nsymbt"]))
    shape = (int(record["nz"]), int(record["ny"]), int(record["nx"]))
    guard_size(shape, _type(record).itemsize, str(path))
    expected = _expected(record)
    if size < expected:
        raise InputError(
            f"{path}: {shape[0]} images of {shape[1]} x {shape[2]} pixels need {expected} bytes, the file has {size}; "
            "it is cut short, copy it again"
        )
    excess = size - expected
    if excess >= shape[1] * shape[2] * _type(record).itemsize:
        raise InputError(
            f"{path}: the header speaks of {shape[0]} images of {shape[1]} x {shape[2]} pixels ({expected} bytes), "
            f"but the file has {size} bytes; the header is damaged or the stack was still being written"
        )
    return Header(record, shape, _type(record), _HEADER + len(extended), extended, excess)


def write_volume(volume: Volume, path: Path) -> Path:
    """Write a volume as float32 MRC.

    Args:
        volume: shape (z, y, x).
        path: file to write; written under a temporary name in the same folder, then renamed.

    Returns:
        the path written.

    Raises:
        InputError: if the folder is not there or cannot be written to.
    """
    return _write(volume.data, Path(path), volume.voxel_size_nm, is_volume=True)


def write_stack(images: np.ndarray, path: Path, pixel_size_nm: float | None = None) -> Path:
    """Write images as a float32 MRC image stack.

    Args:
        images: shape (image, row, col).
        path: file to write; written under a temporary name in the same folder, then renamed.
        pixel_size_nm: edge of a pixel, nm, or None if unknown.

    Returns:
        the path written.

    Raises:
        InputError: if `images` is not 3-D and finite, or the folder is not there or cannot be written to.
    """
    return _write(images, Path(path), pixel_size_nm, is_volume=False)


def _write(data: np.ndarray, path: Path, size_nm: float | None, *, is_volume: bool) -> Path:
    if data.ndim != 3 or data.size == 0:
        raise InputError(f"{path}: expected three dimensions to write, got shape {data.shape}")
    if not (np.isfinite(data.min()) and np.isfinite(data.max())):
        raise InputError(f"{path}: expected finite values to write, got NaN or infinite ones; replace them first")
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(np.ascontiguousarray(data, dtype=np.float32))
        if is_volume:
            mrc.set_volume()
        else:
            mrc.set_image_stack()
        mrc.voxel_size = 1.0 if size_nm is None else size_nm * _ANGSTROM_PER_NM
        mrc.header.label[0] = f"tiltfield {tiltfield.__version__}" + (f", {_UNKNOWN_SIZE}" if size_nm is None else "")
        mrc.header.nlabl = 1
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder and rename it to the path at the end, unless something was raised.

    Args:
        path: the file to write.

    Raises:
        InputError: if the folder is not there or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; give a folder that exists and can be written to"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _both_orders(head: bytes) -> list[np.void]:
    little, big = (np.frombuffer(head[:_HEADER], HEADER_DTYPE.newbyteorder(order))[0] for order in "<>")
    return [big, little] if head[212] == 0x11 else [little, big]


def _choose(path: Path, head: bytes, size: int) -> np.void:
    sensible = [record for record in _both_orders(head) if _sensible(record)]
    fitting = [record for record in sensible if _expected(record) <= size]
    if fitting or sensible:
        return (fitting or sensible)[0]
    record = _both_orders(head)[0]
    mode = int(record["mode"])
    if mode in _KNOWN_MODES:
        raise InputError(
            f"{path}: MRC mode {mode} ({_KNOWN_MODES[mode]}) holds no grey values; convert it to mode 1 or 2"
        )
    dims = " x ".join(str(int(record[k])) for k in ("nx", "ny", "nz"))
    raise InputError(
        f"{path}: expected an MRC header (modes {', '.join(map(str, _TYPES))}), got size {dims}, mode {mode}, extended "
        f"header {int(record['nsymbt'])} bytes; the file is damaged or not MRC"
    )


def _sensible(record: np.void) -> bool:
    axes = {int(record[k]) for k in ("mapc", "mapr", "maps")}
    return (
        all(0 < int(record[k]) < 2**20 for k in ("nx", "ny", "nz"))
        and int(record["mode"]) in _TYPES
        and 0 <= int(record["nsymbt"]) < 2**30
        and axes in ({1, 2, 3}, {0})
    )


def _expected(record: np.void) -> int:
    count = int(record["nx"]) * int(record["ny"]) * int(record["nz"])
    return _HEADER + int(record["nsymbt"]) + count * _type(record).itemsize


def _type(record: np.void) -> np.dtype:
    order = "<" if record.dtype["nx"].str[0] in "<|" else ">"
    mode = int(record["mode"])
    return np.dtype("u1") if mode == 0 and not _signed_bytes(record) else np.dtype(order + _TYPES[mode])


def _signed_bytes(record: np.void) -> bool:
    """Mode 0: IMOD says in its own stamp; without it, MRC2014 is signed unless the header's range denies it."""
    raw = record.tobytes()
    if raw[152:156] in (b"IMOD", b"DOMI"):
        flags = int(np.frombuffer(raw[156:160], record.dtype["nx"])[0])
        return bool(flags & 1)
    return not (0 <= float(record["dmin"]) <= float(record["dmax"]) and 127 < float(record["dmax"]) <= 255)


def _values(path: Path, header: Header) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(header.offset)
        flat = np.fromfile(file, header.dtype, int(np.prod(header.shape, dtype=np.int64)))
    data = flat.reshape(header.shape)
    if not data.dtype.isnative:
        data = data.byteswap(inplace=True).view(data.dtype.newbyteorder("="))
    axes = [int(header.record[k]) for k in ("maps", "mapr", "mapc")]
    if sorted(axes) != [1, 2, 3]:
        return data
    return np.ascontiguousarray(np.transpose(data, [axes.index(a) for a in (3, 2, 1)]))


def _pixel_size(header: Header, extended_nm: float | None) -> tuple[float | None, str, str | None]:
    """Return the pixel size in nm, which header says so, and a doubt about it."""
    size, doubt = _header_size(header)
    if size is None:
        return extended_nm, "extended header", doubt
    if extended_nm is not None and abs(extended_nm / size - 1) > 0.01:
        doubt = f"the header says {size:.4g} nm, the extended header {extended_nm:.4g} nm; the header was believed"
    return size, "header", doubt


def _header_size(header: Header) -> tuple[float | None, str | None]:
    record = header.record
    grid = [int(record["mx"]), int(record["my"])]
    if min(grid) < 1:
        return None, None
    sizes = [float(record["cella"][axis]) / n for axis, n in zip("xy", grid, strict=True)]
    if not all(np.isfinite(s) and plausible_pixel(s / _ANGSTROM_PER_NM) for s in sizes):
        return None, None
    if abs(sizes[0] - 1) < 1e-6 and not _ours_with_size(record):
        return None, None
    doubt = (
        None if abs(sizes[1] / sizes[0] - 1) < 0.01 else f"pixels of {sizes[0]:.4g} x {sizes[1]:.4g} Å are not square"
    )
    return sizes[0] / _ANGSTROM_PER_NM, doubt


def _ours_with_size(record: np.void) -> bool:
    """Whether tiltfield wrote the file and knew the size: then 1 Å means 1 Å."""
    label = bytes(record["label"][0])
    return label.startswith(b"tiltfield ") and _UNKNOWN_SIZE.encode() not in label
