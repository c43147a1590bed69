"""The neural reconstruction: from a series to a fitted field.

Everything the user is not asked for is found first: what :mod:`tiltfield.plan` finds, then the weight of the total
variation, by fits of a block of slices. Then the whole is fitted. The published methods find out nothing, and start at
once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiltfield import ranks
from tiltfield.coarse import find_plan
from tiltfield.config import NOISE_NAMES, PUBLISHED, ReconstructConfig
from tiltfield.contrast import ContrastMode
from tiltfield.defocus import Defocus
from tiltfield.errors import InputError
from tiltfield.fields.base import Box
from tiltfield.fit import DIVERGED_ADVICE, FitState, Outcome, Step, Watcher, fit, fitting, step
from tiltfield.forecast import check_box
from tiltfield.noise import NoiseModel
from tiltfield.noise.scan import ORDER, Scan
from tiltfield.observe import Observer
from tiltfield.parse import parse_defocus
from tiltfield.plan import Kind, Plan, make_problem, new_state
from tiltfield.problem import Problem
from tiltfield.published import prepare
from tiltfield.rays import ray_step
from tiltfield.rehearsal import AXES, rehearse
from tiltfield.rendering import evaluate_field, held_out, render
from tiltfield.schedule import AnySchedule, schedule_for
from tiltfield.series import TiltSeries

WRITING_SECONDS = 2.5  # of a limited run, for starting Python, the figures, the preview and the files
PIXEL_SECONDS, VOXEL_SECONDS = 6e-8, 2.5e-8  # for figures of the residuals, for the volume's file and the report
HURRIED = 0.7  # share of the steps below which a fit that a time limit cut short is told of
LEAST_SECONDS = 0.5  # that a fit gets even where no time is left
FIRST_CHECKPOINT_SECONDS = 2.0  # or, as below, so many times the seconds that writing it is going to take
CHECKPOINT_BYTES_A_SECOND = 1e9  # about
CHECKPOINT_SECONDS = 20.0  # between two; where one takes longer than a second to write, so many times as long


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
    schedule: AnySchedule
    outcome: Outcome
    density: Tensor
    clean: Tensor
    prepared: float


@dataclass(frozen=True, eq=False)
class Job:
    """What a fit is asked for.

    Attributes:
        series: the tilt series.
        config: settings.
        mode: contrast.
        device: where to compute.
        observer: told of everything.
        began: when the run began, on the clock of :func:`time.perf_counter`; its time limit counts from there.
        box: a plan whose extents are taken over, so that parts of a series share their box; None: they are found.
    """

    series: TiltSeries
    config: ReconstructConfig
    mode: ContrastMode
    device: torch.device
    observer: Observer
    began: float
    box: Plan | None = None


@dataclass(frozen=True, eq=False)
class _Start:
    """What a fit starts from, and how it steps."""

    plan: Plan
    problem: Problem
    schedule: Any
    state: FitState
    step: Step


def solve(job: Job, resume: Mapping[str, Any] | None) -> Solution:
    """Fit a field to a series.

    Args:
        job: what is asked.
        resume: a checkpoint of an earlier run, or None.

    Raises:
        InputError: if the fit diverged before there was anything to keep.
    """
    config = job.config
    begin = _begin_published(job) if config.method in PUBLISHED else _begin(job, resume)
    plan, problem, schedule, state = begin.plan, begin.problem, begin.schedule, begin.state
    if resume:
        state.load_state_dict(resume["fit"])
    prepared = resume["prepared"] if resume else ranks.clock(time.perf_counter() - job.began)
    if config.max_time is not None:
        block = fitting(schedule, state).block
        left = config.max_time - prepared - ranks.clock(_finishing_seconds(problem, state, block))
        schedule = replace(schedule, seconds=max(LEAST_SECONDS, left))
    outcome = fit(problem, state, schedule, _watcher(plan, state, prepared, job.observer), begin.step)
    if outcome is Outcome.DIVERGED and not state.best:
        raise InputError(f"{job.series.name}: the loss became infinite or NaN in the first pass; {DIVERGED_ADVICE}")
    full = fitting(schedule, state).steps(problem.box.n_y)
    if outcome is Outcome.FINISHED and state.step < HURRIED * full:
        job.observer.say(f"the time limit allowed {state.step} of {full} steps: a longer --max-time shows more")
    return _solution(begin, outcome, prepared)


def _solution(begin: _Start, outcome: Outcome, prepared: float) -> Solution:
    """Return a fit that has ended, with its density and images."""
    plan, problem, state, schedule = begin.plan, begin.problem, begin.state, fitting(begin.schedule, begin.state)
    density = evaluate_field(problem, state.field, schedule.block)
    clean = render(problem, density, state.contrast, schedule.block)
    return Solution(plan, problem, state, schedule, outcome, density, clean, prepared)


def restored(job: Job, checkpoint: Mapping[str, Any]) -> Solution:
    """Return the fit that a checkpoint holds, at its best, without a further step.

    Args:
        job: what it was asked for; a method of ours, not a published one.
        checkpoint: as :func:`checkpoint_of` made it.
    """
    begin = _begin(job, checkpoint)
    begin.state.load_state_dict(checkpoint["fit"])
    begin.state.settle()
    return _solution(begin, Outcome.FINISHED, checkpoint["prepared"])


def fit_again(job: Job, plan: Plan, share: float) -> Solution:
    """Fit from scratch by a plan that is known: nothing is found out anew.

    Args:
        job: what is asked; a method of ours, not a published one.
        plan: with its noise model and weight.
        share: of the passes that the preset makes, 0 to 1.
    """
    begin = _assemble(job, plan, _problem(job, plan))
    schedule = replace(begin.schedule, passes=max(1, round(share * begin.schedule.passes)))
    return _solution(begin, fit(begin.problem, begin.state, schedule), 0.0)


def _begin(job: Job, resume: Mapping[str, Any] | None) -> _Start:
    """Return the start of our own fit: everything the user is not asked for is found out."""
    plan = Plan(**resume["plan"]) if resume else find_plan(job.series, job.config, job.mode, job.device, job.observer)
    plan = ranks.first_says(plan)
    if job.box is not None:
        plan = replace(plan, n_z=job.box.n_z, margin=job.box.margin, padding=job.box.padding)
    elif plan.padding:
        _, n_y, n_x = job.series.images.shape
        check_box(job.series.images.shape, job.config, Box(plan.n_z, n_y, n_x + 2 * plan.padding))
    problem = _problem(job, plan)
    if not resume:
        problem, plan = rehearse(problem, plan, job.config, job.device, job.observer)
    return _assemble(job, plan, problem)


def _problem(job: Job, plan: Plan) -> Problem:
    """Return the series by slices, in the plan's box."""
    problem = make_problem(job.series, plan, job.config.seed, job.device, mask_sides=plan.padding > 0)
    if problem.observed.device.type != job.device.type:
        job.observer.say("the images would take too much of the GPU's memory: they stay in that of the machine")
    return replace(problem, blur=blur_of(job.config, job.series, job.device))


def _assemble(job: Job, plan: Plan, problem: Problem) -> _Start:
    """Return the start of our own fit when all is found out."""
    config = job.config
    schedule = schedule_for(problem.box, config, plan.tv_weight, plan.scan, on_gpu=job.device.type == "cuda")
    # a fitted model is read from where it lies now: the run may have been moved
    noise = plan.noise if config.noise in NOISE_NAMES else config.noise
    kind = Kind(config.field, noise, config.features, config.flow_layers)
    state = new_state(problem, plan, schedule, kind, config.seed, job.device)
    return _Start(plan, problem, schedule, state, step)


def _begin_published(job: Job) -> _Start:
    """Return the start of a published method's fit."""
    plan, problem, schedule, state = prepare(job.series, job.config, job.mode, job.device)
    problem = replace(problem, blur=blur_of(job.config, job.series, job.device))
    return _Start(plan, problem, schedule, state, ray_step)


def blur_of(config: ReconstructConfig, series: TiltSeries, device: torch.device) -> Defocus | None:
    """Return the defocus that the settings tell of, or None.

    Args:
        config: law and size.
        series: tilts and width of the images.
        device: where to compute.
    """
    blur = parse_defocus(config.defocus)
    return None if blur is None else Defocus.of(*blur, series.angles_deg, series.images.shape[2], device)


def _finishing_seconds(problem: Problem, state: FitState, block: int) -> float:
    """Return how long the steps after the fit will take, by timing one block of slices."""
    rows = problem.rows(0, min(block, problem.box.n_y))
    on_gpu = next(state.field.parameters()).is_cuda
    for _ in range(2 if on_gpu else 1):  # the first compiles
        began = time.perf_counter()
        clean = render(rows, evaluate_field(rows, state.field, block), state.contrast, block)
        clean[0, 0, 0].item()  # a GPU is not done when the call returns
        took = time.perf_counter() - began
    told = PIXEL_SECONDS * problem.observed.numel() + VOXEL_SECONDS * math.prod(problem.box.shape)
    return WRITING_SECONDS + told + _checkpoint_seconds(state) + took * math.ceil(problem.box.n_y / block)


def _checkpoint_seconds(state: FitState) -> float:
    """Return about how long it takes to write a state: the field, two moments and the best one."""
    return 4 * sum(parameter.nbytes for parameter in state.field.parameters()) / CHECKPOINT_BYTES_A_SECOND


def _watcher(plan: Plan, begun: FitState, prepared: float, observer: Observer) -> Watcher:
    """Return what reports and checkpoints while the fit runs."""
    due = time.perf_counter() + FIRST_CHECKPOINT_SECONDS * max(1.0, _checkpoint_seconds(begun))
    halvings = 0

    def watch(state: FitState, done: float, figures: dict[str, float]) -> None:
        nonlocal due, halvings
        if state.halvings > halvings:
            halvings = state.halvings
            observer.say(f"the GPU's memory is short: going on with steps of 1/{2**halvings} of their size")
        done = min(done, 1.0)
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
        if (began := time.perf_counter()) > due:
            observer.checkpoint(checkpoint_of(plan, state, prepared))
            now = time.perf_counter()
            due = now + CHECKPOINT_SECONDS * max(1.0, now - began)

    return watch


def checkpoint_of(plan: Plan, state: FitState, prepared: float) -> dict[str, Any]:
    """Return tensors and plain values from which :func:`solve` goes on."""
    return {"plan": asdict(plan), "fit": state.state_dict(), "prepared": prepared}


def volume_of(solution: Solution) -> np.ndarray:
    """Return the fitted density over the field of view, 1/pixel, float32, shape (z, y, x)."""
    return in_view(solution.density, solution.plan.padding)


def in_view(density: Tensor, padding: int) -> np.ndarray:
    """Return a density over the field of view, float32, shape (z, y, x).

    Args:
        density: shape (row, n_z, n_x), with padding.
        padding: columns on each side that the field of view does not have.
    """
    inside = density[:, :, padding : density.shape[2] - padding]
    return np.ascontiguousarray(inside.permute(1, 0, 2).cpu().numpy())


def rendered_of(solution: Solution) -> np.ndarray:
    """Return the clean images of the fitted field in the units of the data, float32, shape (tilt, row, col)."""
    plan = solution.plan
    clean = solution.clean.permute(1, 0, 2).cpu().numpy()
    return (clean * (plan.high - plan.low) + plan.low).astype(np.float32)


def _correlation(noise: NoiseModel) -> list[float]:
    """Return the correlation of neighbours' noise along the scan, lag 1 on."""
    return noise.autocorrelation(ORDER).tolist() if isinstance(noise, Scan) else []


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
        "steps_in_full": solution.schedule.steps(solution.problem.box.n_y),
        "heldout_nll": held["nll"],
        "heldout_rmse": held["rmse"] * span,
        "noise": {
            "model": plan.noise,
            "scan_axis": None if plan.scan is None else AXES[plan.scan],
            "correlation": _correlation(state.noise),
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
