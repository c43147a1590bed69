"""MRC files written a few sections at a time, so that a volume need not be in memory twice, or at all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

import tiltfield
from tiltfield.errors import InputError
from tiltfield.io.mrc import ANGSTROM_PER_NM, UNKNOWN_SIZE
from tiltfield.io.slabs import in_slabs
from tiltfield.replacing import replacing
from tiltfield.series import Volume

MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}
LABELS, LABEL = 10, 80  # how many a header holds, and how long
_LINE = 5  # most labels that one line may fill


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


@dataclass(frozen=True)
class About:
    """What a header says beside the values.

    Attributes:
        pixel_size_nm: edge of a pixel or voxel, nm; None if unknown.
        is_volume: whether the sections are those of a volume, not images.
        origin_nm: (x, y, z) of the first voxel, nm. None: a volume's x and y are those of the images, and z counts from
            the middle, where the tilt axis is, as IMOD's ``tilt`` has it; images begin at 0.
        labels: lines for the labels, after the version; long ones are wrapped, and what does not fit is left out.
    """

    pixel_size_nm: float | None
    is_volume: bool
    origin_nm: tuple[float, float, float] | None = None
    labels: Sequence[str] = ()


def write_volume(volume: Volume, path: Path, labels: Sequence[str] = ()) -> Path:
    """Write a volume as float32 MRC.

    Args:
        volume: shape (z, y, x).
        path: file to write; written under a temporary name in the same folder, then renamed.
        labels: lines for the header, such as the command.

    Returns:
        the path written.

    Raises:
        InputError: if the folder is not there or cannot be written to.
    """
    return write_sections(Path(path), in_slabs(volume.data), About(volume.voxel_size_nm, True, labels=labels))


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
    if images.ndim != 3 or images.size == 0:
        raise InputError(f"{path}: expected three dimensions to write, got shape {images.shape}")
    blocks = (part.astype(np.float32, copy=False) for part in in_slabs(images))
    return write_sections(Path(path), blocks, About(pixel_size_nm, False))


def write_sections(path: Path, blocks: Iterable[np.ndarray], about: About) -> Path:
    """Write blocks of sections, one after the other, as one MRC file.

    Args:
        path: file to write; written under a temporary name in the same folder, then renamed.
        blocks: arrays of shape (section, row, col), all of one type of `MODES` and of the same rows and columns.
        about: what the header is to say.

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
        file.write(_header((sections, *shape), dtype, seen, about).tobytes())
    return path


def label_lines(about: About) -> list[str]:
    """Return the labels of a header, at most ten of 80 ASCII characters; the first says who wrote it.

    Of more than ten those before the last are left out.

    Args:
        about: what the header is to say.
    """
    first = f"tiltfield {tiltfield.__version__}" + ("" if about.pixel_size_nm else f", {UNKNOWN_SIZE}")
    lines = [first]
    for text in dict.fromkeys(about.labels):
        if text == first:
            continue
        plain = text.encode("ascii", "replace").decode()
        lines += textwrap.wrap(plain, LABEL, max_lines=_LINE, placeholder=" ...", break_on_hyphens=False)
    return lines if len(lines) <= LABELS else [*lines[: LABELS - 1], lines[-1]]


def _header(shape: tuple[int, ...], dtype: np.dtype, seen: _Range, about: About) -> np.ndarray:
    """Return the 1024 bytes: MRC2014, little-endian."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nz"], header["ny"], header["nx"] = shape
    header["mz"], header["my"], header["mx"] = shape if about.is_volume else (1, *shape[1:])
    header["mode"] = MODES[dtype.name]
    angstrom = ANGSTROM_PER_NM * (about.pixel_size_nm or 1 / ANGSTROM_PER_NM)
    for axis, first in zip("xyz", about.origin_nm or (0.0, 0.0, 0.0), strict=True):
        header["cella"][axis] = header[f"m{axis}"] * angstrom
        header["origin"][axis] = first * ANGSTROM_PER_NM
    if about.is_volume and about.pixel_size_nm and about.origin_nm is None:
        header["origin"]["z"] = -(shape[0] - 1) / 2 * angstrom
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    mean, square = seen.sums / max(seen.count, 1)
    header["dmin"], header["dmax"], header["dmean"] = seen.low, seen.high, mean
    header["rms"] = np.sqrt(max(square - mean**2, 0))
    header["ispg"], header["nversion"] = int(about.is_volume), 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    labels = label_lines(about)
    header["nlabl"] = len(labels)
    header["label"][: len(labels)] = [line.encode() for line in labels]
    return header
