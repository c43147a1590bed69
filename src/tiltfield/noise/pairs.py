"""Clean and noisy images side by side: what a noise model is learned from and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np

from tiltfield.errors import InputError
from tiltfield.noise.base import Recording
from tiltfield.noise.estimate import _SMALL_QUANTUM, SLACK
from tiltfield.noise.learn import Pairs
from tiltfield.screening import quantum_of

SMALLEST = 32  # pixels along an edge
_SATURATED = 1e-3  # share of pixels at the extreme value above which images are taken for clipped


def given(clean: np.ndarray, noisy: np.ndarray) -> Pairs:
    """Return pairs of images whose clean side is known.

    Args:
        clean: shape (frame, row, col); or one frame, (1, row, col), for every noisy one.
        noisy: shape (frame, row, col).

    Raises:
        InputError: if shapes differ, an image is smaller than 32 pixels, a value is not finite, or both are the same.
    """
    clean, noisy = np.asarray(clean, np.float32), np.asarray(noisy, np.float32)
    if clean.ndim == noisy.ndim == 3 and len(clean) == 1 and clean.shape[1:] == noisy.shape[1:]:
        clean = np.repeat(clean, len(noisy), axis=0)
    for name, images in (("clean", clean), ("noisy", noisy)):
        check_images(images, name)
    if clean.shape != noisy.shape:
        raise InputError(
            f"clean and noisy images must have one shape (frame, row, col), got {clean.shape} and {noisy.shape}: "
            "crop them to the same field, or give the file that belongs to the other"
        )
    if np.array_equal(clean, noisy):
        raise InputError("clean and noisy images are the same: there is no noise to learn; give two different files")
    return Pairs(clean, noisy, recording_of(noisy, float(np.std(noisy - clean))))


def recording_of(images: np.ndarray, deviation: float) -> Recording:
    """Return at what values images saturate, and how far their grey values are apart if that is coarse.

    Args:
        images: any shape.
        deviation: standard deviation of their noise.
    """
    low, high = float(images.min()), float(images.max())
    bottom, top = (end if float(np.mean(images == end)) > _SATURATED else None for end in (low, high))
    quantum = quantum_of(images)
    if quantum is not None and quantum <= _SMALL_QUANTUM * deviation:
        quantum = None
    return Recording(bottom, top, quantum, 0.0 if bottom is top is None else SLACK * (high - low))


def joint(recordings: Sequence[Recording]) -> Recording:
    """Return how one detector recorded several fields: what one of them tells holds for those that do not show it.

    Args:
        recordings: of each field by itself, at least one.

    Raises:
        InputError: if fields saturate at different values, or their grey values are coarse by different steps.
    """
    *told, slack = zip(*map(astuple, recordings), strict=True)
    known = [set(values) - {None} for values in told]
    if any(len(values) > 1 for values in known):
        raise InputError(
            "the fields were not recorded alike (saturation, grey values): "
            f"{'; '.join(sorted(map(str, set(recordings))))}; learn from fields of one detector setting"
        )
    low, high, quantum = (next(iter(values), None) for values in known)
    return Recording(low, high, quantum, max(slack))


def check_images(images: np.ndarray, name: str) -> None:
    """Refuse images that are no stack of numbers, or too small.

    Args:
        images: what should have the shape (frame, row, col).
        name: what to call them.

    Raises:
        InputError: for another number of dimensions, less than 32 rows or columns, or values that are not finite.
    """
    if images.ndim != 3 or len(images) == 0:
        raise InputError(f"expected {name} images of shape (frame, row, col), got shape {images.shape}")
    if min(images.shape[1:]) < SMALLEST:
        raise InputError(
            f"the {name} images must be at least {SMALLEST} pixels wide and high, got {images.shape[1:]}: "
            "noise cannot be told from structure in less"
        )
    if not np.isfinite(images).all():
        count = int(np.count_nonzero(~np.isfinite(images)))
        raise InputError(f"{count} values of the {name} images are NaN or infinite: crop the images or replace them")


def join(parts: Sequence[Pairs]) -> Pairs:
    """Return the pairs of several fields as one, cut to the smallest common size around their centres.

    Args:
        parts: at least one.

    What goes beyond the value at which another field saturates is cut there.

    Raises:
        InputError: if there is none, or they were not recorded alike, as in :func:`joint`.
    """
    if not parts:
        raise InputError("expected at least one pair of images, got none")
    if len(parts) == 1:
        return parts[0]
    rows, cols = (min(p.clean.shape[axis] for p in parts) for axis in (1, 2))
    clean, noisy = (
        np.concatenate([centre(getattr(p, side), rows, cols) for p in parts]) for side in ("clean", "noisy")
    )
    recording = joint([p.recording for p in parts])
    low = -np.inf if recording.low is None else recording.low
    high = np.inf if recording.high is None else recording.high
    return Pairs(clean, noisy.clip(low, high), recording)


def centre(images: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Return the middle of images.

    Args:
        images: shape (frame, row, col).
        rows: rows to keep, at most as many as there are.
        cols: columns to keep, likewise.
    """
    top, left = (images.shape[1] - rows) // 2, (images.shape[2] - cols) // 2
    return images[:, top : top + rows, left : left + cols]


def halves(pairs: Pairs, gap: int = 8) -> tuple[Pairs, Pairs]:
    """Return the upper and the lower half of the rows, with rows between them left out so that nothing leaks.

    Args:
        pairs: at least 32 rows in each half.
        gap: rows left out.

    Raises:
        InputError: if the halves are too small.
    """
    rows = pairs.clean.shape[1]
    end = (rows - gap) // 2
    if end < SMALLEST:
        raise InputError(
            f"{rows} rows are too few to learn from one half and judge by the other, {2 * SMALLEST + gap} are needed: "
            "give larger images, or other ones to learn from (--train-repeats, or --train-clean "
            "and --train-noisy)"
        )
    top, bottom = slice(0, end), slice(rows - end, rows)
    upper = replace(pairs, clean=pairs.clean[:, top], noisy=pairs.noisy[:, top])
    return upper, replace(pairs, clean=pairs.clean[:, bottom], noisy=pairs.noisy[:, bottom])
