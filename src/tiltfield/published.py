"""The methods of the paper, as published, scaled to the size of the images by one rule.

Images are scaled to [0, 1] by their extremes, the box, as deep as the images are wide, is seen as [-1, 1]³, and
I = exp(-7 ∫ρ dl) with ρ in [0, 1]; gain and offset are not fitted (HAADF, which the paper does not have: I = ∫ρ dl).
Every tenth tilt is held out and chooses the best state. What the paper gives for 1000³ voxels and 67 tilts holds for
s = (image width) / 1000 thus:

    octaves     10 + log₂ s of the encoding, 5 + log₂ s of the coarse network's, at least 2: the shortest wave
                stays about 2 pixels long
    samples     64 s stratified and 128 s drawn along a ray, at least 8 and 16: they stay as many pixels apart
    rays        four parts of 512 s a step, at least 128
    steps       as many visits to every pixel: 400,000 · (pixels / 67·10⁶) · (2048 / rays a step), at least 101
    rates       times 400,000 / steps, since fewer steps have to lead as far; of a network at most 5e-4, NeRF's own,
                of a flow at most 5e-4, of a grid at most 0.02

Everything else is as published: two networks of 9 and 3 hidden layers, Adam at 5e-5 that falls in a line to 1/100 after
a quarter of the steps, the flow by gradient descent at 5e-5 with momentum 0.9 and weight decay 1e-3, squared error for
the first 100 steps. Two things the paper does not say are chosen so that it starts well: networks start at a density of
0.1 (at the 0.5 of an untrained sigmoid all images are black), the flow at the normal law of the noise's deviation.

Kniesel et al., CVPR 2022, with its supplement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from tiltfield.config import ReconstructConfig
from tiltfield.contrast import DEPTH, Contrast, ContrastMode, clean_range
from tiltfield.errors import InputError
from tiltfield.fields.base import Box, Field
from tiltfield.fields.guided import Guided
from tiltfield.fields.voxels import Explicit
from tiltfield.fit import FitState
from tiltfield.noise import NoiseModel
from tiltfield.noise.scan import Scan
from tiltfield.plan import Plan, first_plan, fitted_noise, make_problem, new_noise
from tiltfield.problem import Problem
from tiltfield.rays import RaySchedule, plain_loss
from tiltfield.schedule import block_size
from tiltfield.series import TiltSeries

SIZE, STEPS, PIXELS = 1000, 400_000, 67e6  # of the paper: image width, steps, pixels of the series
RAYS, PARTS, SAMPLES, OCTAVES = 512, 4, (64, 128), (5, 10)
LEAST_RAYS, LEAST_SAMPLES, LEAST_OCTAVES = 128, (8, 16), 2
FEATURES, FLOW_LAYERS = 256, 8
FIELD_RATE, FLOW_RATE, GRID_RATE, GRID_RATE_UNDER_NOISE, GRID_FLOW_RATE = 5e-5, 5e-5, 5e-5, 5e-6, 1e-4
FASTEST, FASTEST_FLOW, FASTEST_GRID = 5e-4, 5e-4, 0.02  # of a network: NeRF's; of a flow: far above, it diverges
MOMENTUM, DECAY = 0.9, 1e-3
PLAIN_STEPS, LOOKS, EVERY_TILT = 100, 50, 10
START = 0.1


@dataclass(frozen=True)
class Recipe:
    """A method of the paper.

    Attributes:
        noise: name of the noise model; "file" for a fitted one.
        explicit: a grid of voxels instead of networks.
    """

    noise: str
    explicit: bool = False


_L2 = Recipe("l2")
RECIPES = {
    "ours": Recipe("flow-paper"),
    "ours-sup": Recipe("file"),
    "l1-noisy": Recipe("l1"),
    **dict.fromkeys(("l2-noisy", "l2-clean", "l2-den", "l2-blur", "l2-blur+"), _L2),
    "explicit-ours": Recipe("flow-paper", explicit=True),
    "explicit-l2": Recipe("l2", explicit=True),
}
"""Name, as in the settings, to method. Those of plain squares differ by the images they are given."""


@dataclass(frozen=True)
class Scaled:
    """The paper's numbers for images of another size, as the head of this file says.

    Attributes:
        steps: of the whole fit.
        rays: a part of a step.
        samples: along a ray.
        octaves: of the coarse and the fine encoding.
        faster: factor on the learning rates.
    """

    steps: int
    rays: int
    samples: tuple[int, int]
    octaves: tuple[int, int]
    faster: float

    @classmethod
    def to(cls, shape: tuple[int, int, int], steps: int | None) -> Scaled:
        """Return them for images of shape (tilt, row, col), with another number of steps if one is given."""
        size = shape[2] / SIZE
        rays = max(LEAST_RAYS, round(RAYS * size))
        visits = STEPS * RAYS / PIXELS
        steps = steps or max(PLAIN_STEPS + 1, round(visits * math.prod(shape) / rays))
        samples = tuple(max(least, round(n * size)) for least, n in zip(LEAST_SAMPLES, SAMPLES, strict=True))
        octaves = tuple(max(LEAST_OCTAVES, round(n + math.log2(size))) for n in OCTAVES)
        return cls(steps, rays, (samples[0], samples[1]), (octaves[0], octaves[1]), STEPS / steps)


def prepare(
    series: TiltSeries, config: ReconstructConfig, mode: ContrastMode, device: torch.device
) -> tuple[Plan, Problem, RaySchedule, FitState]:
    """Return all that a fit of a published method starts from.

    Args:
        series: the tilt series.
        config: method and settings.
        mode: contrast.
        device: where to compute.
    """
    recipe = RECIPES[config.method]
    scaled = Scaled.to(series.images.shape, config.steps)
    plan = published_plan(series, mode, config)
    problem = make_problem(series, plan, config.seed, device, mask_sides=False)
    problem = hold_out_tilts(problem.rows(0, problem.box.n_y))  # rays are drawn from all images: none stay behind
    schedule = RaySchedule(
        total=scaled.steps,
        passes=min(LOOKS, scaled.steps),
        rays=scaled.rays,
        parts=PARTS,
        samples=scaled.samples,
        plain_steps=PLAIN_STEPS,
        tv_weight=plan.tv_weight,
        block=block_size(problem.box, "mlp"),
        reduced=config.reduced,
    )
    generator = torch.Generator().manual_seed(config.seed)
    field = _field(recipe, problem.box, plan.scale, scaled, config.features or FEATURES, generator).to(device)
    noise = _noise(recipe, plan, config, clean_range(series), generator).to(device)
    contrast = Contrast(mode, plan.offset, plan.gain).to(device)
    optimisers = [_adam(recipe, field, scaled.faster), *_descent(recipe, noise, scaled.faster)]
    return plan, problem, schedule, FitState(field, noise, contrast, optimisers, generator)


def published_plan(series: TiltSeries, mode: ContrastMode, config: ReconstructConfig) -> Plan:
    """Return the plan with the paper's levels: extremes of the images at 0 and 1, a cube, densities up to 1.

    Args:
        series: the tilt series.
        mode: contrast.
        config: names the noise, and weighs the total variation of a grid.
    """
    found = first_plan(series, mode)
    low, high = float(series.images.min()), float(series.images.max())
    ratio = (found.high - found.low) / (high - low)
    n = series.images.shape[2]
    recipe = RECIPES[config.method]
    return replace(
        found,
        low=low,
        high=high,
        offset=0.0,
        gain=1.0 if mode == "bf" else 1 / DEPTH,
        n_z=n,
        scale=2 * DEPTH / n,
        slope=found.slope * ratio,
        floor=found.floor * ratio**2,
        dark=(found.dark * (found.high - found.low) + found.low - low) / (high - low),
        saturated_low=None,
        saturated_high=None,
        quantum=None,
        tv_weight=config.tv_weight or 0.0,
        noise=config.noise if recipe.noise == "file" else recipe.noise,
    )


def hold_out_tilts(problem: Problem) -> Problem:
    """Return the problem with every tenth tilt held out of the loss, of few tilts the middle one.

    Args:
        problem: one in which every valid pixel is in the loss or held out.

    Raises:
        InputError: if these tilts, or the others, have no valid pixel.
    """
    n_tilts = problem.observed.shape[1]
    tilts = torch.arange(n_tilts, device=problem.observed.device)
    held = tilts % EVERY_TILT == min(EVERY_TILT, n_tilts) // 2
    valid = problem.used | problem.held
    parted = replace(problem, used=valid & ~held[:, None], held=valid & held[:, None])
    if not (parted.used.any() and parted.held.any()):
        raise InputError(
            "the published methods hold out every tenth tilt to choose the best state, and these or all others have no "
            "valid pixel: leave the tilts that are masked out of the series, or use method neural"
        )
    return parted


def _field(recipe: Recipe, box: Box, scale: float, scaled: Scaled, width: int, generator: torch.Generator) -> Field:
    if recipe.explicit:
        return Explicit(box, scale=scale)
    return Guided(box, scale=scale, mean=START, width=width, octaves=scaled.octaves, generator=generator)


def _noise(
    recipe: Recipe, plan: Plan, config: ReconstructConfig, seen: tuple[float, float], generator: torch.Generator
) -> NoiseModel:
    """Return the noise model; of one that is correlated along the scan the law of single pixels: rays have no scan."""
    if recipe.noise in ("l1", "l2"):
        return plain_loss(recipe.noise)
    if recipe.noise != "file":
        return new_noise(plan, recipe.noise, generator, config.flow_layers or FLOW_LAYERS)
    model = fitted_noise(plan, config.noise, -1, seen)
    return model.marginal if isinstance(model, Scan) else model


def _adam(recipe: Recipe, field: Field, faster: float) -> torch.optim.Optimizer:
    rate = min(FASTEST, FIELD_RATE * faster)
    if recipe.explicit:
        rate = min(FASTEST_GRID, faster * (GRID_RATE if recipe.noise == "l2" else GRID_RATE_UNDER_NOISE))
    return torch.optim.Adam(field.parameters(), lr=rate)


def _descent(recipe: Recipe, noise: NoiseModel, faster: float) -> list[torch.optim.Optimizer]:
    """Return what fits the flow, with a rate that stays, or nothing for a noise model without parameters."""
    free = [p for p in noise.parameters() if p.requires_grad]
    if not free:
        return []
    rate = min(FASTEST_FLOW, faster * (GRID_FLOW_RATE if recipe.explicit else FLOW_RATE))
    group: dict[str, Any] = {"params": free, "falls": False}
    return [torch.optim.SGD([group], lr=rate, momentum=MOMENTUM, weight_decay=DECAY)]
