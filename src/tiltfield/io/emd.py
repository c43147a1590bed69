"""EMD files, two layouts of HDF5 under one ending: Velox of Thermo Fisher, and that of Berkeley, which tomviz writes.

Velox: ``Data/Image/<id>/Data`` of shape (row, col, frame), and ``Metadata``, JSON as bytes, a column a frame. Berkeley:
a group with the attribute ``emd_group_type`` holds ``data`` and ``dim1``, ``dim2``, ... with ``name`` and ``units``.
(emdatasets.com; Velox's layout after its files.)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.hyperspy import Guard, attribute, number
from tiltfield.io.raw import RawStack, degrees_per, nm_per, square_pixel, usable_angles

_MOST_JSON = 2**20  # bytes of one frame
_MOST_TILTS = 65536


def read_velox(path: Path, file: h5py.File, guard: Guard) -> RawStack:
    """Read the images of a Velox file, of its first detector with the most frames.

    Args:
        path: the file, for messages.
        file: opened.
        guard: called with the path and the dataset before that is read.

    Raises:
        InputError: if there are none.
    """
    images = [group for group in file["Data/Image"].values() if _is_stack(group)]
    if not images:
        raise InputError(f"{path}: expected grey images (row, col, frame) in Data/Image, got none; export it as MRC")
    group = max(images, key=lambda g: g["Data"].shape[2])
    data = group["Data"]
    notes = guard(path, data)
    first: dict[str, Any] = next(_frames_json(group, 1), {})
    tilts = np.array([_alpha(frame) for frame in _frames_json(group, data.shape[2])])
    angles = usable_angles(tilts) if len(tilts) == data.shape[2] else None
    size, sources = square_pixel(_velox_sizes(first), f"metadata of {path.name}")
    others = f", one of {len(images)} in the file" if len(images) > 1 else ""
    sources |= notes | {"images": f"{path.name} (Velox, detector {_detector(first)}{others}, {data.dtype})"}
    if angles is not None:
        sources["angles"] = f"stage tilts in {path.name}"
    return RawStack(_velox_frames(data), angles, size, sources)


def find_berkeley(file: h5py.File) -> h5py.Group | None:
    """Return the first group of images in the layout of Berkeley, or None.

    Args:
        file: opened.
    """
    found: list[h5py.Group] = []

    def look(_: str, node: Any) -> bool | None:
        if not isinstance(node, h5py.Group) or attribute(node, "emd_group_type") != 1:
            return None
        data = node.get("data")
        if isinstance(data, h5py.Dataset) and data.dtype.kind in "iuf" and data.ndim in (2, 3):
            found.append(node)
            return True
        return None

    file.visititems(look)
    return found[0] if found else None


def read_berkeley(path: Path, group: h5py.Group, guard: Guard) -> RawStack:
    """Read images with the axes that their file names; which is the tilt, a unit of angle or a name tells.

    Args:
        path: the file, for messages.
        group: as `find_berkeley` gives it.
        guard: called with the path and the dataset before that is read.

    Raises:
        InputError: if the dataset cannot be in the file.
    """
    data = group["data"]
    notes = guard(path, data)
    first = 0 if "dim0" in group else 1
    axes = [_dim(path, group.get(f"dim{i + first}"), n) for i, n in enumerate(data.shape)]
    tilt, row, col = _order([name for name, _, _ in axes], [unit for _, unit, _ in axes])
    images = np.transpose(data[...], [row, col] if tilt is None else [tilt, row, col])
    images = np.ascontiguousarray(images[None] if tilt is None else images)
    angles = None if tilt is None else _berkeley_angles(axes[tilt])
    size, sources = square_pixel([_step_nm(axes[row]), _step_nm(axes[col])], f"image axes of {path.name}")
    sources |= notes | {"images": f"{path.name} (EMD, {group.name.strip('/')}, {images.dtype})"}
    if angles is not None:
        sources["angles"] = f"axis '{axes[tilt or 0][0]}' of {path.name}"
    return RawStack(images, angles, size, sources)


def _is_stack(group: Any) -> bool:
    data = group.get("Data") if isinstance(group, h5py.Group) else None
    return isinstance(data, h5py.Dataset) and data.ndim == 3 and data.dtype.kind in "iuf" and min(data.shape) > 0


def _velox_frames(data: h5py.Dataset) -> np.ndarray:
    """Frames first; one at a time, as Velox stores them, for HDF5 is slow and greedy at turning them all at once."""
    if data.chunks is not None and data.chunks[2] > 1:
        return np.ascontiguousarray(np.moveaxis(data[...], 2, 0))
    images = np.empty((data.shape[2], *data.shape[:2]), data.dtype)
    for i in range(len(images)):
        images[i] = data[:, :, i]
    return images


def _frames_json(group: h5py.Group, n: int) -> Iterator[dict[str, Any]]:
    """Yield the metadata of each frame that has any; a file may have one for all."""
    data = group.get("Metadata")
    if not isinstance(data, h5py.Dataset) or data.ndim != 2 or data.dtype != np.uint8 or data.shape[0] > _MOST_JSON:
        return
    for i in range(min(data.shape[1], n)):
        try:
            frame = json.loads(data[:, i].tobytes().rstrip(b"\0") or b"{}")
        except ValueError:
            return
        yield frame if isinstance(frame, dict) else {}


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _figure(value: Any) -> float | None:
    """Velox writes numbers as strings."""
    try:
        return number(float(value))
    except (TypeError, ValueError):
        return None


def _alpha(frame: dict[str, Any]) -> float:
    alpha = _figure(_at(frame, "Stage", "AlphaTilt"))
    return math.nan if alpha is None else math.degrees(alpha)


def _detector(frame: dict[str, Any]) -> str:
    index = _at(frame, "BinaryResult", "DetectorIndex")
    name = _at(frame, "Detectors", f"Detector-{index}", "DetectorName") or _at(frame, "BinaryResult", "Detector")
    return str(name or "?")


def _velox_sizes(frame: dict[str, Any]) -> tuple[float | None, float | None]:
    unit = nm_per(str(_at(frame, "BinaryResult", "PixelUnitX")))
    sizes = (_figure(_at(frame, "BinaryResult", "PixelSize", side)) for side in ("height", "width"))
    high, wide = (None if size is None or unit is None else size * unit for size in sizes)
    return high, wide


Dim = tuple[str, str, np.ndarray]


def _dim(path: Path, data: Any, n: int) -> Dim:
    """Name, unit and values of an axis; values may be the first two only."""
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf" or data.size > _MOST_TILTS:
        return "", "", np.zeros(0)
    name, unit = (str(attribute(data, key) or "") for key in ("name", "units"))
    values = np.asarray(data[...], np.float64).ravel()
    if values.size == 2 < n and np.all(np.isfinite(values)):
        values = values[0] + (values[1] - values[0]) * np.arange(n)
    return name, re.sub(r"[\[\]_]", "", unit), values


def _order(names: list[str], units: list[str]) -> tuple[int | None, int, int]:
    """Which axes are tilt, row and column: by their names, else as they come, reversed where the tilt comes last."""
    said = [
        degrees_per(unit) is not None or re.search("tilt|angle", name.lower())
        for name, unit in zip(names, units, strict=True)
    ]
    if len(names) == 2:
        tilt, rest = None, [0, 1]
    else:
        tilt = next((i for i, angle in enumerate(said) if angle), 2 if names == ["x", "y", "z"] else 0)
        rest = [i for i in range(3) if i != tilt]
    plain = [names[i].lower() for i in rest]
    if plain == ["x", "y"] or (plain != ["y", "x"] and tilt == 2):
        rest.reverse()
    return tilt, rest[0], rest[1]


def _berkeley_angles(axis: Dim) -> np.ndarray | None:
    each = degrees_per(axis[1])
    if each is None and not re.search("tilt|angle", axis[0].lower()):
        return None
    return usable_angles(axis[2] * (each or 1.0))


def _step_nm(axis: Dim) -> float | None:
    unit, values = nm_per(axis[1]), axis[2]
    return None if unit is None or values.size < 2 else float(values[1] - values[0]) * unit
