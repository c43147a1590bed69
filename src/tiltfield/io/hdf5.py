"""HyperSpy files (.hspy): HDF5 with one or more experiments of data, axes and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import RawStack, guard_size, nm_per, plausible_pixel

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TILTS = (
    "metadata/Tomography/_sig_tilts",
    "metadata/Tomography/_sig_tilts/data",
    "metadata/Tomography/tilts",
    "metadata/Tomography/tilts/data",
    "metadata/Acquisition_instrument/TEM/Stage/tilt_alpha",
    "original_metadata/fei_header/a_tilt",
)
_DEGREES = ("deg", "degree", "degrees", "°")
_MOST_TILTS = 65536
_MOST_COMPRESSION = 1100  # deflate cannot shrink more


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is HDF5.

    Args:
        path: the file.
        head: its first bytes.
    """
    return head.startswith(_SIGNATURE)


def read(path: Path) -> RawStack:
    """Read the first experiment with a stack of images.

    Args:
        path: the file.

    Raises:
        InputError: if no experiment holds images, or they do not fit the size of the file.
    """
    with h5py.File(path, "r") as file:
        name, experiment, data = _experiment(path, file)
        _guard(path, data)
        axes = [_axis(experiment, i, data.ndim) for i in range(data.ndim)]
        tilt = _tilt_axis(axes) if data.ndim == 3 else None
        images = data[...]
        n = 1 if tilt is None else data.shape[tilt]
        angles, where = _angles(experiment, n, axes[tilt] if tilt is not None else {})
    images = images[None] if tilt is None else np.ascontiguousarray(np.moveaxis(images, tilt, 0))
    size, sources = _pixel_size(path, [a for i, a in enumerate(axes) if i != tilt])
    sources["images"] = f"{path.name} (HyperSpy, Experiments/{name}, {images.dtype})"
    if angles is not None:
        sources["angles"] = f"{where} in {path.name}"
    return RawStack(images, angles, size, sources)


def _experiment(path: Path, file: h5py.File) -> tuple[str, h5py.Group, h5py.Dataset]:
    group = file.get("Experiments")
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: expected a HyperSpy file with a group 'Experiments', got {sorted(file)[:8]}")
    seen = []
    for name in group:
        data = group[name].get("data") if isinstance(group[name], h5py.Group) else None
        if isinstance(data, h5py.Dataset) and data.dtype.kind in "iuf" and data.ndim in (2, 3):
            return name, group[name], data
        seen.append(f"{name}: {getattr(data, 'shape', 'no data')} {getattr(data, 'dtype', '')}".strip())
    raise InputError(f"{path}: expected an experiment with images (tilt, row, col), got {'; '.join(seen) or 'none'}")


def _guard(path: Path, data: h5py.Dataset) -> None:
    need = guard_size(data.shape, data.dtype.itemsize, str(path))
    stored, size = data.id.get_storage_size(), path.stat().st_size
    compressed = data.chunks is not None
    if stored > size or need > stored * (_MOST_COMPRESSION if compressed else 1):
        raise InputError(
            f"{path}: images of shape {data.shape} need {need} bytes, the file holds {min(stored, size)} of them; "
            "it is damaged or cut short, copy it again"
        )


def _axis(experiment: h5py.Group, index: int, ndim: int) -> dict[str, Any]:
    group = experiment.get(f"axis-{index}") or experiment.get(f"_list_{ndim}_axes/{index}")
    if group is None:
        return {}
    names = ("name", "units", "scale", "offset", "navigate")
    return {key: _plain(_attribute(group, key, 16)) for key in names}


def _attribute(node: h5py.Group, key: str, most: int) -> Any:
    """Return an attribute, or None if it is not there or is, in a damaged file, larger than `most` values."""
    if key not in node.attrs:
        return None
    attribute = node.attrs.get_id(key)
    if attribute.shape is None or np.prod(attribute.shape, dtype=float) > most or attribute.dtype.itemsize > 4096:
        return None
    return node.attrs[key]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _tilt_axis(axes: list[dict[str, Any]]) -> int:
    for i, axis in enumerate(axes):
        if str(axis.get("units", "")).lower() in _DEGREES or "tilt" in str(axis.get("name", "")).lower():
            return i
    moving = [i for i, axis in enumerate(axes) if axis.get("navigate") is True]
    return moving[0] if len(moving) == 1 else 0


def _angles(experiment: h5py.Group, n: int, axis: dict[str, Any]) -> tuple[np.ndarray | None, str]:
    for name in _TILTS:
        values = _listed(experiment, name, n)
        if values is not None:
            return values, name
    scale, offset = _number(axis.get("scale")), _number(axis.get("offset"))
    if scale and offset is not None and str(axis.get("units", "")).lower() in _DEGREES:
        return offset + scale * np.arange(n), "tilt axis"
    return None, ""


def _listed(experiment: h5py.Group, name: str, n: int) -> np.ndarray | None:
    """Tilts under `name`, a dataset or an attribute: n of them, or more of which the rest is padding."""
    parent, _, last = name.rpartition("/")
    node = experiment.get(name)
    if node is None and parent in experiment:
        node = _attribute(experiment[parent], last, _MOST_TILTS)
    if (
        not isinstance(node, h5py.Dataset | np.ndarray)
        or not n <= node.size <= _MOST_TILTS
        or node.dtype.kind not in "iuf"
    ):
        return None
    values = np.asarray(node, dtype=np.float64).ravel()
    padded = values.size > n and np.any(values[n:] != 0)
    values = values[:n]
    bad = padded or not np.all(np.isfinite(values)) or np.any(np.abs(values) > 180) or not np.any(values)
    return None if bad else values


def _pixel_size(path: Path, axes: list[dict[str, Any]]) -> tuple[float | None, dict[str, str]]:
    sizes = []
    for axis in axes:
        unit, scale = nm_per(str(axis.get("units", ""))), _number(axis.get("scale"))
        sizes.append(abs(scale) * unit if unit and scale else 0.0)
    if not all(plausible_pixel(size) for size in sizes):
        return None, {}
    sources = {"pixel_size": f"image axes of {path.name}"}
    if abs(sizes[0] / sizes[-1] - 1) > 0.01:
        sources["warning pixel size"] = f"pixels of {sizes[-1]:.4g} x {sizes[0]:.4g} nm are not square"
    return sizes[-1], sources
