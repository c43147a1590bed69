"""A GPU whose memory is too small for a step: the fit goes on with smaller ones, or says what to do."""

import copy
import weakref
from dataclasses import replace

import pytest
import torch

from test_fit import make_problem, make_state
from tiltfield.errors import InputError
from tiltfield.fit import Outcome, Schedule, fit, step
from tiltfield.rays import FEWEST_RAYS, RaySchedule


class Short:
    """A step for which the GPU's memory is too small the first times, or as long as blocks are large."""

    def __init__(self, times=0, largest=1000, after=0):
        self.times, self.largest, self.after, self.blocks = times, largest, after, []

    def __call__(self, problem, state, schedule, done):
        self.blocks.append(schedule.block)
        if len(self.blocks) > self.after and (self.times > 0 or schedule.block > self.largest):
            self.times -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return step(problem, state, schedule, done)


HALVING = Schedule(passes=4, block=8, tv_weight=0.3, learning_rate=0.1)


def test_short_of_memory_a_fit_goes_on_with_half_the_block():
    problem = make_problem(rows=16)
    state, short, shares = make_state(problem, HALVING), Short(times=1, after=3), []
    outcome = fit(problem, state, HALVING, lambda _, done, figures: shares.append(done), step=short)
    assert outcome is Outcome.FINISHED
    assert short.blocks[:5] == [8, 8, 8, 8, 4]
    assert set(short.blocks[4:]) == {4}
    assert shares == sorted(shares)  # what was done stays done
    assert shares[-1] >= 1
    assert state.halvings == 1
    assert len(state.curve) >= 3


def test_what_a_step_held_is_gone_when_memory_is_given_back(monkeypatch):
    held, alive = [], []

    def short(problem, state, schedule, done):
        if not held:
            images = torch.zeros(1000)
            held.append(weakref.ref(images))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return step(problem, state, schedule, done)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[0]() is not None))
    problem = make_problem(rows=16)
    fit(problem, make_state(problem, HALVING), HALVING, step=short)
    assert alive == [False]


def test_a_resumed_fit_begins_with_the_block_that_fitted():
    problem = make_problem(rows=16)
    state, halves = make_state(problem, HALVING), []

    def stop(state, done, figures):
        halves.append(done)
        if done > 0.4:
            raise KeyboardInterrupt

    fit(problem, state, HALVING, stop, step=Short(largest=4))
    saved = copy.deepcopy(state.state_dict())
    resumed, short, shares = make_state(problem, HALVING), Short(largest=4), []
    resumed.load_state_dict(saved)
    fit(problem, resumed, HALVING, lambda _, done, figures: shares.append(done), step=short)
    assert set(short.blocks) == {4}
    assert halves[-1] < shares[0] < halves[-1] + 0.1


def test_where_even_the_least_block_is_too_large_it_says_what_to_do():
    problem = make_problem(rows=16)
    with pytest.raises(InputError, match="--bin"):
        fit(problem, make_state(problem, HALVING), HALVING, step=Short(largest=1))


def test_correlation_along_the_rows_keeps_blocks_long_enough():
    assert replace(HALVING, block=16, least=8).smaller().block == 8
    assert replace(HALVING, block=15, least=8).smaller() is None


def test_rays_are_taken_in_more_and_smaller_parts():
    schedule = RaySchedule(512, 10, rays=512, parts=4, samples=(8, 16), plain_steps=0, tv_weight=0.0, block=4)
    half = schedule.smaller()
    assert (half.rays, half.parts, half.steps(9)) == (256, 8, schedule.steps(9))
    assert replace(schedule, rays=2 * FEWEST_RAYS - 1).smaller() is None
