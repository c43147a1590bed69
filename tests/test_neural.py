"""What surrounds the fit of a series: how often its state is kept, and how what comes after is timed and computed."""

import types

import pytest

from test_fit import make_problem, make_state
from test_fit_memory import HALVING, Short
from tiltfield import neural
from tiltfield.fit import Outcome, fit
from tiltfield.observe import Observer


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes only when a test says so."""
    time = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(neural.time, "perf_counter", lambda: time.now)
    return time


class Slow(Observer):
    """Takes some seconds to write a state, and remembers when it began."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.began = clock, seconds, []

    def checkpoint(self, state):
        self.began.append(self.clock.now)
        self.clock.now += self.seconds


@pytest.mark.parametrize(("seconds", "apart"), [(0.1, 20.0), (1.0, 20.0), (6.5, 130.0)])
def test_the_fit_waits_a_twentieth_of_the_time_at_most_for_its_state_to_be_written(clock, monkeypatch, seconds, apart):
    monkeypatch.setattr(neural, "checkpoint_of", lambda *_: {})
    observer = Slow(clock, seconds)
    state = make_state(make_problem())
    watch = neural._watcher(None, state, 0.0, observer)
    state.queue = [0]
    start = clock.now
    while len(observer.began) < 4:
        watch(state, 0.5, {})
        clock.now += 0.25
    assert observer.began[0] == pytest.approx(start + neural.FIRST_CHECKPOINT_SECONDS, abs=0.5)
    for earlier, later in zip(observer.began, observer.began[1:], strict=False):
        assert later - earlier - seconds == pytest.approx(apart, abs=0.5)


def test_a_state_that_takes_long_to_write_waits_so_many_times_as_long_at_first(clock, monkeypatch):
    state = make_state(make_problem())
    size = sum(4 * parameter.numel() for parameter in state.field.parameters())
    monkeypatch.setattr(neural, "checkpoint_of", lambda *_: {})
    monkeypatch.setattr(neural, "CHECKPOINT_BYTES_A_SECOND", 4 * size / 5)  # field, two moments, best: in 5 seconds
    observer = Slow(clock, 5.0)
    watch = neural._watcher(None, state, 0.0, observer)
    state.queue, start = [0], clock.now
    while not observer.began:
        watch(state, 0.5, {})
        clock.now += 0.25
    assert observer.began[0] == pytest.approx(start + 5 * neural.FIRST_CHECKPOINT_SECONDS, abs=0.5)


def test_what_comes_after_the_fit_is_timed_until_it_is_computed(clock, monkeypatch):
    class Late:
        """Images of a GPU: the call returns at once, and reading a number takes three seconds."""

        def __getitem__(self, place):
            return self

        def item(self):
            clock.now += 3.0

    monkeypatch.setattr(neural, "render", lambda *_: Late())
    monkeypatch.setattr(neural, "PIXEL_SECONDS", 0.0)
    monkeypatch.setattr(neural, "VOXEL_SECONDS", 0.0)
    monkeypatch.setattr(neural, "CHECKPOINT_BYTES_A_SECOND", float("inf"))
    problem = make_problem(rows=16)
    seconds = neural._finishing_seconds(problem, make_state(problem), 8)
    assert seconds == pytest.approx(neural.WRITING_SECONDS + 2 * 3.0)


def test_what_comes_after_the_fit_takes_blocks_that_fitted(monkeypatch):
    problem, blocks = make_problem(rows=16), []
    evaluate = neural.evaluate_field
    monkeypatch.setattr(neural, "evaluate_field", lambda p, f, block: blocks.append(block) or evaluate(p, f, block))
    state = make_state(problem, HALVING)
    outcome = fit(problem, state, HALVING, step=Short(largest=2))
    begin = neural._Start(None, problem, HALVING, state, None)
    solution = neural._solution(begin, outcome, 0.0)
    assert outcome is Outcome.FINISHED
    assert blocks == [2]
    assert solution.schedule.steps(16) == state.step  # so the share of the steps that were taken is right
