"""OME-Zarr 0.5: a pyramid of chunked arrays, for napari, neuroglancer and whatever reads over a network.

Open Microscopy Environment, OME-Zarr specification, version 0.5 (https://ngff.openmicroscopy.org/0.5/).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import tiltfield
from tiltfield.errors import InputError
from tiltfield.export.image import Image
from tiltfield.export.scaling import display_range, extremes
from tiltfield.replacing import replacing

CHUNK = (32, 128, 128)  # 2 MiB of float32: thin along z, as sections are what is looked at first
SMALLEST = 128  # the coarsest level is no longer than this


def write_ome_zarr(image: Image, path: Path) -> None:
    """Write a volume as OME-Zarr 0.5: axes z, y, x in nm, each level half the one before by the mean of 2³ voxels.

    Chunks of one slab share a file (a shard), so that a large volume is some dozens of files.

    Args:
        image: the volume.
        path: folder to write; built under a temporary name beside it, then renamed.

    Raises:
        InputError: if it cannot be written.
    """
    import zarr

    with _replacing_folder(path) as part:
        group = zarr.create_group(part, zarr_format=3)
        levels = [_array(group, str(k), shape, image) for k, shape in enumerate(pyramid(image.data.shape))]
        for k, slab in enumerate(image.slabs(CHUNK[0])):
            levels[0][k * CHUNK[0] : k * CHUNK[0] + len(slab)] = slab
        for fine, coarse in itertools.pairwise(levels):
            for k in range(0, coarse.shape[0], CHUNK[0]):
                coarse[k : k + CHUNK[0]] = halved(np.asarray(fine[2 * k : 2 * (k + CHUNK[0])]))
        group.attrs.update(_attributes(image, len(levels), path))


def pyramid(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of the levels, each half the one before, rounded up.

    Args:
        shape: of the finest.
    """
    shapes = [shape]
    while max(shapes[-1]) > SMALLEST and min(shapes[-1]) > 1:
        shapes.append(tuple((n + 1) // 2 for n in shapes[-1]))
    return shapes


def halved(block: np.ndarray) -> np.ndarray:
    """Return the means of 2 × 2 × 2 voxels, in the type of the block; at an odd end the last voxel counts twice.

    Args:
        block: shape (z, y, x).
    """
    kind = block.dtype
    for axis in range(block.ndim):
        even, odd = (np.swapaxes(block, 0, axis)[first::2] for first in (0, 1))
        if len(odd) < len(even):
            odd = np.concatenate([odd, even[-1:]])
        block = np.swapaxes((even.astype(np.float32, copy=False) + odd) / 2, 0, axis)
    return block if kind.kind == "f" else np.rint(block).astype(kind)


def _array(group: Any, name: str, shape: tuple[int, ...], image: Image) -> Any:
    from zarr.codecs import BloscCodec

    chunks = tuple(min(c, n) for c, n in zip(CHUNK, shape, strict=True))
    whole = tuple(-(-n // c) * c for n, c in zip(shape, chunks, strict=True))
    return group.create_array(
        name,
        shape=shape,
        dtype=image.scaling.dtype,
        chunks=chunks,
        shards=(chunks[0], *whole[1:]),
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
        dimension_names=("z", "y", "x"),
    )


def _attributes(image: Image, levels: int, path: Path) -> dict[str, Any]:
    unit = {"unit": "nanometer"} if image.voxel_size_nm else {}
    multiscale = {
        "name": path.name.split(".")[0],
        "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
        "datasets": [_dataset(image, k) for k in range(levels)],
        "type": "mean",
    }
    ours = {
        "version": tiltfield.__version__,
        "about": list(image.about),
        "density": {"per_value": image.scaling.inverse[0], "at_value_0": image.scaling.inverse[1]},
    }
    return {"ome": {"version": "0.5", "multiscales": [multiscale], "omero": _omero(image)}, "tiltfield": ours}


def _omero(image: Image) -> dict[str, Any]:
    """Return how it is to be shown: without it, napari takes the contrast of the first section, which is empty."""
    start, end = display_range(image.data, image.scaling)
    low, high = sorted(float(v) for v in image.scaling.apply(np.array(extremes(image.data), np.float32)))
    window = {"min": min(low, start), "max": max(high, end), "start": start, "end": end}
    channel = {"label": "density", "color": "FFFFFF", "active": True, "window": window}
    return {"channels": [channel], "rdefs": {"model": "greyscale"}}


def _dataset(image: Image, level: int) -> dict[str, Any]:
    """Return where a level lies: its first voxel is centred between those of the finest that it is the mean of."""
    size = image.voxel_size_nm or 1.0
    shift = (2**level - 1) / 2 * size
    transforms = [
        {"type": "scale", "scale": [size * 2**level] * 3},
        {"type": "translation", "translation": [first + shift for first in reversed(image.origin_nm)]},
    ]
    return {"path": str(level), "coordinateTransformations": transforms}


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which takes its place at the end, unless something was raised."""
    if path.is_dir() and not (path / "zarr.json").is_file():
        raise InputError(f"{path} is a folder, but no Zarr: give another name, so that it stays")
    with replacing(path) as part:
        part.mkdir()
        yield part
