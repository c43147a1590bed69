"""HyperSpy's layout of signals, in HDF5 (.hspy) and in Zarr (.zspy): experiments of data, axes and metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, degrees_per, evenly_spaced, nm_per, square_pixel, usable_angles

Guard = Callable[[Path, Any], dict[str, str]]  # refuses a dataset that cannot be in the file; says what is amiss
_TILTS = (
    "metadata/Tomography/_sig_tilts",
    "metadata/Tomography/_sig_tilts/data",
    "metadata/Tomography/tilts",
    "metadata/Tomography/tilts/data",
    "metadata/Acquisition_instrument/TEM/Stage/tilt_alpha",
    "original_metadata/fei_header/a_tilt",
)
_MOST_TILTS = 65536


def read(path: Path, root: Any, guard: Guard) -> RawStack:
    """Read the first experiment with a stack of images.

    Args:
        path: the file, for messages.
        root: its root, a group of h5py or zarr.
        guard: called with the path and the dataset before that is read.

    Raises:
        InputError: if no experiment holds images.
    """
    name, experiment, data = _experiment(path, root)
    notes = guard(path, data)
    axes = [_axis(experiment, i, data.ndim) for i in range(data.ndim)]
    tilt = _tilt_axis(axes) if data.ndim == 3 else None
    n = 1 if tilt is None else data.shape[tilt]
    angles, where = _angles(experiment, n, axes[tilt] if tilt is not None else {})
    images = np.asarray(data[...])
    images = images[None] if tilt is None else np.ascontiguousarray(np.moveaxis(images, tilt, 0))
    sizes = [_nm(axis) for i, axis in enumerate(axes) if i != tilt]
    size, sources = square_pixel(sizes, f"image axes of {path.name}")
    sources |= notes | {"images": f"{path.name} (HyperSpy, Experiments/{name}, {images.dtype})"}
    if angles is not None:
        sources["angles"] = f"{where} in {path.name}"
    return RawStack(images, angles, size, sources)


def attribute(node: Any, key: str, most: int = 16) -> Any:
    """Return an attribute of a group or dataset, plain, or None if there is none.

    Args:
        node: of h5py or zarr.
        key: its name.
        most: values; what a damaged file makes larger is None too.
    """
    if key not in node.attrs:
        return None
    if not isinstance(node, h5py.Group | h5py.Dataset):
        return node.attrs[key]
    it = node.attrs.get_id(key)
    if it.shape is None or np.prod(it.shape, dtype=float) > most or it.dtype.itemsize > 4096:
        return None
    value = node.attrs[key]
    if isinstance(value, np.ndarray) and value.size == 1:  # tomviz writes lists of one string
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def number(value: Any) -> float | None:
    """Return a value as a float, or None if it is no finite number.

    Args:
        value: whatever a file holds.
    """
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _experiment(path: Path, root: Any) -> tuple[str, Any, Any]:
    group, seen = root.get("Experiments"), []
    for name in group if hasattr(group, "get") else ():
        data: Any = group[name].get("data") if hasattr(group[name], "get") else None
        if hasattr(data, "ndim") and data.dtype.kind in "iuf" and data.ndim in (2, 3):
            return name, group[name], data
        seen.append(f"{name}: {getattr(data, 'shape', 'no data')} {getattr(data, 'dtype', '')}".strip())
    raise InputError(f"{path}: expected an experiment with images (tilt, row, col), got {'; '.join(seen) or 'none'}")


def _axis(experiment: Any, index: int, ndim: int) -> dict[str, Any]:
    group = experiment.get(f"axis-{index}")
    group = experiment.get(f"_list_{ndim}_axes/{index}") if group is None else group
    names = ("name", "units", "scale", "offset", "navigate")
    return {} if group is None else {key: attribute(group, key) for key in names}


def _nm(axis: dict[str, Any]) -> float | None:
    unit, scale = nm_per(str(axis.get("units", ""))), number(axis.get("scale"))
    return scale * unit if unit and scale else None


def _tilt_axis(axes: list[dict[str, Any]]) -> int:
    for i, axis in enumerate(axes):
        if degrees_per(str(axis.get("units", ""))) or "tilt" in str(axis.get("name", "")).lower():
            return i
    moving = [i for i, axis in enumerate(axes) if axis.get("navigate") is True]
    return moving[0] if len(moving) == 1 else 0


def _angles(experiment: Any, n: int, axis: dict[str, Any]) -> tuple[np.ndarray | None, str]:
    for name in _TILTS:
        values = _listed(experiment, name, n)
        if values is not None:
            return values, name
    unit = str(axis.get("units", ""))
    return evenly_spaced(number(axis.get("scale")), number(axis.get("offset")), unit, n), "tilt axis"


def _listed(experiment: Any, name: str, n: int) -> np.ndarray | None:
    """Tilts under `name`, a dataset or an attribute: n of them, or more of which the rest is padding."""
    parent, _, last = name.rpartition("/")
    node = experiment.get(name)
    if node is None and experiment.get(parent) is not None:
        node = attribute(experiment[parent], last, _MOST_TILTS)
        node = np.asarray(node) if isinstance(node, list | np.ndarray | int | float) else None
    if node is None or not hasattr(node, "ndim") or node.dtype.kind not in "iuf" or not n <= node.size <= _MOST_TILTS:
        return None
    values = np.asarray(node[...], dtype=np.float64).ravel()
    padded = values.size > n and np.any(values[n:] != 0)
    return None if padded else usable_angles(values[:n])
