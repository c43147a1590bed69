"""MRC: the stacks and volumes of IMOD, SerialEM and FEI, old and new.

Only here are voxel sizes in Å turned into nm and back. Headers are read without their stamps where these are missing:
old FEI files have neither 'MAP ' nor a machine stamp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from tiltfield.errors import InputError
from tiltfield.io.mrc_extended import read_extended
from tiltfield.io.raw import RawStack, guard_size, plausible_pixel
from tiltfield.io.sidecars import axis_in_title
from tiltfield.series import Volume

_HEADER = 1024
ANGSTROM_PER_NM = 10.0
_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_KNOWN_MODES = {3: "complex", 4: "complex", 16: "RGB", 101: "4-bit"}
UNKNOWN_SIZE = "voxel size unknown"
TURNED = "sections along y, rows run against z, as IMOD's tilt writes them"
"""The last label of a volume that was turned so; IMOD's programs, which may turn it back, put theirs behind it."""


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
    """Map a stack of images, and read the angles, the pixel size and the tilt axis of its headers.

    Args:
        path: the file.

    Raises:
        InputError: if the header makes no sense or does not fit the size of the file.
    """
    header = read_header(path)
    images = _values(path, header, mapped=True)
    sources = {"images": f"{path.name} (MRC, {header.dtype.newbyteorder('=')})"}
    angles, extended_nm, axis = read_extended(header.record, header.order, header.extended, header.shape[0])
    size, where, doubt = _pixel_size(header, extended_nm)
    if size is not None:
        sources["pixel_size"] = f"{where} of {path.name}"
    if doubt:
        sources["warning pixel size"] = doubt
    if header.excess:
        sources["warning size"] = f"{path.name} goes on for {header.excess} bytes after its last image"
    if angles is not None:
        sources["angles"] = f"extended header of {path.name}"
    titles = b"".join(bytes(label) for label in header.record["label"]).decode("ascii", "replace")
    axis = axis_in_title(titles) if axis is None else axis
    if axis is not None:
        sources["tilt_axis"] = f"the header of {path.name}"
    return RawStack(images, angles, size, sources, axis)


def read_volume(path: Path) -> Volume:
    """Read a volume.

    Args:
        path: an MRC file.

    Raises:
        InputError: if it is no MRC file, or its header makes no sense or does not fit its size.
    """
    header = read_header(path)
    data = _values(path, header)
    if _labels(header)[-1:] == (TURNED,):
        data = turned_back(data)
    return Volume(data.astype(np.float32, copy=False), _pixel_size(header, None)[0])


def turned_back(data: np.ndarray) -> np.ndarray:
    """Return a volume that was written as IMOD's ``tilt`` stores it (:func:`tiltfield.export.image.turned`).

    Args:
        data: shape (y, z, x), its rows run against z.

    Returns:
        a view, shape (z, y, x).
    """
    return data[:, ::-1].transpose(1, 0, 2)


def _labels(header: Header) -> tuple[str, ...]:
    record = header.record
    count = min(max(int(record["nlabl"]), 0), len(record["label"]))
    labels = (bytes(label).split(b"\0")[0].decode("ascii", "replace").rstrip() for label in record["label"][:count])
    return tuple(labels)


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """A volume that stays in its file, with what else the file says of it.

    Attributes:
        volume: mapped from the file, read-only; copied only if its values are not float32. Turned back if it was
            turned.
        origin_nm: (x, y, z) of its first voxel, nm; None if the header knows no voxel size.
        labels: of the header, but that which says that it was turned.
    """

    volume: Volume
    origin_nm: tuple[float, float, float] | None
    labels: tuple[str, ...]


def open_volume(path: Path) -> VolumeFile:
    """Map a volume instead of reading it.

    Args:
        path: an MRC file.

    Raises:
        InputError: if it is no MRC file, or its header makes no sense or does not fit its size.
    """
    header = read_header(path)
    data, (size, _, _), labels = _values(path, header, mapped=True), _pixel_size(header, None), _labels(header)
    record = header.record
    x, y, z = (float(record["origin"][axis]) / ANGSTROM_PER_NM for axis in "xyz")
    if labels[-1:] == (TURNED,):
        y, z = z, -y - (data.shape[1] - 1) * (size or 0.0)
        data = turned_back(data)
    known = size is not None and bytes(record["map"])[:3] == b"MAP" and np.isfinite((x, y, z)).all()
    rest = tuple(label for label in labels if label != TURNED)
    return VolumeFile(Volume(data, size), (x, y, z) if known else None, rest)


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


def _values(path: Path, header: Header, *, mapped: bool = False) -> np.ndarray:
    """Return the values in the order (z, y, x), read into memory or left in the file."""
    data: np.ndarray
    if mapped:
        data = np.memmap(path, header.dtype, "r", header.offset, header.shape)
    else:
        data = np.fromfile(path, header.dtype, math.prod(header.shape), offset=header.offset).reshape(header.shape)
        if not data.dtype.isnative:
            data = data.byteswap(inplace=True).view(data.dtype.newbyteorder("="))
    axes = [int(header.record[k]) for k in ("maps", "mapr", "mapc")]
    if axes == [3, 2, 1] or sorted(axes) != [1, 2, 3]:
        return data
    turned = np.transpose(data, [axes.index(a) for a in (3, 2, 1)])
    return turned if mapped else np.ascontiguousarray(turned)


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
    if not all(np.isfinite(s) and plausible_pixel(s / ANGSTROM_PER_NM) for s in sizes):
        return None, None
    if abs(sizes[0] - 1) < 1e-6 and not _ours_with_size(record):
        return None, None
    doubt = (
        None if abs(sizes[1] / sizes[0] - 1) < 0.01 else f"pixels of {sizes[0]:.4g} x {sizes[1]:.4g} Å are not square"
    )
    return sizes[0] / ANGSTROM_PER_NM, doubt


def _ours_with_size(record: np.void) -> bool:
    """Whether tiltfield wrote the file and knew the size: then 1 Å means 1 Å."""
    label = bytes(record["label"][0])
    return label.startswith(b"tiltfield ") and UNKNOWN_SIZE.encode() not in label
