"""Files of images that noise is learned from: clean and noisy ones, or repeated frames."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io import load_frames
from tiltfield.noise.file import NoiseFile
from tiltfield.noise.learn import Pairs
from tiltfield.noise.pairs import centre, given, join, joint
from tiltfield.noise.repeats import pairs_from_repeats, recording_of_frames
from tiltfield.observe import Observer

_ONE_TILT = 0.5  # degrees within which frames are of one tilt
_ROOM = 0.25  # of the range fitted to, beyond which a model is not trusted
About = dict[str, Any]


def read_images(
    source: tuple[Path, Path] | list[Path], crop: int | None = None, observer: Observer | None = None
) -> tuple[Pairs, About]:
    """Read a tuple of files as :func:`read_pairs` does, and a list as :func:`read_repeats`.

    Args:
        source: the files.
        crop: use only the middle, this many pixels wide and high.
        observer: told what was found.
    """
    return read_pairs(*source, crop) if isinstance(source, tuple) else read_repeats(source, crop, observer)


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
    images = [load_frames(path).images for path in (clean, noisy)]
    sources = [_source(clean, images[0], "clean"), _source(noisy, images[1], "noisy")]
    return given(*(cropped(side, crop) for side in images)), {"sources": sources}


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
    raw = [load_frames(path) for path in paths]
    _refuse_tilts(paths, [stack.angles_deg for stack in raw])
    stacks = [stack.images for stack in raw]
    parts = [cropped(frames, crop) for frames in _fields(paths, stacks)]
    recording = joint([recording_of_frames(frames) for frames in parts])  # before noise is filtered, for all alike
    found = [pairs_from_repeats(frames, observer, recording=recording) for frames in parts]
    about = {
        "sources": [_source(path, images, "noisy") for path, images in zip(paths, stacks, strict=True)],
        "denoiser": [f.denoiser for f in found],
        "error_share": [f.error_share for f in found],
        "notes": [note for f in found for note in f.notes],
    }
    return join([f.pairs for f in found]), about


def flattered(fitted: Mapping[str, Mapping[str, Any]], judged: Mapping[str, Any]) -> list[str]:
    """Say which models were fitted to frames that they are judged by, whatever files these are in.

    Args:
        fitted: name to what is known of the images a model was fitted to: of :func:`read_images` or a noise file.
        judged: likewise of those it is judged by.
    """
    seen = [name for name, about in fitted.items() if _noisy_frames(about) & _noisy_frames(judged)]
    return [f"{name} was fitted to these very frames: its figures flatter it" for name in seen]


def _noisy_frames(about: Mapping[str, Any]) -> set[str]:
    """Return the digests of the noisy frames, none if they are not told."""
    told = [source for source in about.get("sources", ()) if isinstance(source, Mapping)]
    return {frame for source in told if source.get("role") == "noisy" for frame in source.get("frames", ())}


def _source(path: Path, images: np.ndarray, role: str) -> dict[str, Any]:
    """Return where images came from, and a digest of each, by which it is known again in another file."""
    values = (np.ascontiguousarray(image, np.float32).data for image in images)
    digests = [hashlib.blake2b(image, digest_size=8).hexdigest() for image in values]
    return {"path": str(path.resolve()), "role": role, "frames": digests}


def range_notes(noise: NoiseFile, clean: np.ndarray, name: str) -> list[str]:
    """Say if a model is used beyond the intensities it was fitted to.

    Args:
        noise: the model.
        clean: intensities, any shape.
        name: what to call the model.
    """
    low, high = (float(v) for v in np.quantile(clean, [0.001, 0.999]))
    room = _ROOM * (noise.high - noise.low)
    if noise.low - room <= low and high <= noise.high + room:
        return []
    return [
        f"clean intensities are {low:.4g} to {high:.4g}, but {name} was fitted to {noise.low:.4g} to "
        f"{noise.high:.4g}: check that both are in the same unit and that the images hold no noise"
    ]


def _refuse_tilts(paths: Sequence[Path], angles_deg: Sequence[np.ndarray | None]) -> None:
    """Refuse a tilt series, in one file or many: what changes with the tilt would be taken for noise."""
    known = [(path, tilts) for path, tilts in zip(paths, angles_deg, strict=True) if tilts is not None]
    single = [tilts for _, tilts in known if len(tilts) == 1]
    for path, tilts in (*known, (paths[0], np.ravel(single))):
        if len(tilts) and np.ptp(tilts) > _ONE_TILT:
            raise InputError(
                f"{path} is of a tilt series, {np.min(tilts):g}° to {np.max(tilts):g}°: repeats are frames of one "
                "field at one tilt; tiltfield reconstruct learns the noise of a series without any repeats"
            )


def _fields(paths: Sequence[Path], stacks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the frames of each field: stacks are fields of their own, single frames are all of one."""
    single = [path for path, images in zip(paths, stacks, strict=True) if len(images) == 1]
    if not single:
        return list(stacks)
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
