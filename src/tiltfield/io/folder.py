"""A folder of single images, one file each, in the natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, guard_size, usable_angles

if TYPE_CHECKING:
    from tiltfield.io import Format

_SAME_SIZE = 0.01  # of the pixel size
_SHARED = ("pixel_size", "pixel size", "tilt_axis")  # what the first file says of all


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key in which "image 10" comes after "image 9".

    Args:
        name: a file name.
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts if part]


def read(folder: Path, formats: Sequence[Format]) -> RawStack:
    """Read the images of a folder, of the kind of which it has most files.

    Args:
        folder: the folder.
        formats: kinds of single files, told by their endings.

    Raises:
        InputError: if there are none, or they are not all of one shape and number type, one in a file.
    """
    found = {kind.name: _files(folder, kind.suffixes) for kind in formats}
    kind = max(formats, key=lambda kind: len(found[kind.name]))
    files = found[kind.name]
    if not files:
        raise InputError(
            f"{folder}: a folder without images; give a stack, or a folder of single images "
            f"({', '.join(suffix for kind in formats for suffix in kind.suffixes)})"
        )
    others = [f"{len(other)} {name}" for name, other in found.items() if other and name != kind.name]
    stack = _stacked(folder, files, kind.read)
    sources: dict[str, str] = {
        **stack.sources,
        "images": f"{len(files)} {kind.name} files in {folder.name}, {files[0].name} to {files[-1].name}",
    }
    if others:
        sources["warning files"] = f"{folder.name} also holds {', '.join(others)}, which were left out"
    return RawStack(stack.images, stack.angles_deg, stack.pixel_size_nm, sources, stack.tilt_axis_deg)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file() and not p.name.startswith(".")]
    return sorted(found, key=lambda p: (natural(p.name), p.name))


def _stacked(folder: Path, files: list[Path], read_one: Callable[[Path], RawStack]) -> RawStack:
    first = read_one(files[0])
    shape, dtype = first.images.shape[1:], first.images.dtype
    guard_size((len(files), *shape), dtype.itemsize, str(folder))
    images = np.empty((len(files), *shape), dtype)
    angles: list[Any] = []
    odd: list[str] = []
    for i, file in enumerate(files):
        one = first if i == 0 else read_one(file)
        if one.images.shape != (1, *shape) or one.images.dtype != dtype:
            want = f"one image of {shape[0]} x {shape[1]} ({dtype}) as in {files[0].name}"
            got = f"{one.images.shape[0]} of {one.images.shape[1]} x {one.images.shape[2]} ({one.images.dtype})"
            raise InputError(f"{file}: expected {want}, got {got}; keep one series in a folder")
        images[i] = one.images[0]
        angles.append(None if one.angles_deg is None else one.angles_deg[0])
        if not _same_size(first.pixel_size_nm, one.pixel_size_nm):
            odd.append(file.name)
    sources = {key: text for key, text in first.sources.items() if key.removeprefix("warning ") in _SHARED}
    if odd:
        sources["warning pixel size"] = f"{odd[0]} has another pixel size than {files[0].name}, which was believed"
    tilts = None if None in angles else usable_angles(np.array(angles, float))
    if tilts is not None:
        sources["angles"] = first.sources.get("angles", "").replace(files[0].name, "each file")
    return RawStack(images, tilts, first.pixel_size_nm, sources, first.tilt_axis_deg)


def _same_size(first: float | None, other: float | None) -> bool:
    if first is None or other is None:
        return first is other
    return abs(other / first - 1) <= _SAME_SIZE
