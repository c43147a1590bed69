"""MRC files written a few sections at a time, so that a volume need not be in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

import tiltfield
from tiltfield.errors import InputError
from tiltfield.io.mrc import replacing

_MODES = {"int8": 0, "float32": 2, "uint16": 6}
_ANGSTROM_PER_NM = 10.0


@dataclass
class _Range:
    """What a header says of the values, gathered block by block."""

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def add(self, block: np.ndarray) -> None:
        self.low = float(np.minimum(self.low, block.min()))  # NaN stays
        self.high = float(np.maximum(self.high, block.max()))
        self.count += block.size
        for section in block:
            values = section.astype(np.float64)
            self.sums += (values.sum(), (values**2).sum())


def write_sections(path: Path, blocks: Iterable[np.ndarray], pixel_size_nm: float, *, is_volume: bool) -> Path:
    """Write blocks of sections, one after the other, as one MRC file.

    Args:
        path: file to write; written under a temporary name in the same folder, then renamed.
        blocks: arrays of shape (section, row, col), all int8, uint16 or float32, of the same rows and columns.
        pixel_size_nm: edge of a pixel or voxel, nm.
        is_volume: whether the sections are those of a volume, not images.

    Returns:
        the path.

    Raises:
        InputError: if the folder is not there or cannot be written to, or a value is not finite.
    """
    seen, sections, shape, dtype = _Range(), 0, (0, 0), np.dtype(np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(bytes(HEADER_DTYPE.itemsize))
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            seen.add(block)
            sections, shape, dtype = sections + len(block), block.shape[1:], block.dtype
        if not np.isfinite([seen.low, seen.high]).all():
            raise InputError(f"{path}: expected finite values to write, got NaN or infinite ones; replace them first")
        file.seek(0)
        file.write(_header((sections, *shape), dtype, seen, pixel_size_nm, is_volume).tobytes())
    return path


def _header(shape: tuple[int, ...], dtype: np.dtype, seen: _Range, pixel_nm: float, is_volume: bool) -> np.ndarray:
    """Return the 1024 bytes: MRC2014, little-endian."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nz"], header["ny"], header["nx"] = shape
    header["mz"], header["my"], header["mx"] = shape if is_volume else (1, *shape[1:])
    header["mode"] = _MODES[dtype.name]
    for axis in "xyz":
        header["cella"][axis] = header[f"m{axis}"] * pixel_nm * _ANGSTROM_PER_NM
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    mean, square = seen.sums / max(seen.count, 1)
    header["dmin"], header["dmax"], header["dmean"] = seen.low, seen.high, mean
    header["rms"] = np.sqrt(max(square - mean**2, 0))
    header["ispg"], header["nversion"], header["nlabl"] = int(is_volume), 20141, 1
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["label"][0] = f"tiltfield {tiltfield.__version__}".encode()
    return header
