"""Volumes written for other programs: MRC, OME-Zarr, TIFF; a few planes at a time, never a second copy.

A format is one file with a function from an :class:`Image` and a path, and one line in `WRITERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tiltfield.config import ExportConfig, FormatName
from tiltfield.errors import InputError
from tiltfield.export.image import Image, make_image
from tiltfield.export.imagej import write_tiff
from tiltfield.export.mrc import write_mrc
from tiltfield.export.ome_zarr import write_ome_zarr
from tiltfield.observe import Observer
from tiltfield.series import Volume

__all__ = ["WRITERS", "Image", "Writer", "export", "make_image", "outputs", "save"]


@dataclass(frozen=True)
class Writer:
    """How a format is written.

    Attributes:
        endings: of its files; the first is used where none is given.
        write: writes an image to a path, whole or not at all.
        opens: what a user opens it with; {} stands for the file.
    """

    endings: tuple[str, ...]
    write: Callable[[Image, Path], None]
    opens: str


WRITERS: dict[FormatName, Writer] = {
    "mrc": Writer((".rec", ".mrc", ".map"), write_mrc, "3dmod {}"),
    "ome-zarr": Writer((".ome.zarr", ".zarr"), write_ome_zarr, "napari --plugin napari-ome-zarr {}"),
    "tiff": Writer((".tif", ".tiff"), write_tiff, "Fiji: File > Open, {}"),
}


def outputs(name: Path, config: ExportConfig) -> dict[FormatName, Path]:
    """Return the files that the settings ask for.

    An ending that a format knows says which format is meant; otherwise the endings of the formats are added.

    Args:
        name: the file to write, or what comes before its ending.
        config: the settings.

    Raises:
        InputError: if no format is named, or another than the ending's.
    """
    known = [kind for kind, writer in WRITERS.items() if name.name.lower().endswith(writer.endings)]
    if known and set(config.format) <= set(known):
        ExportConfig.parse(config.model_dump(include=set(ExportConfig.model_fields)) | {"format": known}, str(name))
        return {known[0]: name}
    if known:
        raise InputError(
            f"{name} ends as {known[0]}, but --format says {', '.join(config.format)}: give a name without ending"
        )
    return {kind: name.with_name(name.name + WRITERS[kind].endings[0]) for kind in config.formats}


def export(image: Image, files: Mapping[FormatName, Path], observer: Observer) -> None:
    """Write a volume in every format that is asked for, replacing files of the same names.

    Args:
        image: the volume.
        files: where to, by format.
        observer: shows how far it is.

    Raises:
        InputError: if a file cannot be written.
    """
    for kind, path in files.items():
        stage = f"writing {path.name}"
        watch = partial(observer.progress, stage, seconds_left=None, figures={})
        WRITERS[kind].write(replace(image, watch=watch), path)


def save(volume: Volume, path: Path) -> Path:
    """Write a volume as it is, in the format of the path's ending, replacing what is there.

    Args:
        volume: the densities.
        path: file to write.

    Returns:
        the path.

    Raises:
        InputError: if no format has such an ending, or the file cannot be written.
    """
    config = ExportConfig()
    files = outputs(path, config)
    if not files:
        endings = ", ".join(ending for writer in WRITERS.values() for ending in writer.endings)
        raise InputError(f"{path}: the ending says how a volume is written: expected one of {endings}")
    export(make_image(volume, config), files, Observer())
    return path
