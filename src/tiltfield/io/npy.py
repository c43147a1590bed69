"""NumPy files: .npy holds the images alone; .npz holds images, and may hold angles and the pixel size, by name.

An .npz of a `TiltSeries` also says which pixels are valid.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, guard_stored, plausible_pixel, usable_angles
from tiltfield.replacing import replacing
from tiltfield.series import TiltSeries

_ANGLES = ("angles_deg", "angles", "tilt_angles", "tilts")
_SIZE = "pixel_size_nm"
_VALID = "valid"
_HEADER = 16384  # more than NumPy's own limit
_SIGNATURE = b"\x93NUMPY"


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is .npy, or an archive of such files.

    Args:
        path: the file.
        head: its first bytes.
    """
    return head.startswith(_SIGNATURE) or (head.startswith(b"PK") and any(n.endswith(".npy") for n in names_in(path)))


def names_in(path: Path) -> list[str]:
    """Return the names in a zip archive; none if it is damaged.

    Args:
        path: the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        return []


def read(path: Path) -> RawStack:
    """Map the array of an .npy file, or read the arrays of an .npz file.

    Args:
        path: the file.

    Raises:
        InputError: if there is no stack of images in it, or the file is cut short.
    """
    with path.open("rb") as file:
        single = file.read(len(_SIGNATURE)) == _SIGNATURE
    if single:
        images = _stack(path, np.load(path, mmap_mode="r", allow_pickle=False), path.name)
        return RawStack(images, sources={"images": f"{path.name} (NumPy, {images.dtype})"})
    with zipfile.ZipFile(path) as archive:
        return _read_archive(path, archive)


def _read_archive(path: Path, archive: zipfile.ZipFile) -> RawStack:
    sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
    heads = {name: _head(archive, info) for name, info in sizes.items()}
    stacks = [name for name, (shape, dtype) in heads.items() if len(shape) == 3 and dtype.kind in "iuf"]
    if len(stacks) > 1:
        stacks = [name for name in stacks if name == "images"]
    if len(stacks) != 1:
        listed = ", ".join(f"{name} {shape}" for name, (shape, _) in heads.items()) or "nothing"
        raise InputError(
            f"{path}: expected one array (tilt, row, col), or one named images, got {listed}; "
            "save it with numpy.savez(file, images=..., angles_deg=...)"
        )
    shape, dtype = heads[stacks[0]]
    guard_stored(shape, dtype.itemsize, sizes[stacks[0]].compress_size, path, packed=True)
    images = _stack(path, _array(archive, sizes[stacks[0]]), stacks[0])
    sources = {"images": f"{path.name} (NumPy, {stacks[0]}, {images.dtype})"}
    named = next((n for n in _ANGLES if n in heads and heads[n][0] in ((len(images),), (len(images), 1))), None)
    angles = usable_angles(_array(archive, sizes[named])) if named and heads[named][1].kind in "iuf" else None
    if angles is not None:
        sources["angles"] = f"{named} in {path.name}"
    size = None
    if _SIZE in heads and heads[_SIZE][0] in ((), (1,)) and heads[_SIZE][1].kind in "iuf":
        value = float(_array(archive, sizes[_SIZE]).ravel()[0])
        size = value if plausible_pixel(value) else None
    if size is not None:
        sources["pixel_size"] = f"{_SIZE} in {path.name}"
    masked = heads.get(_VALID) == (images.shape, np.dtype(bool))
    return RawStack(images, angles, size, sources, valid=_array(archive, sizes[_VALID]) if masked else None)


def write_series(series: TiltSeries, path: Path) -> Path:
    """Write a series as .npz, to be read as it is.

    Args:
        series: images, angles, pixel size and valid pixels are kept.
        path: file to write; written under a temporary name in the same folder, then renamed.

    Raises:
        InputError: if the folder is not there or cannot be written to.
    """
    valid = np.ones(series.images.shape, bool) if series.valid is None else series.valid
    size = np.nan if series.pixel_size_nm is None else series.pixel_size_nm  # what is implausible is not read
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, images=series.images, angles_deg=series.angles_deg, pixel_size_nm=size, valid=valid)
    return path


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, without reading it."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file, max_header_size=_HEADER)
    return shape, dtype


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False, max_header_size=_HEADER))


def _stack(path: Path, images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim == 2:
        images = images[None]
    if images.ndim != 3 or images.dtype.kind not in "iuf" or 0 in images.shape:
        raise InputError(
            f"{path}: expected images of shape (tilt, row, col) with real values in {name}, got shape {images.shape}, "
            f"{images.dtype}"
        )
    return images
