"""What a field, a contrast and a noise model say of a problem: its slices, its images, its held-out pixels."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tiltfield import ranks
from tiltfield.contrast import Contrast
from tiltfield.fields.base import Box, Field
from tiltfield.geometry import centred
from tiltfield.noise.base import NoiseModel
from tiltfield.problem import Problem

HELD_ROWS = 32  # rows whose held-out pixels are judged at a time


def slices_of(density: Field, box: Box, rows: slice, among: slice | None = None) -> Tensor:
    """Return the field on the pixel grid of some rows.

    Args:
        density: the field.
        box: region of the problem.
        rows: which rows.
        among: all rows that processes together evaluate now, if others have others of them.

    Returns:
        shape (rows, n_z, n_x).
    """
    device = density.axes_device
    z, y, x = (_axis(n, device) for n in box.shape)
    among = among or rows
    return density.slices(z, y[among], x, slice(rows.start - among.start, rows.stop - among.start))


@functools.lru_cache(maxsize=16)
def _axis(n: int, device: torch.device) -> Tensor:
    """Return centred coordinates; the same tensor each time, so that a field may keep what it makes of it."""
    return centred(n, device=device)


def evaluate_field(problem: Problem, density: Field, block: int) -> Tensor:
    """Return a field on the pixel grid of the whole box, shape (row, n_z, n_x).

    Args:
        problem: gives the box.
        density: the field.
        block: slices at a time.
    """
    box = problem.box
    volume = next(density.parameters()).new_zeros(box.n_z, box.n_y, box.n_x)  # as it is written: no second copy then
    whole = volume.transpose(0, 1)
    with torch.no_grad():
        for rows in _shared(box.n_y, block):
            whole[rows] = slices_of(density, box, rows)
    ranks.add([whole])
    return whole


def _shared(n_rows: int, block: int) -> list[slice]:
    """Return this process's share of all rows, a block at a time."""
    mine = ranks.share(slice(0, n_rows))
    return [slice(first, min(first + block, mine.stop)) for first in range(mine.start, mine.stop, block)]


def render(problem: Problem, density: Tensor, contrast: Contrast, block: int) -> Tensor:
    """Return the clean images of a density, shape (row, tilt, col), in the units of the problem, kept where its are.

    Args:
        problem: geometry.
        density: shape (row, n_z, n_x).
        contrast: gain and offset.
        block: slices at a time.
    """
    whole = torch.zeros_like(problem.observed)
    with torch.no_grad():
        for rows in _shared(len(density), block):
            wide = problem.seen_by(rows)
            whole[rows] = problem.image(density[wide], contrast, rows.start - wide.start, wide.stop - rows.stop)
    ranks.add([whole])
    return whole


def held_out(problem: Problem, noise: NoiseModel, clean: Tensor) -> dict[str, float]:
    """Return the mean negative log-likelihood and the root mean squared error of the held-out pixels.

    Args:
        problem: the data.
        noise: the noise model.
        clean: rendered images, shape (row, tilt, col).
    """
    with torch.no_grad():
        blocks = [slice(i, i + HELD_ROWS) for i in range(0, problem.box.n_y, HELD_ROWS)]
        nll = -torch.cat(
            [held_log_prob(problem.rows(rows.start, rows.stop), noise, problem.here(clean[rows])) for rows in blocks]
        ).mean()
        error = (problem.observed[problem.held] - clean[problem.held]).square().mean().sqrt()
    return {"nll": float(nll), "rmse": float(error)}


def held_log_prob(part: Problem, noise: NoiseModel, clean: Tensor) -> Tensor:
    """Return log p of the held-out pixels of a block of rows, shape (n,).

    Args:
        part: the problem of these rows.
        noise: the noise model.
        clean: their rendered images, shape (row, tilt, col).
    """
    if noise.axis is None:  # pixels are independent: the others need not be looked at
        where = part.held.flatten().nonzero()[:, 0]
        return noise.log_prob(part.observed.take(where), clean.take(where))
    return noise.log_prob(part.observed, clean, part.labels)[part.held]
