"""`tiltfield convert`: a volume, or that of a run, written for other programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tiltfield.cli_flags import ExportFlags, Switch
from tiltfield.cli_paths import free
from tiltfield.config import ExportConfig, FormatName
from tiltfield.errors import InputError

if TYPE_CHECKING:
    from tiltfield.export import Image


def convert(
    source: Path,
    /,
    *,
    out: Path | None = None,
    overwrite: Switch = False,
    quiet: Switch = False,
    json: Switch = False,
    flags: Annotated[ExportFlags | None, Parameter(name="*")] = None,
) -> None:
    """Write a volume for other programs: 3dmod, ChimeraX, napari, Fiji.

    Args:
        source: a volume, MRC, or the folder of a run
        out: file to write, .mrc, .rec, .ome.zarr or .tif; with --format what comes before the endings; beside the
            source if not given
        overwrite: replace the files
        quiet: print nothing but errors
        json: print files and scaling as JSON
        flags: the settings
    """
    from tiltfield.export import export
    from tiltfield.jsontext import as_json
    from tiltfield.report import Screen

    config = flags or ExportConfig()
    source = volume_of(source)
    files = _free_files(source, out, config, overwrite)
    image = _image(source, config)
    with Screen(quiet=quiet or json) as screen:
        export(image, files, screen)
    if json:
        print(as_json(_figures(image, files), indent=2))
    elif not quiet:
        print("\n".join(_outcome(image, files)))


def volume_of(source: Path) -> Path:
    """Return the volume that a path names: itself, or that of a run.

    Args:
        source: a file, or the folder of a run.

    Raises:
        InputError: if there is none.
    """
    volume = source / "volume.mrc" if source.is_dir() else source
    if volume.is_file():
        return volume
    if source.is_dir():
        raise InputError(
            f"{source} holds no volume.mrc: give the folder of a run of tiltfield reconstruct, or a volume"
        )
    raise InputError(f"{source}: no such file or folder; give a volume (MRC) or the folder of a run")


def _free_files(source: Path, out: Path | None, config: ExportConfig, overwrite: bool) -> dict[FormatName, Path]:
    """Return the files to write, once all of them may be."""
    from tiltfield.export import outputs

    name = out or source.with_suffix("")
    if name.is_dir() and name.suffix != ".zarr":
        name = name / source.stem
    files = outputs(name, config)
    if not files and out is not None and out.suffix:
        raise InputError(f"{out}: its ending names no format; expected .mrc, .tif or .ome.zarr, or --format beside it")
    if not files:
        raise InputError("nothing to write: name a format, as in --format tiff, or a file, as in --out volume.tif")
    for kind, path in files.items():
        if path.exists() and path.samefile(source):
            raise InputError(f"{path} is the volume itself: give another name with --out, so that it stays")
        if not (overwrite and kind == "ome-zarr" and path.is_dir()):
            free(path, overwrite)
    return files


def _image(source: Path, config: ExportConfig) -> Image:
    from tiltfield.export import make_image
    from tiltfield.export.scaling import DENSITY
    from tiltfield.io.mrc import open_volume
    from tiltfield.io.raw import reading

    with reading(source):
        file = open_volume(source)
    command = shlex.join(["tiltfield", "convert", source.name, *config.flags()])
    image = make_image(file.volume, config, file.origin_nm, (command, *file.labels))
    scaled = [label for label in file.labels if label.startswith(DENSITY)]
    if scaled and not image.scaling.is_plain:
        raise InputError(
            f"the values of {source} are scaled already ({scaled[0]}): convert the volume that it was made from, "
            "or leave out --dtype, --invert and --mean-intensity"
        )
    return image


def _figures(image: Image, files: Mapping[FormatName, Path]) -> dict[str, object]:
    scaling = image.scaling
    return {
        "files": {kind: str(path) for kind, path in files.items()},
        "shape": image.data.shape,
        "axes": image.axes,
        "dtype": str(scaling.dtype),
        "voxel_size_nm": image.voxel_size_nm,
        "density": {"per_value": scaling.inverse[0], "at_value_0": scaling.inverse[1]},
    }


def _outcome(image: Image, files: Mapping[FormatName, Path]) -> list[str]:
    from tiltfield.export import WRITERS

    lines = []
    for kind, path in files.items():
        lines += [f"wrote {path} ({image}); open it with", f"  {WRITERS[kind].opens.format(path)}"]
    return lines
