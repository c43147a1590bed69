"""What napari shows of a run: the volume, its uncertainty, the series; as layers of the right scale.

napari finds `get_reader` by the manifest ``napari.yaml`` in this package. Nothing here imports napari but `show`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.export.scaling import display_range
from tiltfield.extras import package
from tiltfield.io import load
from tiltfield.io.mrc import open_volume
from tiltfield.io.raw import reading
from tiltfield.runfolder import RunFolder

Layer = tuple[np.ndarray, dict[str, Any], str]
"""Data, keywords and kind of a layer, as a reader of napari returns it."""


def layers(source: Path) -> list[Layer]:
    """Return the layers of a run, lowest first: series and uncertainty hidden, density shown.

    Axes are (z, y, x) in nm, or in voxels where their size is unknown; the series has one voxel a tilt along z, around
    the middle of the volume. Volumes are mapped from their files, not read.

    Args:
        source: the folder of a run, or a volume alone.

    Raises:
        InputError: if there is no volume, or it cannot be read.
    """
    if source.is_file():
        return [_volume_layer(source, source.stem)]
    volume = source / "volume.mrc"
    if not volume.is_file():
        raise InputError(
            f"{source} holds no volume.mrc: give the folder of a run of tiltfield reconstruct, or a volume"
        )
    found = [_volume_layer(volume, "density")]
    if (source / "uncertainty.mrc").is_file():
        found.append(
            _volume_layer(
                source / "uncertainty.mrc", "uncertainty", colormap="magma", blending="additive", visible=False
            )
        )
    series = _series_layer(source)
    return [series, *found] if series else found


def get_reader(path: str | Sequence[str]) -> Callable[[str], list[Layer]] | None:
    """Return what reads a path for napari, or None if it is not the folder of a run.

    Args:
        path: what napari was asked to open.
    """
    if not isinstance(path, str) or not all((Path(path) / name).is_file() for name in ("volume.mrc", "config.yaml")):
        return None
    return lambda run: layers(Path(run))


def show(source: Path) -> None:
    """Open napari with the layers of a run, and wait until it is closed.

    Args:
        source: the folder of a run, or a volume alone.

    Raises:
        InputError: if napari is not installed, or there is nothing to show.
    """
    found = layers(source)
    napari = package("napari", "view", "tiltfield view")
    viewer = napari.Viewer(title=f"tiltfield: {source}")
    added = [viewer.add_layer(napari.layers.Layer.create(*layer)) for layer in found]
    viewer.layers.selection.active = next(layer for layer in added if layer.visible)  # its controls, its values
    viewer.scale_bar.visible = True
    napari.run()


def _volume_layer(path: Path, name: str, **keywords: Any) -> Layer:
    with reading(path):
        file = open_volume(path)
    x, y, z = file.origin_nm or (0.0, 0.0, 0.0)
    look = {"colormap": "gray", **keywords}
    return file.volume.data, {**_place(file.volume.data, name, file.volume.voxel_size_nm, (z, y, x)), **look}, "image"


def _series_layer(folder: Path) -> Layer | None:
    """Return the series of a run, or None if its files are not where they were."""
    try:
        path, config = RunFolder(folder, resume=True, to_read=True).recorded()
        series = load(path, **config.reading) if path else None
    except InputError:
        return None
    if series is None:
        return None
    size = series.pixel_size_nm
    first = (-(len(series.images) - 1) / 2 * (size or 1.0), 0.0, 0.0)
    about = {"visible": False, "colormap": "gray", "metadata": {"angles_deg": series.angles_deg.tolist()}}
    return series.images, {**_place(series.images, "series (tilts along z)", size, first), **about}, "image"


def _place(data: np.ndarray, name: str, size_nm: float | None, first: tuple[float, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "scale": (size_nm or 1.0,) * 3,
        "translate": first,
        "units": ("nm" if size_nm else "pixel",) * 3,
        "axis_labels": ("z", "y", "x"),
        "contrast_limits": display_range(data),
    }
