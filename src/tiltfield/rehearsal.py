"""What is learned on a block of slices before the whole is fitted: the noise, and the weight of the total variation.

Slices share nothing but the noise model and the contrast, so a block stands for the whole.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from tiltfield.config import NOISE_NAMES, ReconstructConfig
from tiltfield.fit import FitState, evaluate_field, fit, held_out, render, start
from tiltfield.noise.estimate import autocorrelation
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.noise.scan import ORDER
from tiltfield.observe import Observer
from tiltfield.plan import Plan, fitted_noise, new_noise, new_state
from tiltfield.problem import Problem, hold_out_again
from tiltfield.regularise import choose_weight
from tiltfield.schedule import Schedule, schedule_for

STRENGTHS = tuple(0.24 * 0.6**k for k in range(9))  # tried weights of the total variation, times the noise deviation
TRIAL_ROWS = 16
TRIAL_PASSES = 30
TRIAL_SHARE = 0.07  # of a limited run's time, for each weight tried
TRIALS_SHARE = 0.35  # of a limited run's time, after which no further weight is tried
AXES = {2: "x", 0: "y"}  # dimensions of (row, tilt, col) along which a scan can run, as the image's axes
CORRELATED = 0.15  # correlation of neighbours' noise along one axis, over that along the other, that is taken for real
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
    if config.noise not in NOISE_NAMES:  # a file that does not fit is refused before anything is fitted
        fitted_noise(plan, config.noise, -1)
    rows = min(TRIAL_ROWS, problem.box.n_y)
    first = (problem.box.n_y - rows) // 2
    block = problem.rows(first, first + rows)
    limit = None if config.max_time is None else TRIAL_SHARE * config.max_time
    schedule = schedule_for(block, config, STRENGTHS[0] / plan.deviation)
    schedule = replace(schedule, passes=TRIAL_PASSES, patience=2.0, seconds=limit)
    state = new_state(block, plan, schedule, config.field, "poisson-gaussian", config.seed, device)
    fit(block, state, schedule)
    line = cast(PoissonGaussian, state.noise)
    plan = replace(plan, slope=line.log_slope.exp().item(), floor=line.log_floor.exp().item())
    plan = _with_correlation(plan, residuals(block, state), block.used | block.held, observer)
    plan = replace(plan, noise=_chosen(config.noise, plan, observer))
    if plan.scan is not None:
        problem = hold_out_again(problem, plan.scan, config.seed)
        block = problem.rows(first, first + rows)
    if config.tv_weight is not None:
        return problem, replace(plan, tv_weight=config.tv_weight)
    weight = _weight(_Trials(block, plan, config, schedule, device, observer), state)
    return problem, replace(plan, tv_weight=weight)


def residuals(problem: Problem, state: FitState) -> Tensor:
    """Return observed less rendered, over the noise deviation, shape (row, tilt, col).

    Args:
        problem: the data.
        state: a fit of them.
    """
    clean = render(problem, evaluate_field(problem, state.field, problem.box.n_y), state.contrast, problem.box.n_y)
    with torch.no_grad():
        return state.noise.scores(problem.observed, clean)


def _with_correlation(plan: Plan, scores: Tensor, used: Tensor, observer: Observer) -> Plan:
    """Return the plan with the axis along which noise is correlated, if one stands out, and say what was seen.

    What the fit leaves unexplained correlates along both axes, as does noise that was interpolated when the images
    were aligned; noise of a slow detector does along the scan alone.
    """
    lags = {axis: autocorrelation(scores, axis, min(ORDER, scores.shape[axis] - 1), used) for axis in AXES}
    first = {axis: float(rho[0]) if len(rho) else 0.0 for axis, rho in lags.items()}
    seen = ", ".join(f"{first[axis]:.2f} along {name}" for axis, name in AXES.items())
    axis, other = sorted(first, key=first.__getitem__, reverse=True)
    if first[axis] - max(0.0, first[other]) < CORRELATED:
        observer.say(f"residuals of neighbouring pixels correlate by {seen}: noise is taken as independent")
        return plan
    observer.say(f"residuals of neighbouring pixels correlate by {seen}: the scan runs along {AXES[axis]}")
    return replace(plan, scan=axis, correlation=tuple(lags[axis].tolist()))


def _chosen(noise: str, plan: Plan, observer: Observer) -> str:
    """Return the noise model: as asked for, or by whether noise is correlated."""
    if noise != "auto":
        return noise
    chosen = "flow" if plan.scan is None else "scan-flow"
    observer.say(f"noise model {chosen}, told from the residuals")
    return chosen


def _weight(trials: _Trials, state: FitState) -> float:
    """Return the weight of the total variation that the held-out pixels choose; `state` is where trials begin."""
    plan, config, observer, schedule = trials.plan, trials.config, trials.observer, trials.schedule
    generator = torch.Generator().manual_seed(config.seed)
    state.noise = new_noise(plan, STAND_INS.get(plan.noise, plan.noise), generator).to(trials.device)
    weights = [strength / plan.deviation for strength in STRENGTHS]
    stop = math.inf if config.max_time is None else time.perf_counter() + TRIALS_SHARE * config.max_time

    def score(weight: float) -> float:
        nonlocal state
        state = start(state.field, state.noise, state.contrast, replace(schedule, tv_weight=weight), state.generator)
        value = trial(trials.block, state, replace(schedule, tv_weight=weight))
        observer.record({"stage": "weight", "tv_weight": weight, "heldout_nll": value})
        observer.progress("regulariser weight", (weights.index(weight) + 1) / len(weights), None, {"held-out": value})
        return value

    in_time = (w for k, w in enumerate(weights) if k == 0 or time.perf_counter() < stop)
    weight, scores = choose_weight(score, in_time)
    observer.say(
        f"total variation weight {weight:.3g}, chosen by held-out pixels among {len(scores)} "
        f"from {max(scores):.3g} to {min(scores):.3g}"
    )
    return weight


def trial(block: Problem, state: FitState, schedule: Schedule) -> float:
    """Fit a block from wherever the state stands, and return the held-out negative log-likelihood.

    Args:
        block: the data.
        state: changed in place.
        schedule: how to proceed.
    """
    fit(block, state, schedule)
    clean = render(block, evaluate_field(block, state.field, schedule.block), state.contrast, schedule.block)
    return held_out(block, state.noise, clean)["nll"]
