"""The neural reconstruction: from a series to a fitted field.

Everything the user is not asked for is found first: what :mod:`tiltfield.plan` finds, then the weight of the total
variation, by fits of a block of slices. Then the whole is fitted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tiltfield.config import ReconstructConfig
from tiltfield.contrast import ContrastMode
from tiltfield.errors import InputError
from tiltfield.fit import (
    DIVERGED_ADVICE,
    FitState,
    Outcome,
    Problem,
    Schedule,
    Watcher,
    evaluate_field,
    fit,
    held_out,
    render,
    start,
)
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.observe import Observer
from tiltfield.plan import Plan, find_plan, make_problem, new_state
from tiltfield.regularise import choose_weight
from tiltfield.series import TiltSeries

STRENGTHS = tuple(0.24 * 0.6**k for k in range(9))  # tried weights of the total variation, times the noise deviation
PASSES = {"draft": 15, "standard": 45, "fine": 150}
LEAST_STEPS = 10  # a pass counts as at least so many steps, so that small volumes are not cut short
RATES = {"hashgrid": 5e-3, "mlp": 5e-4, "voxels": 0.1}
POINTS = {"hashgrid": 50_000, "mlp": 12_000, "voxels": 50_000}  # field points a step, about
TRIAL_ROWS = 16
TRIAL_PASSES = 30
TRIAL_SHARE = 0.07  # of a limited run's time, for each weight tried
TRIALS_SHARE = 0.35  # of a limited run's time, after which no further weight is tried
WRITING_SECONDS = 2.0  # of a limited run, for starting Python, the preview and the files
LEAST_SECONDS = 0.5  # that a fit gets even where no time is left
FIRST_CHECKPOINT_SECONDS = 2.0
CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True, eq=False)
class Solution:
    """A fit and what it was a fit of.

    Attributes:
        plan: what was found before.
        problem: the data.
        state: the fitted parameters.
        schedule: how the fit proceeded.
        outcome: how it ended.
        density: the fitted field on the pixel grid, 1/pixel, shape (row, n_z, n_x), with padding.
        clean: its images, in the fit's units, shape (row, tilt, col).
        prepared: seconds that the run took before the fit.
    """

    plan: Plan
    problem: Problem
    state: FitState
    schedule: Schedule
    outcome: Outcome
    density: Tensor
    clean: Tensor
    prepared: float


def block_size(problem: Problem, field: str) -> int:
    """Return how many slices a step of a field takes, two to sixteen, so that a step stays short."""
    return min(problem.box.n_y, max(2, min(16, round(POINTS[field] / (problem.box.n_z * problem.box.n_x)))))


def schedule_for(problem: Problem, config: ReconstructConfig, tv_weight: float) -> Schedule:
    """Return the schedule of a preset.

    Args:
        problem: gives the block size.
        config: preset and field.
        tv_weight: weight of the total variation.
    """
    block = block_size(problem, config.field)
    steps = math.ceil(problem.box.n_y / block)
    return Schedule(
        passes=math.ceil(PASSES[config.preset] * max(1.0, LEAST_STEPS / steps)),
        block=block,
        tv_weight=tv_weight,
        learning_rate=RATES[config.field],
    )


def rehearse(problem: Problem, plan: Plan, config: ReconstructConfig, device: torch.device, observer: Observer) -> Plan:
    """Learn the noise, and choose the weight of the total variation, on a block of slices.

    Slices share nothing but the noise model, so a block stands for the whole. A first fit under Poisson-Gaussian noise
    gives the line of variance against intensity. Then the weights are tried from strong to weak, each fit starting from
    the one before, and the held-out pixels choose. A flow, which would go on learning from one trial to the next and so
    favour the later ones, is represented by the Poisson-Gaussian model that it starts from.

    Args:
        problem: the whole.
        plan: levels and noise to start from.
        config: field, noise model, seed, time limit.
        device: where to compute.
        observer: told each weight and its score.

    Returns:
        the plan with the noise and the weight.
    """
    rows = min(TRIAL_ROWS, problem.box.n_y)
    first = (problem.box.n_y - rows) // 2
    block = problem.rows(first, first + rows)
    limit = None if config.max_time is None else TRIAL_SHARE * config.max_time
    trial = schedule_for(block, config, STRENGTHS[0] / plan.deviation)
    trial = replace(trial, passes=TRIAL_PASSES, patience=2.0, seconds=limit)
    state = new_state(block, plan, trial, config.field, "poisson-gaussian", config.seed, device)
    fit(block, state, trial)
    line = cast(PoissonGaussian, state.noise)
    plan = replace(plan, slope=line.log_slope.exp().item(), floor=line.log_floor.exp().item())
    if config.tv_weight is not None:
        return replace(plan, tv_weight=config.tv_weight)
    noise = "poisson-gaussian" if config.noise == "flow" else config.noise
    state.noise = new_state(block, plan, trial, config.field, noise, config.seed, device).noise
    weights = [strength / plan.deviation for strength in STRENGTHS]
    stop = math.inf if config.max_time is None else time.perf_counter() + TRIALS_SHARE * config.max_time

    def score(weight: float) -> float:
        nonlocal state
        schedule = replace(trial, tv_weight=weight)
        state = start(state.field, state.noise, state.contrast, schedule, state.generator)
        fit(block, state, schedule)
        clean = render(block, evaluate_field(block, state.field, schedule.block), state.contrast, schedule.block)
        value = held_out(block, state.noise, clean)["nll"]
        observer.record({"stage": "weight", "tv_weight": weight, "heldout_nll": value})
        observer.progress("regulariser weight", (weights.index(weight) + 1) / len(weights), None, {"held-out": value})
        return value

    in_time = (w for k, w in enumerate(weights) if k == 0 or time.perf_counter() < stop)
    weight, scores = choose_weight(score, in_time)
    observer.say(
        f"total variation weight {weight:.3g}, chosen by held-out pixels among {len(scores)} "
        f"from {max(scores):.3g} to {min(scores):.3g}"
    )
    return replace(plan, tv_weight=weight)


def solve(
    series: TiltSeries,
    config: ReconstructConfig,
    mode: ContrastMode,
    device: torch.device,
    observer: Observer,
    resume: Mapping[str, Any] | None,
    began: float,
) -> Solution:
    """Fit a field to a series.

    Args:
        series: the tilt series.
        config: settings.
        mode: contrast.
        device: where to compute.
        observer: told of everything.
        resume: a checkpoint of an earlier run, or None.
        began: when the run began, on the clock of :func:`time.perf_counter`; its time limit counts from there.

    Raises:
        InputError: if the fit diverged before there was anything to keep.
    """
    plan = Plan(**resume["plan"]) if resume else find_plan(series, config, mode, device, observer)
    problem = make_problem(series, plan, config.seed, device, mask_sides=plan.padding > 0)
    if not resume:
        plan = rehearse(problem, plan, config, device, observer)
    schedule = schedule_for(problem, config, plan.tv_weight)
    state = new_state(problem, plan, schedule, config.field, config.noise, config.seed, device)
    if resume:
        state.load_state_dict(resume["fit"])
    prepared = resume["prepared"] if resume else time.perf_counter() - began
    if config.max_time is not None:
        left = config.max_time - prepared - _finishing_seconds(problem, state, schedule.block)
        schedule = replace(schedule, seconds=max(LEAST_SECONDS, left))
    outcome = fit(problem, state, schedule, _watcher(plan, prepared, observer))
    if outcome is Outcome.DIVERGED and not state.best:
        raise InputError(f"{series.name}: the loss became infinite or NaN in the first pass; {DIVERGED_ADVICE}")
    density = evaluate_field(problem, state.field, schedule.block)
    clean = render(problem, density, state.contrast, schedule.block)
    return Solution(plan, problem, state, schedule, outcome, density, clean, prepared)


def _finishing_seconds(problem: Problem, state: FitState, block: int) -> float:
    """Return how long the steps after the fit will take, by timing one block of slices."""
    rows = problem.rows(0, min(block, problem.box.n_y))
    began = time.perf_counter()
    render(rows, evaluate_field(rows, state.field, block), state.contrast, block)
    return WRITING_SECONDS + (time.perf_counter() - began) * math.ceil(problem.box.n_y / block)


def _watcher(plan: Plan, prepared: float, observer: Observer) -> Watcher:
    """Return what reports and checkpoints while the fit runs."""
    saved = time.perf_counter() - CHECKPOINT_SECONDS + FIRST_CHECKPOINT_SECONDS

    def watch(state: FitState, done: float, figures: dict[str, float]) -> None:
        nonlocal saved
        left = state.elapsed * (1 - done) / max(done, 1e-9)
        shown = {"held-out": state.curve[-1]} if state.curve else {}
        observer.progress("fit", done, left, shown)
        if not state.queue:
            observer.record(
                {
                    "stage": "fit",
                    "step": state.step,
                    "seconds": state.elapsed,
                    "heldout_nll": state.curve[-1],
                    "offset": state.contrast.offset.item(),
                    "gain": state.contrast.gain.item(),
                    **figures,
                }
            )
        if time.perf_counter() - saved > CHECKPOINT_SECONDS:
            observer.checkpoint(checkpoint_of(plan, state, prepared))
            saved = time.perf_counter()

    return watch


def checkpoint_of(plan: Plan, state: FitState, prepared: float) -> dict[str, Any]:
    """Return tensors and plain values from which :func:`solve` goes on."""
    return {"plan": asdict(plan), "fit": state.state_dict(), "prepared": prepared}


def volume_of(solution: Solution) -> np.ndarray:
    """Return the fitted density over the field of view, 1/pixel, float32, shape (z, y, x)."""
    padding = solution.plan.padding
    inside = solution.density[:, :, padding : solution.density.shape[2] - padding]
    return np.ascontiguousarray(inside.permute(1, 0, 2).cpu().numpy())


def rendered_of(solution: Solution) -> np.ndarray:
    """Return the clean images of the fitted field in the units of the data, float32, shape (tilt, row, col)."""
    plan = solution.plan
    clean = solution.clean.permute(1, 0, 2).cpu().numpy()
    return (clean * (plan.high - plan.low) + plan.low).astype(np.float32)


def metrics_of(solution: Solution) -> dict[str, Any]:
    """Return the figures of the fit, JSON-ready, intensities in the units of the data."""
    plan, state = solution.plan, solution.state
    span = plan.high - plan.low
    held = held_out(solution.problem, state.noise, solution.clean)
    nodes = torch.linspace(0, 1, 5, device=state.contrast.offset.device)
    return {
        "outcome": solution.outcome.name.lower(),
        "tv_weight": plan.tv_weight,
        "steps": state.step,
        "heldout_nll": held["nll"],
        "heldout_rmse": held["rmse"] * span,
        "noise": {
            "intensity": [v.item() * span + plan.low for v in nodes],
            "deviation": [v.item() * span for v in state.noise.deviation(nodes)],
            "saturated": [plan.saturated_low is not None, plan.saturated_high is not None],
            "quantised": plan.quantum is not None,
        },
        "gain": state.contrast.gain.item() * span,
        "offset": state.contrast.offset.item() * span + plan.low,
        "thickness_pixels": plan.n_z,
        "padding_pixels": plan.padding,
    }
