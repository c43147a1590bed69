"""Ctrl-C ends a fit between two steps, wherever it comes, so that the fit resumed is the uninterrupted one."""

import os
import signal
import threading
from dataclasses import replace

import pytest

import test_rays
from test_fit import SCHEDULE, make_problem, make_state, parameters, same
from tiltfield import fit as loop
from tiltfield import ranks, rays
from tiltfield.fit import Outcome, fit, fit_through, step
from tiltfield.kernels.window import WindowAdam


@pytest.fixture(autouse=True)
def default_handler():
    """Ctrl-C raises KeyboardInterrupt, also where what started the tests has it ignored, and does so again after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    found = signal.signal(signal.SIGINT, before)
    assert found is signal.default_int_handler


def press():
    os.kill(os.getpid(), signal.SIGINT)


def pressing(function, at):
    """Return the function, with Ctrl-C before its call number `at`."""
    calls = iter(range(10**6))

    def pressed(*args):
        if next(calls) == at:
            press()
        return function(*args)

    return pressed


PLACES = {"rendering": (loop, "slices_of"), "between the optimisers": (WindowAdam, "step")}
LAST_OF_A_PASS = 8  # a pass is three steps


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at", [7, LAST_OF_A_PASS])
def test_a_fit_stopped_in_the_midst_of_a_step_goes_on_as_if_uninterrupted(place, at, monkeypatch):
    problem, schedule = make_problem(), replace(SCHEDULE, passes=6, learning_rate=5e-3)
    whole, state, again = (make_state(problem, schedule, field="hashgrid", noise="flow") for _ in range(3))
    fit(problem, whole, schedule)
    owner, name = PLACES[place]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, pressing(getattr(owner, name), at))
        assert fit(problem, state, schedule) is Outcome.INTERRUPTED
    assert state.step == at + 1
    again.load_state_dict(state.state_dict())
    fit(problem, again, schedule)
    assert same(parameters(whole), parameters(again))
    assert (whole.step, whole.curve) == (again.step, again.curve)


@pytest.mark.parametrize("at", [5, 12])
def test_so_does_a_fit_to_rays(at, monkeypatch):
    problem, schedule = test_rays.make_problem(), test_rays.SCHEDULE
    whole, state, again = (test_rays.make_state(test_rays.guided()) for _ in range(3))
    fit(problem, whole, schedule, step=rays.ray_step)
    with monkeypatch.context() as patched:
        patched.setattr(rays, "depths", pressing(rays.depths, at))
        assert fit(problem, state, schedule, step=rays.ray_step) is Outcome.INTERRUPTED
    assert 0 < state.step < whole.step
    again.load_state_dict(state.state_dict())
    fit(problem, again, schedule, step=rays.ray_step)
    assert same(parameters(whole), parameters(again))
    assert whole.curve == again.curve


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    monkeypatch.setattr(ranks, "SOON", 0.0)

    def pressed_twice(problem, state, schedule, done):
        press()
        press()
        raise AssertionError("the step went on")

    problem = make_problem()
    assert fit(problem, make_state(problem), SCHEDULE, step=pressed_twice) is Outcome.INTERRUPTED


def test_one_that_comes_at_once_means_the_first():
    def pressed_twice(problem, state, schedule, done):
        press()
        press()
        return step(problem, state, schedule, done)

    problem = make_problem()
    state = make_state(problem)
    with ranks.patient():
        assert fit(problem, state, SCHEDULE, step=pressed_twice) is Outcome.INTERRUPTED
        press()  # while the volume is evaluated
    assert state.step == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_later_ones_are_heard_again(monkeypatch):
    monkeypatch.setattr(ranks, "SOON", 0.0)
    with ranks.patient(), pytest.raises(KeyboardInterrupt):
        press()


def test_what_is_written_is_written_to_the_end():
    with ranks.undisturbed():
        press()
    with pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.parametrize(("passes", "end"), [(2, Outcome.FINISHED), (6, Outcome.CONVERGED)])
def test_ctrl_c_in_the_last_step_leaves_nothing_to_do(passes, end, monkeypatch):
    def pressed(problem, state, schedule, done):
        figures = step(problem, state, schedule, done)
        if state.step == 2 * 3:
            press()
        return figures

    monkeypatch.setattr(loop, "_stalled", lambda state, schedule: passes > len(state.curve) == 2)
    problem, schedule = make_problem(), replace(SCHEDULE, passes=passes)
    state, again = make_state(problem, schedule), make_state(problem, schedule)
    assert fit(problem, state, schedule, step=pressed) is Outcome.INTERRUPTED
    again.load_state_dict(state.state_dict())
    assert fit(problem, again, schedule) is end
    assert again.step == state.step == 2 * 3


def test_a_fit_on_the_way_to_another_passes_it_on(monkeypatch):
    monkeypatch.setattr(loop, "slices_of", pressing(loop.slices_of, 4))
    problem = make_problem()
    with pytest.raises(KeyboardInterrupt):
        fit_through(problem, make_state(problem), SCHEDULE)


def test_where_ctrl_c_is_handled_otherwise_that_is_left_alone():
    problem, handlers = make_problem(), []

    def watch(state, done, figures):
        handlers.append(signal.getsignal(signal.SIGINT))

    schedule = replace(SCHEDULE, passes=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fit(problem, make_state(problem), schedule, watch)
    assert set(handlers) == {signal.SIG_IGN}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=fit, args=(problem, make_state(problem), schedule, watch))
    thread.start()
    thread.join()
    assert set(handlers) == {signal.SIG_IGN, signal.default_int_handler}


def test_the_first_is_told_and_raised_at_the_end():
    def asked():
        with ranks.between_steps():
            press()
            assert ranks.heard(1.5) == (1.5, True)

    with pytest.raises(KeyboardInterrupt):
        asked()
    assert ranks.heard(1.5) == (1.5, False)
