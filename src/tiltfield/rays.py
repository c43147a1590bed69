"""Fitting by rays, as the paper does: a few pixels of all images a step, their rays sampled point by point.

The training loop is that of :mod:`tiltfield.fit`; only the step differs. It is many times dearer than a step by slices,
and what the published methods are compared by. Of defocus each pixel sees one ray, drawn from its blur. As published,
the loss is taken of that one: under squared error its expectation is that of the blurred image and the variance of the
rays besides, so that a field is pulled towards images that vary less within a blur.

Kniesel et al., CVPR 2022, with its supplement; Mildenhall et al., NeRF, 2020, for the sampling along a ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tiltfield.defocus import sample_offsets
from tiltfield.fields.base import Field
from tiltfield.fields.guided import Guided
from tiltfield.fields.voxels import Explicit
from tiltfield.fit import FitState
from tiltfield.geometry import centred
from tiltfield.noise.base import NoiseModel
from tiltfield.noise.gaussian import L1, L2
from tiltfield.problem import Problem
from tiltfield.projector import Rays
from tiltfield.regularise import total_variation

JUDGED_RAYS = 2048  # of the held-out tilts, by which a state is judged
FEWEST_RAYS = 16  # of a part of a step
REDRAWS = 16  # of a place that a blur leads beyond the image: of a hundred in a corner, one is left
FALLS_FROM, FALLS_TO = 0.25, 0.01  # share of the steps at which the rate begins to fall, and what it falls to
_FLAT = 1e-5  # weight of every interval, over that of the densest, so that none is left out


@dataclass(frozen=True)
class RaySchedule:
    """How a fit to rays proceeds.

    Attributes:
        total: steps.
        passes: looks at the held-out tilts, spread over the steps.
        rays: pixels a part of a step.
        parts: parts a step, whose gradients are added up.
        samples: along a ray: stratified ones, and those drawn where the coarse field is dense.
        plain_steps: first steps, which take the squared error whatever the noise model.
        tv_weight: of the mean total variation of an explicit grid.
        block: slices at a time when the volume is evaluated.
        reduced: multiply in bfloat16.
        seconds: if set, the schedule is compressed to end by then.
    """

    total: int
    passes: int
    rays: int
    parts: int
    samples: tuple[int, int]
    plain_steps: int
    tv_weight: float
    block: int
    reduced: bool = False
    seconds: float | None = None
    patience: float = math.inf
    tolerance: float = 0.0

    def steps(self, n_rows: int) -> int:
        """Return the number of steps."""
        return self.total

    def rate(self, done: float, step: int) -> float:
        """Return the factor on the learning rates: 1 for the first quarter, then falling in a line to 1/100."""
        fallen = max(0.0, done - FALLS_FROM) / (1 - FALLS_FROM)
        return 1 - (1 - FALLS_TO) * min(1.0, fallen)

    def smaller(self) -> RaySchedule | None:
        """Return the schedule with parts of half as many rays, so twice as many parts a step."""
        return replace(self, rays=self.rays // 2, parts=2 * self.parts) if self.rays >= 2 * FEWEST_RAYS else None


def stratified(near: Tensor, far: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Return one distance in each of n equal intervals between near and far.

    Args:
        near: shape (rays,).
        far: shape (rays,).
        n: intervals.
        generator: of the places within the intervals; None for their middles.

    Returns:
        rising, shape (rays, n).
    """
    place = _uniform((len(near), n), generator, near)
    return near[:, None] + (far - near)[:, None] * (torch.arange(n, device=near.device) + place) / n


def importance(weights: Tensor, near: Tensor, far: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Return n distances drawn from a density that is constant on equal intervals between near and far.

    Args:
        weights: ≥ 0, of the intervals, shape (rays, intervals).
        near: shape (rays,).
        far: shape (rays,).
        n: draws a ray, stratified over the probability.
        generator: of the draws; None for the middles.

    Returns:
        rising, shape (rays, n).

    Mildenhall et al., 2020, section 5.2.
    """
    weights = weights + _FLAT * weights.amax(1, keepdim=True) + torch.finfo(weights.dtype).tiny
    share = weights / weights.sum(1, keepdim=True)
    above = share.cumsum(1)
    place = (torch.arange(n, device=near.device) + _uniform((len(near), n), generator, near)) / n
    interval = torch.searchsorted(above, place).clamp_max(weights.shape[1] - 1)
    below = (above - share).gather(1, interval)
    within = ((place - below) / share.gather(1, interval)).clamp(0, 1)
    return near[:, None] + (far - near)[:, None] * (interval + within) / weights.shape[1]


def integral(density: Tensor, s: Tensor, far: Tensor) -> Tensor:
    """Return Σ ρᵢ δᵢ with δᵢ the distance to the next sample, of the last one to the end of the ray.

    Args:
        density: ρ, shape (rays, samples).
        s: rising distances, same shape.
        far: shape (rays,).

    Returns:
        shape (rays,).
    """
    return (density * torch.cat([s, far[:, None]], dim=1).diff(dim=1)).sum(1)


def depths(
    field: Field, rays: Rays, samples: tuple[int, int], generator: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    """Return the line integrals of a field, and those of the coarse one that guides its samples, if there is one.

    Args:
        field: fine and coarse, or one alone, which is sampled at stratified distances.
        rays: lines of sight.
        samples: stratified ones, and those drawn where the coarse field is dense.
        generator: of the samples; None for the middles.

    Returns:
        fine and coarse, each of shape (rays,).
    """
    near, far = rays.span(field.box.n_z, field.box.n_x)
    if not isinstance(field, Guided):
        s = stratified(near, far, sum(samples), generator)
        return integral(field(rays.points(s)), s, far), None
    s = stratified(near, far, samples[0], generator)
    rough = field.coarse(rays.points(s))
    drawn = importance(rough.detach(), near, far, samples[1], generator)
    both = torch.cat([s, drawn], dim=1).sort(dim=1).values
    return integral(field.fine(rays.points(both)), both, far), integral(rough, s, far)


def ray_step(problem: Problem, state: FitState, schedule: RaySchedule, done: float) -> dict[str, float]:
    """Descend once, on rays of pixels drawn at random from the images that are not held out.

    The loss is -mean log p(observed | fine) + mean (observed - coarse)²; of an explicit grid, -mean log p + λ · TV.

    Args:
        problem: the data.
        state: changed in place.
        schedule: how to proceed.
        done: share of the fit that is behind, 0 to 1.

    Returns:
        the loss.
    """
    square = plain_loss("l2").to(problem.observed.device)
    noise = square if state.step < schedule.plain_steps else state.noise
    (loss,) = state.descend(_losses(problem, state, schedule, (noise, square)), schedule.rate(done, state.step))
    share = max(done, state.step / schedule.total)
    looked = int(share * schedule.passes + 1e-9) <= len(state.curve)
    state.queue = [0] if looked else []  # empty: this pass is complete
    if not looked:
        state.judge(_held_out(problem, state, schedule))
    return {"loss": loss}


def plain_loss(name: str) -> NoiseModel:
    """Return the likelihood whose negative logarithm is, but for a constant, the square n² ("l2") or |n| ("l1")."""
    return L2(math.sqrt(0.5)) if name == "l2" else L1(math.sqrt(2))


def _losses(
    problem: Problem, state: FitState, schedule: RaySchedule, noises: tuple[NoiseModel, NoiseModel]
) -> Iterator[Tensor]:
    """Return the parts of a step's loss, each when it is asked for; `noises` of the fine and the coarse field."""
    for _ in range(schedule.parts):
        picked = _drawn(problem.used, schedule.rays, state.generator)
        observed = problem.observed.flatten()[picked]
        rays = _blurred(problem, picked, state.generator)
        fine, coarse = _clean(state, rays, schedule, state.generator)
        loss = -noises[0].log_prob(observed, fine).mean()
        if coarse is not None:
            loss = loss - noises[1].log_prob(observed, coarse).mean()
        yield loss / schedule.parts
    if schedule.tv_weight and isinstance(state.field, Explicit):
        yield schedule.tv_weight * total_variation(state.field.values, 1.0, edge=math.inf)


def _clean(
    state: FitState, rays: Rays, schedule: RaySchedule, generator: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(rays.u.device.type, torch.bfloat16, enabled=schedule.reduced):
        fine, coarse = depths(state.field, rays, schedule.samples, generator)
    return state.contrast(fine), None if coarse is None else state.contrast(coarse)


def _held_out(problem: Problem, state: FitState, schedule: RaySchedule) -> Tensor:
    """Return log p of pixels of the held-out tilts, always the same ones."""
    picked = _drawn(problem.held, JUDGED_RAYS, torch.Generator().manual_seed(0))
    rays = _blurred(problem, picked, torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = [_clean(state, part, schedule, None)[0] for part in rays.split(schedule.rays)]
        return state.noise.log_prob(problem.observed.flatten()[picked], torch.cat(parts))


def _drawn(which: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n pixels of those that are marked, of which there are some, as indices into the flattened images."""
    found = torch.empty(0, dtype=torch.long, device=which.device)
    flat = which.flatten()
    while len(found) < n:
        tried = torch.randint(flat.numel(), (4 * n,), generator=generator).to(which.device)
        found = torch.cat([found, tried[flat[tried]]])
    return found[:n]


def _blurred(problem: Problem, picked: Tensor, generator: torch.Generator) -> Rays:
    """Return the rays of pixels; where the images are blurred, of a place drawn from the blur of each."""
    n_y, n_tilts, n_u = problem.observed.shape
    device = picked.device
    row, tilt, column = picked // (n_tilts * n_u), picked // n_u % n_tilts, picked % n_u
    angles = torch.tensor(problem.projector.geometry.angles, dtype=torch.float32, device=device)
    y, u = centred(n_y, device=device)[row], centred(n_u, device=device)[column]
    if problem.blur is not None:
        y, u = _scattered(y, u, problem.blur.widths[tilt, column], problem.blur.law, (n_y, n_u), generator)
    return Rays(y, u, angles[tilt])


def _scattered(
    y: Tensor, u: Tensor, widths: Tensor, law: str, shape: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return places drawn from the blur around pixels; those beyond the image, where it ends, are drawn again."""
    centre = torch.stack([y, u], dim=1)
    edge = torch.tensor(shape, dtype=y.dtype, device=y.device) / 2
    place = centre + sample_offsets(widths, law, generator)
    for _ in range(REDRAWS):
        beyond = (place.abs() > edge).any(dim=1)
        place[beyond] = centre[beyond] + sample_offsets(widths[beyond], law, generator)
    place = torch.minimum(torch.maximum(place, -edge), edge)
    return place[:, 0], place[:, 1]


def _uniform(shape: tuple[int, int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    if generator is None:
        return torch.full(shape, 0.5, dtype=like.dtype, device=like.device)
    return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)
