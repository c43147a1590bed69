"""What is learned on a block of slices before the whole is fitted: the noise, and the weight of the total variation.

Slices share nothing but the noise model and the contrast, so a block stands for the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from tiltfield import ranks
from tiltfield.config import NOISE_NAMES, ReconstructConfig
from tiltfield.fit import FitState, fit_through, start, step
from tiltfield.noise.estimate import autocorrelation
from tiltfield.noise.file import load_noise
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.noise.scan import ORDER, Scan
from tiltfield.observe import Observer
from tiltfield.plan import Kind, Plan, fitted_noise, new_noise, new_state
from tiltfield.problem import Problem, hold_out_again
from tiltfield.regularise import choose_weight
from tiltfield.rendering import evaluate_field, held_out, render
from tiltfield.schedule import SCANNED_ROWS, Schedule, schedule_for

STRENGTHS = tuple(0.24 * 0.6**k for k in range(9))  # tried weights of the total variation, times the noise deviation
TRIAL_ROWS = 16
TRIAL_PASSES = 30
TRIAL_SHARE = 0.07  # of a limited run's time, for each weight tried
TRIALS_SHARE = 0.35  # of a limited run's time, after which no further weight is tried
AXES = {2: "x", 0: "y"}  # dimensions of (row, tilt, col) along which a scan can run, as the image's axes
CORRELATED = 0.15  # correlation of neighbours' noise along one axis, over that along the other, that is taken for real
UNLIKE = 1.5  # ratio of deviations, or its inverse, beyond which a fitted noise model does not look like the series
STAND_INS = {"flow": "poisson-gaussian", "flow-paper": "poisson-gaussian", "scan-flow": "scan-poisson-gaussian"}


@dataclass(frozen=True)
class _Trials:
    """What all trial fits share."""

    block: Problem
    plan: Plan
    config: ReconstructConfig
    schedule: Schedule
    device: torch.device
    observer: Observer


def rehearse(
    problem: Problem, plan: Plan, config: ReconstructConfig, device: torch.device, observer: Observer
) -> tuple[Problem, Plan]:
    """Learn the noise, and choose the weight of the total variation, on a block of slices.

    A first fit under Poisson-Gaussian noise gives the line of variance against intensity, and residuals whose
    correlation tells the noise model. Then the weights are tried from strong to weak, each fit starting from the one
    before, and the held-out pixels choose. A flow, which would go on learning from one trial to the next and so favour
    the later ones, is represented by the analytic model that it starts from.

    Args:
        problem: the whole.
        plan: levels and noise to start from.
        config: field, noise model, seed, time limit.
        device: where to compute.
        observer: told what is found, each weight and its score.

    Returns:
        the problem with its held-out pixels, and the plan with noise and weight.
    """
    rows = min(max(TRIAL_ROWS, SCANNED_ROWS * ranks.count()), problem.box.n_y)
    first = (problem.box.n_y - rows) // 2
    block = problem.rows(first, first + rows)
    limit = None if config.max_time is None else TRIAL_SHARE * config.max_time
    schedule = schedule_for(block.box, config, STRENGTHS[0] / plan.deviation, on_gpu=device.type == "cuda")
    schedule = replace(schedule, passes=TRIAL_PASSES, patience=2.0, seconds=limit)
    kind = Kind(config.field, "poisson-gaussian", config.features)
    if limit is not None and device.type == "cuda":  # the first step compiles, which is not to take the fit's time
        step(block, new_state(block, plan, schedule, kind, config.seed, device), schedule, 0.0)
    state = new_state(block, plan, schedule, kind, config.seed, device)
    fit_through(block, state, schedule)
    line = cast(PoissonGaussian, state.noise)
    plan = replace(plan, slope=line.log_slope.exp().item(), floor=line.log_floor.exp().item())
    scores = residuals(block, state, schedule.block)
    plan = _with_correlation(plan, config.noise, scores, block.used | block.held, observer)
    plan = ranks.first_says(replace(plan, noise=_chosen(config.noise, plan, observer)))
    if plan.scan is not None:
        problem = hold_out_again(problem, plan.scan, config.seed, plan.guard)
        block = problem.rows(first, first + rows)
    if config.tv_weight is not None:
        return problem, replace(plan, tv_weight=config.tv_weight)
    weight = _weight(_Trials(block, plan, config, schedule, device, observer), state)
    return problem, replace(plan, tv_weight=weight)


def residuals(problem: Problem, state: FitState, rows: int) -> Tensor:
    """Return observed less rendered, over the noise deviation, shape (row, tilt, col).

    Args:
        problem: the data.
        state: a fit of them.
        rows: slices at a time.
    """
    clean = render(problem, evaluate_field(problem, state.field, rows), state.contrast, rows)
    with torch.no_grad():
        return state.noise.scores(problem.observed, clean)


def _with_correlation(plan: Plan, noise: str, scores: Tensor, used: Tensor, observer: Observer) -> Plan:
    """Return the plan with the axis along which noise is correlated, if one stands out, and say what was seen.

    What the fit leaves unexplained correlates along both axes, as does noise that was interpolated when the images
    were aligned; noise of a slow detector does along the scan alone. So what is seen along the other axis is taken off.
    """
    lags = {axis: autocorrelation(scores, axis, ORDER, used) for axis in AXES}
    first = {axis: float(rho[0]) for axis, rho in lags.items()}
    axis, other = sorted(first, key=first.__getitem__, reverse=True)
    seen = ", ".join(f"{first[a]:.2f} along {name}" for a, name in AXES.items())
    found = first[axis] - max(0.0, first[other]) >= CORRELATED
    if not found and not _is_scan(noise):
        observer.say(
            f"what a first fit leaves over correlates from pixel to pixel by {seen}: no axis stands out, "
            "noise is taken as independent"
        )
        return plan
    how = "the scan runs" if found else "no axis stands out, the scan is taken to run"
    observer.say(f"what a first fit leaves over correlates from pixel to pixel by {seen}: {how} along {AXES[axis]}")
    common = lags[other].clamp_min(0)
    correlation = (lags[axis] - common) / (1 - common[0]).clamp_min(0.1)
    return replace(plan, scan=axis, correlation=tuple(correlation.tolist()))


def _is_scan(noise: str) -> bool:
    """Return whether a model that was asked for is one of correlated noise."""
    return noise.startswith("scan-") if noise in NOISE_NAMES else isinstance(load_noise(noise).model, Scan)


def _chosen(noise: str, plan: Plan, observer: Observer) -> str:
    """Return the noise model: by whether noise is correlated, or as asked for, and say if it does not look right."""
    if noise == "auto":
        chosen = "flow" if plan.scan is None else "scan-flow"
        observer.say(f"noise model {chosen}, told from the residuals")
        return chosen
    if noise not in NOISE_NAMES:
        model = fitted_noise(plan, noise, -1)
        ratio = float(model.deviation(torch.tensor([0.5]))) / plan.deviation
        if not 1 / UNLIKE < ratio < UNLIKE:
            observer.say(
                f"the noise of {noise} is {ratio:.2g} times that of the series: was it fitted to frames of the same "
                "dwell, gain and binning?"
            )
    return noise


def _weight(trials: _Trials, state: FitState) -> float:
    """Return the weight of the total variation that the held-out pixels choose; `state` is where trials begin."""
    plan, config, observer, schedule = trials.plan, trials.config, trials.observer, trials.schedule
    generator = torch.Generator().manual_seed(config.seed)
    state.noise = new_noise(plan, STAND_INS.get(plan.noise, plan.noise), generator).to(trials.device)
    weights = [strength / plan.deviation for strength in STRENGTHS]
    limit = math.inf if config.max_time is None else TRIALS_SHARE * config.max_time
    stop = ranks.clock(time.perf_counter()) + limit

    def score(weight: float) -> float:
        nonlocal state
        state = start(state.field, state.noise, state.contrast, replace(schedule, tv_weight=weight), state.generator)
        value = trial(trials.block, state, replace(schedule, tv_weight=weight))
        observer.record({"stage": "weight", "tv_weight": weight, "heldout_nll": value})
        observer.progress("regulariser weight", (weights.index(weight) + 1) / len(weights), None, {"held-out": value})
        return value

    in_time = (w for k, w in enumerate(weights) if k == 0 or ranks.clock(time.perf_counter()) < stop)
    weight, scores = choose_weight(score, in_time)
    observer.say(
        f"total variation weight {weight:.3g}, chosen by held-out pixels among {len(scores)} "
        f"from {max(scores):.3g} to {min(scores):.3g}{_at_the_end(weight, scores)}"
    )
    return weight


def _at_the_end(weight: float, scores: Collection[float]) -> str:
    """Return what there is to say of a weight that is the last of those that were tried, in one direction."""
    if len(scores) < 2 or min(scores) < weight < max(scores):
        return ""
    which, other = ("strongest", "a stronger") if weight == max(scores) else ("weakest", "a weaker")
    return f": the {which} of them, {other} one (--tv-weight) may be better"


def trial(block: Problem, state: FitState, schedule: Schedule) -> float:
    """Fit a block from wherever the state stands, and return the held-out negative log-likelihood.

    Args:
        block: the data.
        state: changed in place.
        schedule: how to proceed.
    """
    fit_through(block, state, schedule)
    clean = render(block, evaluate_field(block, state.field, schedule.block), state.contrast, schedule.block)
    return held_out(block, state.noise, clean)["nll"]
