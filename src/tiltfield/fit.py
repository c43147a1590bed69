"""The one training loop: field, noise model and contrast fitted jointly to the slices of a series.

One step takes a block of adjacent slices, evaluates the field on them, projects them at every tilt, turns line
integrals into intensities, and descends on ``-mean log p(observed | clean) + w · TV(density)``. A few pixels are held
out of the likelihood; they say when to stop and how strong to regularise. The published methods take rays instead of
slices (:mod:`tiltfield.rays`); all else is the same. Processes that fit together (:mod:`tiltfield.ranks`) take a share
of each block's slices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor

from tiltfield import ranks
from tiltfield.contrast import Contrast
from tiltfield.errors import InputError
from tiltfield.fields.base import Field
from tiltfield.fitstate import FitState
from tiltfield.halo import Halo
from tiltfield.kernels.window import Adam, WindowAdam
from tiltfield.noise.base import NoiseModel
from tiltfield.problem import Problem
from tiltfield.regularise import margin_density, total_variation
from tiltfield.rendering import held_log_prob, slices_of
from tiltfield.schedule import AnySchedule, Schedule

TRUST_FROM, TRUST_ALL = 0.1, 0.5  # share of a fit from which, and by which, it follows the noise's correlation
LEARN_EVERY, LEARN_FROM, LEARN_FASTER = 4, 2, 3.0  # steps between two of a flow's; from one tilt in so many; rate
EMPTY = 0.5  # cost of density where there is believed to be none, against that of as steep a gradient


TOO_SMALL = "the GPU's memory is too small for this volume: bin the images (--bin), or try --device cpu"
DIVERGED_ADVICE = "try another --seed, or method neural with --noise gaussian"


class Outcome(Enum):
    """How a fit ended, and what that means for the user."""

    FINISHED = "the schedule was completed"
    CONVERGED = "the held-out likelihood stopped improving"
    INTERRUPTED = "the fit was interrupted; the best volume so far was kept"
    DIVERGED = f"the loss became infinite or NaN; the best volume so far was kept: {DIVERGED_ADVICE}"


def start(
    density: Field, noise: NoiseModel, contrast: Contrast, schedule: Schedule, generator: torch.Generator
) -> FitState:
    """Return the state before the first step.

    Args:
        density: the field.
        noise: the noise model.
        contrast: gain and offset.
        schedule: gives the learning rates.
        generator: source of all randomness of the fit.
    """
    groups = [
        *density.groups(schedule.learning_rate),
        *noise.groups(schedule.noise_rate * (LEARN_FASTER if noise.quasi else 1.0)),
        *contrast.groups(schedule.contrast_rate),
    ]
    windowed = [group for group in groups if group.pop("windowed", False)]
    others = [group for group in groups if group not in windowed]
    optimisers: list[torch.optim.Optimizer] = [Adam(others, lr=schedule.learning_rate)]
    if windowed:
        optimisers.append(WindowAdam(windowed, lr=schedule.learning_rate))
    return FitState(density, noise, contrast, optimisers, generator)


def step(problem: Problem, state: FitState, schedule: Schedule, done: float) -> dict[str, float]:
    """Descend once, on the next block of slices.

    Args:
        problem: the data.
        state: changed in place.
        schedule: weights and rates.
        done: share of the fit that is behind, 0 to 1.

    Returns:
        loss, negative log-likelihood (mean over pixels) and total variation of the block.
    """
    first = _next_block(state, problem.box.n_y, schedule.block)
    block = slice(first, min(first + schedule.block, problem.box.n_y))
    rows = ranks.share(block)
    seen = problem.seen_by(rows)
    evaluated = slice(seen.start, max(seen.stop, rows.start + 1))  # who has no share sums up gradients all the same
    wide = slices_of(state.field, problem.box, evaluated, problem.seen_by(block))
    halo = Halo(wide[: rows.stop - rows.start]) if ranks.count() > 1 and problem.reach == 0 else None
    wide = wide if halo is None else halo.own
    clean = problem.image(
        wide[: seen.stop - seen.start], state.contrast, rows.start - seen.start, seen.stop - rows.stop
    )
    state.noise.trust = min(1.0, max(0.0, (done - TRUST_FROM) / (TRUST_ALL - TRUST_FROM)))
    whole = problem.rows(block.start, block.stop)
    part = whole.rows(rows.start - block.start, rows.stop - block.start)
    nll, held = _likelihood(state, part, clean, whole.used)
    and_next = wide[rows.start - seen.start : min(rows.stop + 1, block.stop) - seen.start]
    density = and_next if halo is None else halo.with_next()
    variation, prior = _prior(problem, density, rows, block)
    columns = problem.box.n_x / problem.observed.shape[2]  # so that the weight does not depend on the padding
    loss = nll + schedule.tv_weight * columns * prior
    values = state.descend([loss], schedule.rate(done, state.step), [nll, variation])
    state.judge(held)
    return dict(zip(("loss", "nll", "tv"), values, strict=True))


def _likelihood(state: FitState, part: Problem, clean: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of some rows of a block, to descend on, and log p of their held-out pixels.

    It is a sum over pixels, divided by their number in the whole block, of which `used` tells. A model that is `quasi`
    learns now and then, from some of the pixels, in larger steps: it has few parameters, and pixels are many.
    """
    noise, observed, labels = state.noise, part.observed, part.labels
    if not noise.quasi:
        log_prob = noise.log_prob(observed, clean, labels)
        return _nll(log_prob, part.used, used), log_prob[part.held]
    nll, fixed = _nll(noise.pull(observed, clean, labels), part.used, used), clean.detach()
    if state.step % LEARN_EVERY == 0:
        first = int(torch.randint(0, LEARN_FROM, (1,), generator=state.generator))
        tilts = slice(first, None, LEARN_FROM)  # dark and bright ones, all of them as often
        log_prob = noise.log_prob(observed[:, tilts], fixed[:, tilts], labels[:, tilts])
        own = _nll(log_prob, part.used[:, tilts], used[:, tilts])
        nll = nll + (own - own.detach())
    with torch.no_grad():
        return nll, held_log_prob(part, noise, fixed)


def _nll(log_prob: Tensor, used: Tensor, of: Tensor) -> Tensor:
    return -(log_prob * used).sum() / of.sum().clamp_min(1)


def _prior(problem: Problem, density: Tensor, rows: slice, block: slice) -> tuple[Tensor, Tensor]:
    """Return what some rows of a block add to its mean total variation, and to all that the prior says.

    Args:
        problem: gives scale and margin.
        density: of these rows, and of the next if the block has it: there the variation of a share ends.
        rows: which.
        block: of which they are a share.
    """
    last = block.stop == problem.box.n_y  # the last slice of all is its own neighbour; others meet theirs another time
    pairs = min(rows.stop, block.stop - (not last)) - rows.start
    ends = rows.stop == block.stop and last
    variation = total_variation(density, problem.scale, closed=ends)
    variation = variation * (pairs / max(1, block.stop - block.start - (not last)))
    share = (rows.stop - rows.start) / (block.stop - block.start)
    margin = margin_density(density[: rows.stop - rows.start], problem.scale, problem.margin)
    return variation, variation + EMPTY * share * margin


def _next_block(state: FitState, n_rows: int, block: int) -> int:
    """Return the first row of the next block; each pass tiles the rows at a random offset, in random order."""
    block = min(block, n_rows)
    if not state.queue:
        offset = int(torch.randint(0, block, (1,), generator=state.generator)) if n_rows > block else 0
        starts = [max(0, min(n_rows - block, k * block - offset)) for k in range(math.ceil((n_rows + offset) / block))]
        order = torch.randperm(len(starts), generator=state.generator)
        state.queue = [starts[i] for i in order.tolist()]
    return state.queue.pop()


Watcher = Callable[[FitState, float, dict[str, float]], None]
Step = Callable[[Problem, FitState, Any, float], dict[str, float]]  # of a problem, a state, a schedule of its own kind
_Schedule = TypeVar("_Schedule", bound=AnySchedule)


def fit(
    problem: Problem, state: FitState, schedule: AnySchedule, watch: Watcher | None = None, step: Step = step
) -> Outcome:
    """Run the schedule from wherever the state stands, and leave the best parameters in it.

    Best is the last pass whose held-out negative log-likelihood is within so many standard errors of the lowest as the
    schedule allows. Ctrl-C ends the fit after the step with what there is. Where the GPU's memory is too small for a
    step, the fit goes on with steps of half the size.

    Args:
        problem: the data.
        state: changed in place.
        schedule: how to proceed.
        watch: called after every step with the state, the share done, and the step's figures.
        step: descends once; empties `state.queue` when a pass is complete and its held-out pixels are judged.

    Returns:
        how it ended.

    Raises:
        InputError: if the GPU's memory is too small for the smallest step.
    """
    outcome = Outcome.FINISHED
    state.interrupted = None
    schedule = fitting(schedule, state)
    total = schedule.steps(problem.box.n_y)
    state.began = time.perf_counter() - state.elapsed
    try:
        with ranks.between_steps():
            while (done := _done(state, schedule, total)) < 1:
                if _stalled(state, schedule):
                    outcome = Outcome.CONVERGED
                    break
                figures = _tried(step, problem, state, schedule, done)
                if figures is None:
                    schedule, total = _halve(problem, state, schedule)
                    continue
                state.elapsed, asked_to_stop = state.told or ranks.heard(time.perf_counter() - state.began)
                if _diverged(state, figures["loss"]):
                    outcome = Outcome.DIVERGED
                    break
                if not state.queue:
                    _close_pass(state, schedule.tolerance)
                if watch is not None:
                    watch(state, _done(state, schedule, total), figures)
                if asked_to_stop:  # only now, so that the state is one from which the fit can go on
                    ranks.stop()
    except KeyboardInterrupt:
        outcome = Outcome.INTERRUPTED
        state.interrupt()
    state.restore_best()
    return outcome


def fitting(schedule: _Schedule, state: FitState) -> _Schedule:
    """Return the schedule with steps of the size for which the GPU's memory was large enough so far.

    Args:
        schedule: as planned.
        state: tells how often the size was halved.
    """
    for _ in range(state.halvings):
        schedule = schedule.smaller() or schedule
    return schedule


def fit_through(problem: Problem, state: FitState, schedule: AnySchedule) -> None:
    """Run a schedule on the way to something else: Ctrl-C ends that too, and a fit that diverged before its first pass.

    Args:
        problem: the data.
        state: changed in place.
        schedule: how to proceed.

    Raises:
        KeyboardInterrupt: if it was interrupted.
        InputError: if the loss became infinite or NaN before there was anything to keep.
    """
    outcome = fit(problem, state, schedule)
    if outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    if outcome is Outcome.DIVERGED and not state.best:
        raise InputError(f"the loss became infinite or NaN before the fit; {DIVERGED_ADVICE}")


def _tried(
    step: Step, problem: Problem, state: FitState, schedule: AnySchedule, done: float
) -> dict[str, float] | None:
    """Return the figures of a step, None if the GPU's memory was too small for it; what it held is free again then."""
    try:
        return step(problem, state, schedule, done)
    except torch.cuda.OutOfMemoryError:
        if ranks.count() > 1:  # the others are in the middle of the step
            raise InputError(TOO_SMALL) from None
    torch.cuda.empty_cache()  # not above: as long as the error is handled, it holds all that the step did
    return None


def _halve(problem: Problem, state: FitState, schedule: AnySchedule) -> tuple[AnySchedule, int]:
    """Return the schedule with steps of half the size, and their number; the pass begins anew."""
    smaller = schedule.smaller()
    if smaller is None:
        raise InputError(TOO_SMALL)
    n_rows = problem.box.n_y
    state.step = round(state.step * smaller.steps(n_rows) / schedule.steps(n_rows))
    state.halvings += 1
    state.queue, state.held_sum, state.held_square, state.held_count = [], 0.0, 0.0, 0
    return smaller, smaller.steps(n_rows)


def _diverged(state: FitState, loss: float) -> bool:
    return not math.isfinite(loss) or (not state.queue and not state.finite)


def _done(state: FitState, schedule: AnySchedule, total: int) -> float:
    done = state.step / total
    return done if schedule.seconds is None else max(done, state.elapsed / schedule.seconds)


def _close_pass(state: FitState, tolerance: float) -> None:
    """Judge the pass that ends here by its held-out pixels, and keep it unless it is worse than the best.

    Within `tolerance` standard errors the later pass counts as no worse: the learning rate has fallen since.
    """
    sums = torch.tensor([float(state.held_sum), float(state.held_square), state.held_count], dtype=torch.float64)
    ranks.add([sums])
    total, square, count = sums.tolist()
    count = max(1.0, count)
    held = total / count
    error = math.sqrt(max(0.0, square / count - held**2) / count)
    state.held_sum, state.held_square, state.held_count = 0.0, 0.0, 0
    state.curve.append(held)
    if held <= state.best_held + tolerance * error:
        state.best_held, state.best_pass = min(held, state.best_held), len(state.curve)
        state.keep_best()


def _stalled(state: FitState, schedule: AnySchedule) -> bool:
    passes = len(state.curve)
    since = passes - state.best_pass
    return passes > schedule.passes // 2 and since > max(5, schedule.patience * schedule.passes)
