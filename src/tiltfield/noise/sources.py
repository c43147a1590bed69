"""Files of images that noise is learned from: clean and noisy ones, or repeated frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io import load_frames
from tiltfield.noise.learn import Pairs
from tiltfield.noise.pairs import centre, given, join
from tiltfield.noise.repeats import pairs_from_repeats
from tiltfield.observe import Observer

About = dict[str, Any]


def read_pairs(clean: Path, noisy: Path, crop: int | None = None) -> tuple[Pairs, About]:
    """Read images without and with noise.

    Args:
        clean: file of the clean images; one image may serve all noisy ones.
        noisy: file of the noisy ones.
        crop: use only the middle, this many pixels wide and high.

    Returns:
        the images, and where they came from, JSON-ready.

    Raises:
        InputError: if a file cannot be read or they do not belong together.
    """
    images = [cropped(load_frames(path).images, crop) for path in (clean, noisy)]
    return given(*images), {"sources": [str(clean), str(noisy)]}


def read_repeats(
    paths: Sequence[Path], crop: int | None = None, observer: Observer | None = None
) -> tuple[Pairs, About]:
    """Read repeated frames and estimate their clean images.

    Args:
        paths: stacks, each of one field, or files of one frame each, all of the same field.
        crop: use only the middle, this many pixels wide and high.
        observer: told what was found.

    Returns:
        the images, and what was found, JSON-ready.

    Raises:
        InputError: if a file cannot be read or the frames are no repeats.
    """
    found = [pairs_from_repeats(cropped(frames, crop), observer) for frames in fields(paths)]
    about = {
        "sources": [str(path) for path in paths],
        "denoiser": [f.denoiser for f in found],
        "error_share": [f.error_share for f in found],
        "notes": [note for f in found for note in f.notes],
    }
    return join([f.pairs for f in found]), about


def fields(paths: Sequence[Path]) -> list[np.ndarray]:
    """Read the frames of each field: stacks are fields of their own, single frames are all of one.

    Args:
        paths: the files.

    Returns:
        arrays (frame, row, col) in the number type of the files.

    Raises:
        InputError: if a file cannot be read, or single frames are mixed with stacks, alone, or of several shapes.
    """
    stacks = [load_frames(path).images for path in paths]
    single = [path for path, images in zip(paths, stacks, strict=True) if len(images) == 1]
    if not single:
        return stacks
    if len(single) < len(stacks):
        raise InputError(
            f"{single[0]} holds one frame and others hold several: give stacks, each of one field, or files of one "
            "frame each, all of the same field"
        )
    if len(single) == 1:
        raise InputError(f"{single[0]} holds one frame: repeats need at least two of the same field")
    shapes = {images.shape[1:] for images in stacks}
    if len(shapes) > 1:
        raise InputError(f"frames of one field must have one shape, got {', '.join(map(str, sorted(shapes)))}")
    return [np.concatenate(stacks)]


def cropped(images: np.ndarray, crop: int | None) -> np.ndarray:
    """Return the middle of images, or all of them.

    Args:
        images: shape (frame, row, col).
        crop: pixels along an edge, or None; images that are smaller stay as they are.
    """
    if crop is None or images.ndim != 3:
        return images
    return centre(images, *(min(crop, n) for n in images.shape[1:]))
