"""IMOD's transforms of images (.xf, .prexg, .prexf) and tilts about the x axis (.xtilt).

A line of a transform file holds A11 A12 A21 A22 DX DY; :mod:`tiltfield.geometry` says what they do. The lines of .xf
and .prexg place each image by itself. Those of .prexf, which tiltxcorr writes, lead from each image to the one before
it; here they are chained, as xftoxg does, and the image nearest to zero tilt stays where it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tiltfield.errors import InputError
from tiltfield.geometry import Placement
from tiltfield.io.sidecars import is_aligned, numbers_of, stems, text_of

_BESIDE = (".xf", "_fid.xf", ".prexg", ".prexf")
_XTILT = (".xtilt", "_fid.xtilt")
_SAME_TILT = 0.01  # degrees
_LEAST_IN_VIEW = 0.05  # of an image


def read_transforms(path: Path, count: int, angles_deg: np.ndarray | None = None) -> Placement:
    """Read the transforms of a stack.

    Args:
        path: .xf or .prexg, or .prexf, which is known by its ending.
        count: number of images in the stack.
        angles_deg: tilts, degrees, shape (image,), by which .prexf finds the image that stays; the middle one if None.

    Raises:
        InputError: if it cannot be read, has another number of lines, or holds something else.
    """
    if path.suffix.lower() == ".xtilt":
        raise InputError(
            f"{path} holds tilts about the x axis, expected transforms, six numbers a line (.xf); leave it out: tilts "
            "about x that are the same in all images need no correction, others are not supported"
        )
    table = numbers_of(path, text_of(path, "transforms"), 6, "six numbers, A11 A12 A21 A22 DX DY (an .xf file)")
    if len(table) != count:
        raise InputError(
            f"{path} has {len(table)} transforms, the stack {count} images; they must be as many; give the file that "
            "belongs to the stack with --transforms"
        )
    placement = Placement(table[:, :4].reshape(-1, 2, 2), table[:, 4:])
    _check(path, placement)
    return _chained(placement, angles_deg) if path.suffix.lower() == ".prexf" else placement


def in_view(path: Path, placement: Placement, shapes: tuple[tuple[int, ...], tuple[int, int]]) -> np.ndarray | None:
    """Return which pixels of the moved images have data, or None if all have.

    Args:
        path: what moved them, for the message.
        placement: of the images.
        shapes: rows and columns of the images, and of the moved ones.

    Returns:
        bool, shape (image, row, col).

    Raises:
        InputError: if next to nothing of an image is left in view.
    """
    seen = np.empty((len(placement.shifts), *shapes[1]), bool)
    for i in range(len(seen)):
        seen[i] = placement.seen(i, *shapes)
        if seen[i].mean() < _LEAST_IN_VIEW:
            column, row = placement.shifts[i]
            raise InputError(
                f"{path}: image {i + 1} (counted from 1) is moved out of view, by {column:.0f} columns and {row:.0f} "
                "rows; were the transforms made for the stack as it is, not for a binned one?"
            )
    return None if seen.all() else seen


def notes_beside(stack: Path, given: Path | None) -> dict[str, str]:
    """Say which transforms and tilts about x lie beside a stack, and what is to be done about them.

    Args:
        stack: the stack.
        given: the transforms that the user gave, or None.

    Returns:
        entries for the sources of a series.
    """
    notes: dict[str, str] = {}
    beside = _first(stack, _BESIDE)
    if beside is not None and given is None and not is_aligned(stack):
        notes["transforms"] = (
            f"{beside.name} lies beside the stack and was not applied; if the stack is not aligned yet, give "
            f"--transforms {beside.name}"
        )
    if given is not None and is_aligned(stack):
        notes["warning transforms"] = (
            f"{stack.name} is aligned by its name; {given.name} was applied to it all the same"
        )
    tilts = _first(stack, _XTILT)
    return notes | (_about_xtilt(tilts) if tilts else {})


def _about_xtilt(path: Path) -> dict[str, str]:
    try:
        tilts = numbers_of(path, text_of(path, "tilts about x"), 1, "one tilt about x in degrees")
    except InputError:
        return {"warning x-axis tilt": f"{path.name} cannot be read as one tilt about the x axis a line"}
    if not np.all(np.abs(tilts) < _SAME_TILT) and np.ptp(tilts) < _SAME_TILT:
        return {
            "x-axis tilt": f"{path.name} says that the specimen is pitched by {tilts.mean():.2f}° about x; the same in "
            "all images, it needs no correction, and the volume has the pitch that the specimen has"
        }
    if np.ptp(tilts) >= _SAME_TILT:
        return {
            "warning x-axis tilt": f"{path.name} says that images are tilted about x by {tilts.min():.2f}° to "
            f"{tilts.max():.2f}°; this was not corrected: tiltfield takes one tilt axis; solve the alignment in IMOD "
            "without tilts about x"
        }
    return {}


def _first(stack: Path, ends: tuple[str, ...]) -> Path | None:
    paths = (stack.with_name(stem + end) for end in ends for stem in stems(stack))
    return next((path for path in paths if path.is_file()), None)


def _check(path: Path, placement: Placement) -> None:
    sizes = np.linalg.svd(placement.matrices, compute_uv=False)
    wrong = np.flatnonzero((sizes.min(axis=1) < 0.2) | (sizes.max(axis=1) > 5))
    if len(wrong):
        raise InputError(
            f"{path}, transform {wrong[0] + 1}: it would scale the image by {sizes[wrong[0]].min():.3g} to "
            f"{sizes[wrong[0]].max():.3g}, expected about 1; is it a file of transforms, A11 A12 A21 A22 DX DY?"
        )


def _chained(steps: Placement, angles_deg: np.ndarray | None) -> Placement:
    """Turn steps from each image to the one before into places: G(i) = G(i-1) F(i), then all seen from one of them."""
    matrices, shifts = [np.eye(2)], [np.zeros(2)]
    for matrix, shift in zip(steps.matrices[1:], steps.shifts[1:], strict=True):
        shifts.append(matrices[-1] @ shift + shifts[-1])
        matrices.append(matrices[-1] @ matrix)
    fixed = len(matrices) // 2 if angles_deg is None else int(np.argmin(np.abs(angles_deg)))
    back = np.linalg.inv(matrices[fixed])
    return Placement(back @ np.array(matrices), (np.array(shifts) - shifts[fixed]) @ back.T)
