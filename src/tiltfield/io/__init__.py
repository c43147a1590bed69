"""Files in: content, then suffix, tells what a path holds; angles come from a file given, beside it, or inside it.

A format is one file with `matches` and `read`, and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tiltfield import geometry
from tiltfield.axis import turns_across
from tiltfield.errors import InputError
from tiltfield.geometry import Placement
from tiltfield.io import dm, facts, folder, hdf5, mrc, npy, sidecars, tiff, zarr
from tiltfield.io.mrc_sections import write_stack, write_volume
from tiltfield.io.raw import RawStack, reading
from tiltfield.io.slabs import in_memory, in_slabs
from tiltfield.io.transforms import in_view, notes_beside, read_transforms
from tiltfield.screening import fill, find_bad, quantum_of
from tiltfield.series import TiltSeries, Volume

__all__ = [
    "FORMATS",
    "Format",
    "RawStack",
    "load",
    "load_frames",
    "read_volume",
    "series_shape",
    "write_stack",
    "write_volume",
]

_HEAD = 4096
_SPREAD = 0.05  # share that a masked pixel may have in an interpolated one


@dataclass(frozen=True)
class Format:
    """A kind of file that holds images.

    Attributes:
        name: what to call it in messages.
        suffixes: endings of its files, lower case.
        matches: whether a file with this path and these first bytes is one.
        read: reads it.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    read: Callable[[Path], RawStack]


_SINGLE = (  # those with a signature first, the guess at old MRC headers last
    Format("HDF5", (".hspy", ".emd", ".hdf5", ".h5"), hdf5.matches, hdf5.read),
    Format("TIFF", (".tif", ".tiff"), tiff.matches, tiff.read),
    Format("NumPy", (".npy", ".npz"), npy.matches, npy.read),
    Format("DigitalMicrograph", (".dm3", ".dm4"), dm.matches, dm.read),
    Format("MRC", (".mrc", ".st", ".ali", ".preali", ".mrcs", ".rec", ".map"), mrc.matches, mrc.read),
)
FORMATS = (
    Format("Zarr", (".zspy", ".zarr"), zarr.matches, zarr.read),
    *_SINGLE,
    Format("folder", (), lambda path, head: path.is_dir(), lambda path: folder.read(path, _SINGLE)),
)


def load(
    path: str | Path,
    *,
    angles: str | Path | None = None,
    transforms: str | Path | None = None,
    tilt_axis: str | float = "y",
    pixel_size_nm: float | None = None,
    bin: int = 1,
    exclude: Sequence[int] = (),
) -> TiltSeries:
    """Read a tilt series, mask its bad pixels, and turn it so that the tilt axis is vertical.

    Args:
        path: an MRC, TIFF, HyperSpy, EMD, DigitalMicrograph, OME-Zarr or NumPy stack, a folder of single images, or the
            .mdoc of a stack.
        angles: file of tilts in degrees (.rawtlt, .tlt: one a line; .mdoc). If left out, such a file beside the stack
            counts, then the header of the stack.
        transforms: file of IMOD's transforms (.xf, .prexg, .prexf) that align the images; applied before they are
            turned. If left out, none is applied, though it may lie beside the stack.
        tilt_axis: "y" (vertical in the image), "x" (horizontal), degrees from y, counter-clockwise with the first row
            at the top, or "file": what the .mdoc or the header says.
        pixel_size_nm: edge of a pixel before binning, nm, > 0; overrides the file's.
        bin: edge of the blocks of pixels to average, ≥ 1.
        exclude: numbers of the images to leave out, counted from 1 in the order of the file, as IMOD does.

    Returns:
        the series; its `sources` say where each fact came from, and who contradicts it.

    Raises:
        InputError: if anything is missing, damaged or contradicts itself; the message says what to do.
    """
    for name, file in (("series", path), ("angles", angles), ("transforms", transforms)):
        _check_path(name, file, may_be_none=name != "series")
    aligner = None if transforms is None else Path(transforms)
    path, raw, moved, turn, said = _opened(Path(path), angles, aligner, tilt_axis)
    size, more = facts.choose_size(raw, pixel_size_nm)
    notes = said | more | notes_beside(path, aligner)
    quantum = quantum_of(_measured(raw))
    raw, numbers = _without(path, raw, exclude)
    raw, valid = _screened(path, raw, numbers)  # from here on the file's own values are let go
    if moved is not None:
        notes["transforms"] = f"{transforms}, as given"
        moved = Placement(moved.matrices[numbers - 1], moved.shifts[numbers - 1])
    images, valid = _turned(path, raw.images, valid, moved, turn)
    whole = moved is None and geometry.axis_degrees(turn) % 90 == 0
    tilts = np.zeros(0) if raw.angles_deg is None else raw.angles_deg
    series = TiltSeries(
        images=images,
        angles_deg=tilts,
        pixel_size_nm=size,
        valid=valid,
        quantum=quantum if whole else None,
        name=path.name.split(".")[0] or path.name,
        sources={**raw.sources, **facts.doubt_axis(notes, turn, turns_across(images, tilts))},
        numbers=numbers if exclude else None,
    )
    return series.binned(bin)


def series_shape(
    path: str | Path,
    *,
    angles: str | Path | None = None,
    transforms: str | Path | None = None,
    tilt_axis: str | float = "y",
    bin: int = 1,
    exclude: Sequence[int] = (),
) -> tuple[int, int, int]:
    """Return the shape of the images that `load` would give, up to a column, without screening them.

    Args:
        path: as for `load`.
        angles: as for `load`.
        transforms: as for `load`.
        tilt_axis: as for `load`.
        bin: as for `load`.
        exclude: as for `load`.

    Raises:
        InputError: if the file, its angles or its transforms cannot be read.
    """
    aligner = None if transforms is None else Path(transforms)
    _, raw, moved, turn, _ = _opened(Path(path), angles, aligner, tilt_axis)
    moved = Placement.unmoved(1) if moved is None else moved
    rows, cols = moved.turned(geometry.axis_degrees(turn)).shape(raw.images.shape[1:])
    return len(raw.images) - len(set(exclude)), rows // bin, cols // bin


def load_frames(path: str | Path, *, angles: str | Path | None = None) -> RawStack:
    """Read images with whatever is known of them, without asking that they be a tilt series.

    Args:
        path: as for `load`.
        angles: as for `load`; without any, the stack's angles are None.

    Returns:
        the images in the number type of the file, unchanged, in memory.

    Raises:
        InputError: if the file cannot be read, or the number of angles is not that of the images.
    """
    raw = _frames(Path(path), angles)[1]
    with reading(Path(path)):
        return replace(raw, images=in_memory(raw.images, raw.images.dtype.newbyteorder("=")))


def read_volume(path: str | Path) -> Volume:
    """Read a volume, from MRC or another format that holds stacks.

    Args:
        path: the file.

    Raises:
        InputError: if it is not there, is of no known kind, is cut short, or holds NaN.
    """
    path = Path(path)
    with reading(path):
        kind = _format(path)
        if kind.read is mrc.read:
            return mrc.read_volume(path)
        raw = kind.read(path)
        return Volume(in_memory(raw.images, np.dtype(np.float32)), raw.pixel_size_nm)


def _check_path(name: str, file: object, *, may_be_none: bool) -> None:
    if not (isinstance(file, str | Path) or (file is None and may_be_none)):
        raise InputError(
            f"{name}: expected the path of a file, got {type(file).__name__}; images and angles in memory make a "
            "series by TiltSeries(images, angles_deg)"
        )


def _check_axis(tilt_axis: str | float) -> None:
    try:
        good = tilt_axis in ("x", "y", facts.FILE) or abs(float(tilt_axis)) <= 360
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            "the tilt axis must be y (vertical), x (horizontal), degrees from y within ±360, or file, got "
            f"{tilt_axis!r}"
        )


def _opened(
    path: Path, angles: str | Path | None, aligner: Path | None, tilt_axis: str | float
) -> tuple[Path, RawStack, Placement | None, str | float, dict[str, str]]:
    """Return the stack, what is in it, how its images are moved, its tilt axis, and what is to be said of that."""
    _check_axis(tilt_axis)
    path, raw, looked = _frames(path, angles, aligner is not None or None)
    if raw.angles_deg is None:
        raise InputError(
            f"{path}: no tilt angles found; looked for {', '.join(looked)}; write them into a text file, in degrees, "
            "one a line, and give it with --angles FILE"
        )
    moved = None if aligner is None else read_transforms(aligner, len(raw.images), raw.angles_deg)
    return path, raw, moved, *facts.choose_axis(path, raw, tilt_axis, moved)


def _frames(path: Path, angles: str | Path | None, aligned: bool | None = None) -> tuple[Path, RawStack, list[str]]:
    """Return the stack that a path leads to, what is in it, and where angles were looked for."""
    given, notes = None if angles is None else Path(angles), {}
    if given is not None and not given.is_file():
        raise InputError(f"{given}: no such file of tilt angles; check what was given with --angles")
    if path.suffix.lower() == ".mdoc" and path.is_file():
        given = given or path
        path, note = sidecars.stack_of(path)
        notes = {"note": note} if note else {}
    with reading(path):
        raw = _format(path).read(path)
        raw, looked = facts.settle(path, replace(raw, sources={**raw.sources, **notes}), given, aligned)
        return path, raw, looked


def _format(path: Path) -> Format:
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(_HEAD)
    for kind in FORMATS:
        if (head or path.is_dir()) and kind.matches(path, head):
            return kind
    for kind in FORMATS:
        if path.suffix.lower() in kind.suffixes and not path.is_dir():
            return kind
    raise InputError(f"{path}: {_unknown(path, head)}")


def _unknown(path: Path, head: bytes) -> str:
    known = ", ".join(f"{kind.name} ({', '.join(kind.suffixes)})" for kind in FORMATS if kind.suffixes)
    if path.suffix.lower() in (".rawtlt", ".tlt"):
        return "this is a list of tilt angles; give the stack, and this with --angles"
    what = "unknown kind of file" if head else "an empty file"
    return f"{what}; tiltfield reads {known}; convert it to one of these"


def _without(path: Path, raw: RawStack, exclude: Sequence[int]) -> tuple[RawStack, np.ndarray]:
    """Return the stack without some of its images, and the numbers of those that stay."""
    count = len(raw.images)
    beyond = [n for n in exclude if not 1 <= n <= count]
    if beyond:
        raise InputError(f"{path}: cannot leave out image {beyond[0]}: there are {count}, counted from 1")
    numbers = np.setdiff1d(np.arange(1, count + 1), exclude)
    if not len(numbers):
        raise InputError(f"{path}: all {count} images are left out: nothing remains to be reconstructed")
    if len(numbers) == count or raw.angles_deg is None:
        return raw, numbers
    listed = ", ".join(str(n) for n in sorted(set(exclude)))
    sources = {**raw.sources, "excluded": f"tilt{'s' if ',' in listed else ''} {listed} (counted from 1), as asked for"}
    valid = None if raw.valid is None else raw.valid[numbers - 1]
    left = {"images": raw.images[numbers - 1], "angles_deg": raw.angles_deg[numbers - 1], "sources": sources}
    return replace(raw, **left, valid=valid), numbers


def _measured(raw: RawStack) -> Iterable[np.ndarray]:
    """Return the images one by one, NaN where the file says that a pixel is not valid."""
    if raw.valid is None:
        return in_slabs(raw.images, 1)
    return (np.where(valid, image, np.nan) for image, valid in zip(raw.images, raw.valid, strict=True))


def _screened(path: Path, raw: RawStack, numbers: np.ndarray) -> tuple[RawStack, np.ndarray | None]:
    if raw.valid is not None:
        images = in_memory(raw.images, np.dtype(np.float32))
        return replace(raw, images=images), None if raw.valid.all() else raw.valid
    with reading(path):
        images = in_memory(raw.images, np.dtype(np.float32))
        valid, report = find_bad(images, raw.angles_deg, numbers)
    if valid is not None:
        images = fill(images, valid, in_place=images.flags.writeable)
    sources = {**raw.sources, "bad pixels": "; ".join(report)} if report else raw.sources
    return replace(raw, images=images, sources=sources), valid


def _turned(
    path: Path, images: np.ndarray, valid: np.ndarray | None, moved: Placement | None, tilt_axis: str | float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply transforms and turn the tilt axis upright, with one interpolation at most; mask what has no data."""
    with reading(path):
        degrees = geometry.axis_degrees(tilt_axis)
        if moved is None and degrees % 90 == 0:
            return geometry.orient(images, degrees), None if valid is None else geometry.orient(valid, degrees)
        moved = (Placement.unmoved(len(images)) if moved is None else moved).turned(degrees)
        shape = moved.shape(images.shape[1:])
        seen = in_view(path, moved, (images.shape[1:], shape))
        if valid is not None and not valid.all():
            seen = np.ones((len(images), *shape), bool) if seen is None else seen
            for i in np.flatnonzero(~valid.all(axis=(1, 2))):
                one = Placement(moved.matrices[[i]], moved.shifts[[i]])
                seen[i] &= np.abs(one.move(valid[[i]].astype(np.float32), shape)[0] - 1) < _SPREAD
        return moved.move(images, shape), seen
