"""What is fitted: the images of a series by slices, and which of their pixels are held out of the fit.

Images that would take much of a GPU's memory stay in that of the host, see :func:`placed`; the rows of a step are
moved when they are used, by :meth:`Problem.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tiltfield import ranks
from tiltfield.contrast import Contrast
from tiltfield.defocus import Defocus
from tiltfield.fields.base import Box
from tiltfield.projector import SliceProjector

HELD_OUT = 0.05  # share of the pixels kept out of the loss
RUN = 8  # pixels held out together where noise is correlated
SHARE = 0.25  # of a GPU's free memory that the images may take; the rest is for the field and what steps need
GUARD = 3  # pixels at both ends of a run, at least, that are neither fitted nor held out


@dataclass(frozen=True, eq=False)
class Problem:
    """What is fitted: images by slices, in units in which the clean intensities span about 0 to 1.

    Attributes:
        observed: shape (row, tilt, col).
        used: bool, same shape: pixels in the loss.
        held: bool, same shape: pixels held out, disjoint from `used`; pixels may be neither.
        projector: from slices (n_z, n_x) to (tilt, col).
        box: region of the field, pixels; its n_y is the number of rows.
        scale: typical density, 1/pixel.
        margin: layers at each end of z that are believed empty.
        blur: defocus of the images, or None.
        device: where rows of images are used; None: where they are kept.
    """

    observed: Tensor
    used: Tensor
    held: Tensor
    projector: SliceProjector
    box: Box
    scale: float
    margin: int = 0
    blur: Defocus | None = None
    device: torch.device | None = None

    @property
    def reach(self) -> int:
        """Return how many rows off slices are seen in an image."""
        return 0 if self.blur is None else self.blur.halo

    def seen_by(self, rows: slice) -> slice:
        """Return the rows whose slices are seen in some rows of the images: these, and their neighbours if blurred."""
        return slice(max(0, rows.start - self.reach), min(self.box.n_y, rows.stop + self.reach))

    def image(self, density: Tensor, contrast: Contrast, before: int = 0, after: int = 0) -> Tensor:
        """Return the clean images of slices, shape (row, tilt, col).

        Args:
            density: shape (row, n_z, n_x).
            contrast: gain and offset.
            before: slices at the start that are only seen blurred, in the rows of others.
            after: likewise at the end.
        """
        clean = contrast(self.projector(density))
        return clean if self.blur is None else self.blur.blur(clean, before, after)

    def rows(self, start: int, stop: int) -> Problem:
        """Return the problem of a block of rows alone, with its images where they are used."""
        stop = min(stop, self.box.n_y)
        part = slice(start, stop)
        box = Box(self.box.n_z, stop - start, self.box.n_x)
        observed, used, held = (self.here(images[part]) for images in (self.observed, self.used, self.held))
        return replace(self, observed=observed, used=used, held=held, box=box)

    def here(self, images: Tensor) -> Tensor:
        """Return rows of images where they are used.

        Args:
            images: of this problem, or rendered for it; from page-locked memory they come while the GPU works on.
        """
        return images if self.device is None else images.to(self.device, non_blocking=True)

    @property
    def labels(self) -> Tensor:
        """Return 1 for pixels in the loss, 2 for those held out, 0 for others: kinds know nothing of each other."""
        return self.used.to(torch.int8) + 2 * self.held.to(torch.int8)


def fits(needed: int, free: int) -> bool:
    """Return whether images are kept on a GPU: if they take a quarter of its free memory at most.

    Args:
        needed: their bytes.
        free: bytes.
    """
    return needed <= SHARE * free


def placed(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return images where a fit keeps them: on its device, or, if they do not fit there, page-locked on the host.

    Args:
        images: on the host.
        device: where to compute.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch has it, and nobody
        fit = fits(sum(image.nbytes for image in images), torch.cuda.mem_get_info(device)[0] + unused)
        if ranks.greatest([not fit])[0]:  # processes that fit together do the same
            return [image.pin_memory() for image in images]
    return [image.to(device) for image in images]


def held_out_pixels(shape: tuple[int, ...], scan: int | None, seed: int, guard: int = GUARD) -> tuple[Tensor, Tensor]:
    """Return which pixels are held out of the loss, and which are left out besides, to keep the two apart.

    Where noise is correlated, a single pixel's noise is known from its neighbours: a fit that follows their noise would
    seem to predict it. So runs along the scan are held out, with pixels at both ends that count for nothing.

    Args:
        shape: (row, tilt, col).
        scan: dimension along which noise is correlated, or None.
        seed: of the draw.
        guard: pixels at both ends of a run.

    Returns:
        two bool tensors of that shape, disjoint.
    """
    generator = torch.Generator().manual_seed(seed)
    if scan is None:
        held = torch.rand(shape, generator=generator) < HELD_OUT
        return held, torch.zeros_like(held)
    starts = (torch.rand(shape, generator=generator) < HELD_OUT / RUN).movedim(scan, -1)
    held = _spread(starts, 0, RUN - 1)
    near = _spread(starts, guard, RUN - 1 + guard) & ~held
    return held.movedim(-1, scan).contiguous(), near.movedim(-1, scan).contiguous()


def _spread(starts: Tensor, before: int, after: int) -> Tensor:
    """Return the pixels from `before` places before each start to `after` places behind it, along the last axis."""
    padded = nn.functional.pad(starts.float(), (after, before)).flatten(0, -2)[:, None]
    width = before + after + 1
    return (nn.functional.max_pool1d(padded, width, stride=1) > 0)[:, 0].reshape(starts.shape)


def hold_out_again(problem: Problem, scan: int | None, seed: int, guard: int = GUARD) -> Problem:
    """Return the problem with pixels held out anew, as :func:`held_out_pixels` says.

    Args:
        problem: one in which every valid pixel is in the loss or held out.
        scan: as there.
        seed: as there.
        guard: as there.
    """
    valid = problem.used | problem.held
    held, near = (m.to(valid.device) for m in held_out_pixels(tuple(valid.shape), scan, seed, guard))
    masks = (valid & ~held & ~near, valid & held)
    used, held = (mask.pin_memory() if problem.used.is_pinned() else mask for mask in masks)
    return replace(problem, used=used, held=held)


def inside_box(angles_deg: np.ndarray, n_u: int, n_x: int, n_z: int) -> np.ndarray:
    """Return which rays stay between the sides of the box all the way through the slab.

    A ray at column u is at x = (u - z sin θ)/cos θ; within |z| ≤ n_z/2 it stays inside |x| ≤ n_x/2 if
    |u| ≤ (n_x/2) cos θ - (n_z/2) |sin θ|, here to half a pixel.

    Args:
        angles_deg: tilts, degrees, shape (tilt,).
        n_u: detector columns.
        n_x: width of the box, pixels.
        n_z: thickness of the slab, pixels.

    Returns:
        bool, shape (tilt, n_u).
    """
    theta = np.deg2rad(angles_deg)[:, None]
    u = np.arange(n_u)[None] - (n_u - 1) / 2
    return np.abs(u) <= n_x / 2 * np.cos(theta) - n_z / 2 * np.abs(np.sin(theta)) + 0.5
