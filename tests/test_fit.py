"""The training loop on a tiny problem: it descends, repeats, resumes, holds out, stops, and says how it ended."""

import copy
import io
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tiltfield import fit as loop
from tiltfield.contrast import Contrast
from tiltfield.defocus import Defocus
from tiltfield.fields import make_field
from tiltfield.fields.base import Box
from tiltfield.fit import Outcome, Problem, Schedule, _close_pass, fit, fit_through, start, step
from tiltfield.geometry import SliceGeometry, centred
from tiltfield.noise import Start, make_noise
from tiltfield.projector import SliceProjector
from tiltfield.rendering import evaluate_field, held_out, render, slices_of

N, ROWS, SIGMA = 16, 7, 0.05
SCALE = 1 / N


def make_problem(seed=0, rows=ROWS):
    """Noisy HAADF images of two balls, a tenth of the pixels held out."""
    generator = torch.Generator().manual_seed(seed)
    projector = SliceProjector(SliceGeometry.from_degrees(N, N, N, torch.arange(-60, 61, 10).numpy()))
    y, z, x = torch.meshgrid(centred(rows), centred(N), centred(N), indexing="ij")
    truth = SCALE * ((y**2 + z**2 + (x - 2) ** 2 < 12).float() + (y**2 + z**2 + (x + 4) ** 2 < 6).float())
    observed = projector(truth)
    observed = observed + SIGMA * torch.randn(observed.shape, generator=generator)
    held = torch.rand(observed.shape, generator=generator) < 0.1
    return Problem(observed, ~held, held, projector, Box(N, rows, N), SCALE)


SCHEDULE = Schedule(passes=12, block=3, tv_weight=0.3, learning_rate=0.1)


def make_state(problem, schedule=SCHEDULE, seed=0, field="voxels", noise="poisson-gaussian"):
    generator = torch.Generator().manual_seed(seed)
    density = make_field(field, problem.box, scale=SCALE, mean=0.3, generator=generator)
    model = make_noise(noise, Start(1e-3, SIGMA**2, 0.0, -0.1, 1.1, generator))
    return start(density, model, Contrast("haadf", 0.0, 1.0), schedule, generator)


def parameters(state):
    return {f"{m}.{k}": v.clone() for m, module in state.modules.items() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("field", ["voxels", "hashgrid"])
def test_the_loss_falls_and_the_figures_are_its_parts(field):
    problem, losses = make_problem(), []
    schedule = Schedule(passes=12, block=3, tv_weight=0.3, learning_rate=0.1 if field == "voxels" else 7e-3)
    state = make_state(problem, schedule, field=field)
    outcome = fit(problem, state, schedule, lambda _, done, figures: losses.append(figures))
    assert outcome is Outcome.FINISHED
    for f in losses:
        assert f["loss"] == pytest.approx(f["nll"] + 0.3 * f["tv"], rel=1e-4, abs=1e-5)
    third = len(losses) // 3
    assert sum(f["loss"] for f in losses[-third:]) < sum(f["loss"] for f in losses[:third]) - 0.3 * third


@pytest.mark.parametrize("noise", ["poisson-gaussian", "flow"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(noise):
    problem = make_problem()
    runs = [make_state(problem, seed=seed, noise=noise) for seed in (0, 0, 1)]
    for state in runs:
        fit(problem, state, SCHEDULE)
    assert same(parameters(runs[0]), parameters(runs[1]))
    assert not same(parameters(runs[0]), parameters(runs[2]))


@pytest.mark.parametrize("at", [1, 4, 17])  # early, in the middle of a pass, late
@pytest.mark.parametrize("field", ["voxels", "hashgrid"])
def test_a_resumed_fit_ends_where_the_uninterrupted_one_does(field, at):
    problem, saved = make_problem(), io.BytesIO()

    def watch(state, done, figures):
        if state.step == at:
            torch.save(state.state_dict(), saved)

    whole = make_state(problem, noise="flow", field=field)
    fit(problem, whole, SCHEDULE, watch)
    saved.seek(0)
    resumed = make_state(problem, seed=99, noise="flow", field=field)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert resumed.step == at
    fit(problem, resumed, SCHEDULE)
    assert same(parameters(whole), parameters(resumed))
    assert (whole.step, whole.curve, whole.best_held) == (resumed.step, resumed.curve, resumed.best_held)


def test_a_saved_state_does_not_change_with_the_fit():
    problem = make_problem()
    state = make_state(problem)
    fit(problem, state, Schedule(passes=3, block=3, tv_weight=0.3, learning_rate=0.1))
    kept = {name: values.clone() for name, values in state.best["field"].items()}
    curve = state.state_dict()["curve"]
    step(problem, state, SCHEDULE, 0.5)
    state.curve.append(0.0)
    assert all(torch.equal(kept[name], state.best["field"][name]) for name in kept)
    assert len(curve) == len(state.curve) - 1


def test_a_state_can_be_resumed_from_twice():
    problem = make_problem()
    state = make_state(problem, noise="flow", field="hashgrid")
    for _ in range(5):
        step(problem, state, SCHEDULE, 0.1)
    saved = copy.deepcopy(state.state_dict())
    ends = []
    for seed in (1, 2):
        resumed = make_state(problem, seed=seed, noise="flow", field="hashgrid")
        resumed.load_state_dict(saved)
        for _ in range(5):
            step(problem, resumed, SCHEDULE, 0.2)
        ends.append(parameters(resumed))
    assert same(*ends)


def test_an_interrupted_state_is_that_of_the_moment_not_the_best():
    problem = make_problem()
    state = make_state(problem)
    fit(problem, state, Schedule(passes=3, block=3, tv_weight=0.3, learning_rate=0.1))
    step(problem, state, SCHEDULE, 0.5)
    moment = copy.deepcopy(state.state_dict())
    state.interrupt()
    state.restore_best()
    assert all(torch.equal(moment["field"][name], kept) for name, kept in state.state_dict()["field"].items())
    assert not all(torch.equal(state.best["field"][name], kept) for name, kept in moment["field"].items())


@pytest.mark.parametrize("masked", ["held", "neither"])
def test_pixels_that_are_not_used_have_no_say_in_the_descent(masked):
    problem = make_problem()
    used = problem.used.clone()
    if masked == "neither":
        used[:, 2] = False
    held = problem.held & (masked == "held")
    changed = problem.observed + 3 * ~used
    results = []
    for observed in (problem.observed, changed):
        variant = Problem(observed, used, held, problem.projector, problem.box, SCALE)
        state = make_state(variant)
        for _ in range(8):
            step(variant, state, SCHEDULE, 0.1)
        results.append(parameters(state))
    assert same(*results)


def test_the_held_out_pixels_judge_the_passes():
    problem = make_problem()
    schedule = Schedule(passes=60, block=3, tv_weight=0.1, learning_rate=0.3)
    state = make_state(problem, schedule)
    fit(problem, state, schedule)
    assert state.best_held == min(state.curve)
    clean = render(problem, evaluate_field(problem, state.field, 3), state.contrast, 3)
    final = held_out(problem, state.noise, clean)
    assert final["nll"] == pytest.approx(state.best_held, abs=0.3)
    assert final["rmse"] == pytest.approx(SIGMA, rel=0.3)


@pytest.mark.parametrize(("rows", "block"), [(7, 3), (7, 2), (7, 7), (7, 16), (2, 2), (9, 8)])
def test_each_pass_visits_every_slice(rows, block, monkeypatch):
    problem, seen, passes = make_problem(rows=rows), set(), []

    def slices(density, box, which, among):
        assert len(range(rows)[which]) == min(block, rows)  # the total variation sees as many slices in every step
        seen.update(range(rows)[which])
        return slices_of(density, box, which, among)

    def watch(state, done, figures):
        if not state.queue:
            passes.append(set(seen))
            seen.clear()

    monkeypatch.setattr(loop, "slices_of", slices)
    schedule = Schedule(passes=6, block=block, tv_weight=0.3, learning_rate=0.1)
    fit(problem, make_state(problem, schedule), schedule, watch)
    assert len(passes) >= 3
    assert all(p == set(range(rows)) for p in passes)


def test_ctrl_c_gives_the_best_so_far():
    problem = make_problem()
    state = make_state(problem)

    def watch(state, done, figures):
        if state.step == 20:
            raise KeyboardInterrupt

    assert fit(problem, state, SCHEDULE, watch) is Outcome.INTERRUPTED
    assert state.step == 20
    for name, values in state.best.items():
        assert same(
            {"p." + k: v for k, v in values.items()}, {"p." + k: v for k, v in state.modules[name].state_dict().items()}
        )


def test_a_checkpoint_after_ctrl_c_goes_on_as_if_uninterrupted():
    problem = make_problem()
    whole, state = make_state(problem), make_state(problem)
    fit(problem, whole, SCHEDULE)

    def watch(state, done, figures):
        if state.step == 20:
            raise KeyboardInterrupt

    assert fit(problem, state, SCHEDULE, watch) is Outcome.INTERRUPTED
    again = make_state(problem, seed=1)
    again.load_state_dict(state.state_dict())
    fit(problem, again, SCHEDULE)
    assert same(parameters(whole), parameters(again))
    assert whole.curve == again.curve


def test_ctrl_c_in_the_first_pass_gives_what_there_is():
    problem = make_problem()
    state = make_state(problem)
    before = parameters(state)

    def watch(state, done, figures):
        raise KeyboardInterrupt

    assert fit(problem, state, SCHEDULE, watch) is Outcome.INTERRUPTED
    assert not same(before, parameters(state))


@pytest.mark.parametrize("when", [0, 9])
def test_data_that_are_no_numbers_end_the_fit_with_finite_parameters(when):
    problem = make_problem()
    state = make_state(problem)
    if not when:
        problem.observed[:] = torch.nan

    def watch(state, done, figures):
        if state.step == when:
            problem.observed[:] = torch.nan

    assert fit(problem, state, SCHEDULE, watch) is Outcome.DIVERGED
    assert state.step == when + 1
    assert all(torch.isfinite(v).all() for v in parameters(state).values())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_parameters_that_are_no_numbers_end_the_fit_even_if_the_loss_does_not_show_them(bad):
    def spoil(problem, state, schedule, done):
        figures = step(problem, state, schedule, done)
        if state.step == 9:
            next(state.field.parameters()).data.view(-1)[0] = bad
        return figures

    problem = make_problem()
    state = make_state(problem)
    assert fit(problem, state, SCHEDULE, step=spoil) is Outcome.DIVERGED
    assert (state.step, len(state.curve)) == (9, 2)
    assert all(torch.isfinite(v).all() for v in parameters(state).values())


def test_a_fit_that_only_learns_the_noise_stops():
    problem = make_problem()
    noise = torch.randn(problem.observed.shape, generator=torch.Generator().manual_seed(1))
    problem = replace(problem, observed=problem.observed + 10 * SIGMA * noise)
    schedule = Schedule(passes=60, block=7, tv_weight=0.0, learning_rate=0.3, patience=0.1)
    state = make_state(problem, schedule, noise="l2")
    assert fit(problem, state, schedule) is Outcome.CONVERGED
    assert 30 < len(state.curve) < 60
    assert state.best_pass < len(state.curve)


def test_a_pass_within_a_standard_error_of_the_best_is_kept():
    problem = make_problem()
    state = make_state(problem)
    for held, kept in ((1.0, 1), (1.005, 2), (1.02, 2), (0.9, 4)):  # standard deviation 1, n = 10⁴: error 0.01
        state.held_count, state.held_sum, state.held_square = 10_000, held * 10_000, (1 + held**2) * 10_000
        _close_pass(state, tolerance=1.0)
        assert state.best_pass == kept
    assert state.best_held == 0.9


def test_the_time_limit_is_kept(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: 0.1 * next(ticks))  # a step takes 0.1 s
    problem, shares = make_problem(), []
    schedule = Schedule(passes=1000, block=3, tv_weight=0.3, learning_rate=0.1, seconds=2.0)
    state = make_state(problem, schedule)
    assert fit(problem, state, schedule, lambda _, done, figures: shares.append(done)) is Outcome.FINISHED
    assert 2.0 <= state.elapsed < 2.2
    assert shares == sorted(shares)
    # The schedule is compressed: the learning rate has come down all the same.
    assert all(group["lr"] < 0.05 * group["base"] for group in state.optimisers[0].param_groups)


def test_a_fit_that_is_done_takes_no_step():
    problem = make_problem()
    state = make_state(problem)
    fit(problem, state, SCHEDULE)
    steps = state.step
    assert fit(problem, state, SCHEDULE) is Outcome.FINISHED
    assert state.step == steps == SCHEDULE.steps(ROWS)


def test_blocks_of_rows_are_problems_of_their_own():
    problem = make_problem()
    part = problem.rows(2, 5)
    assert part.box == Box(N, 3, N)
    assert torch.equal(part.observed, problem.observed[2:5])


@pytest.mark.parametrize("blurred", [False, True])
def test_rendering_does_not_depend_on_the_block(blurred):
    problem = make_problem()
    if blurred:
        problem = replace(problem, blur=Defocus.of("linear", 1.0, np.arange(-60, 61, 10), N))
    state = make_state(problem, field="hashgrid")
    density = evaluate_field(problem, state.field, ROWS)
    torch.testing.assert_close(evaluate_field(problem, state.field, 2), density)
    whole = render(problem, density, state.contrast, ROWS)
    torch.testing.assert_close(render(problem, density, state.contrast, 2), whole)
    assert whole.shape == problem.observed.shape


def test_a_step_sees_the_blurred_images_of_its_rows_and_their_neighbours():
    problem, figures = make_problem(), []
    for blur in (None, Defocus.of("linear", 1.5, np.arange(-60, 61, 10), N)):
        seen = replace(problem, blur=blur, held=torch.zeros_like(problem.held), used=torch.ones_like(problem.used))
        schedule = Schedule(passes=1, block=3, tv_weight=0.0, learning_rate=0.1)
        state = make_state(seen, schedule, field="hashgrid")
        clean = render(seen, evaluate_field(seen, state.field, ROWS), state.contrast, ROWS)
        state.queue = [2]
        with torch.no_grad():
            expected = -state.noise.log_prob(seen.observed, clean)[2:5].mean().item()
        figures.append(step(seen, state, schedule, 0.0)["nll"])
        assert figures[-1] == pytest.approx(expected, rel=1e-4)
    assert figures[0] != pytest.approx(figures[1], rel=1e-3)


def test_the_field_learns_of_the_correlation_as_the_fit_goes_on():
    schedule = Schedule(passes=10, block=ROWS, tv_weight=0.0, learning_rate=0.1)
    problem = make_problem()
    state = make_state(problem, schedule, noise="scan-poisson-gaussian")
    trusts = []
    fit(problem, state, schedule, watch=lambda state, done, figures: trusts.append(state.noise.trust))
    assert trusts[0] == 0.0
    assert trusts[-1] == 1.0
    assert trusts == sorted(trusts)


def test_a_flow_learns_every_few_steps_and_the_field_at_each():
    problem = make_problem()
    state = make_state(problem, noise="flow")
    moved = {"field": [], "noise": []}
    for _ in range(2 * loop.LEARN_EVERY):
        before = {name: parameters_of(state.modules[name]) for name in moved}
        step(problem, state, SCHEDULE, 0.3)
        for name, steps in moved.items():
            steps.append(not torch.equal(before[name], parameters_of(state.modules[name])))
    assert moved["field"] == [True] * 2 * loop.LEARN_EVERY
    assert moved["noise"] == [k % loop.LEARN_EVERY == 0 for k in range(2 * loop.LEARN_EVERY)]


def parameters_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_a_fit_on_the_way_to_another_passes_ctrl_c_on(monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    problem = make_problem()
    state = make_state(problem)
    fit_through(problem, state, replace(SCHEDULE, passes=1))
    monkeypatch.setattr("tiltfield.fit._tried", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit_through(problem, make_state(problem), SCHEDULE)


@pytest.fixture
def streamed(monkeypatch):
    """Return a function that keeps a problem's images in a form of the host that is of no use until rows are moved.

    Numbers are doubles, 1024 times as large, masks bytes that are 0 where they hold: what a fit does not move to where
    it computes would change it. With it comes the list of how many rows were moved at a time.
    """
    moved = []

    def here(self, images):
        if images.dtype in (torch.float64, torch.uint8):
            moved.append(len(images))
            return (images / 1024).float() if images.dtype == torch.float64 else images == 0
        return images

    def keep(problem):
        used, held = ((~mask).to(torch.uint8) for mask in (problem.used, problem.held))
        return replace(problem, observed=problem.observed.double() * 1024, used=used, held=held)

    monkeypatch.setattr(Problem, "here", here)
    return keep, moved


@pytest.mark.parametrize("noise", ["poisson-gaussian", "flow", "scan-flow"])
def test_a_fit_whose_images_are_kept_elsewhere_is_the_same_step_for_step(noise, streamed):
    keep, moved = streamed
    results = []
    for problem in (make_problem(), keep(make_problem())):
        state, steps = make_state(problem, noise=noise), []
        fit(problem, state, SCHEDULE, lambda state, done, figures, steps=steps: steps.append(figures))
        results.append((steps, state.curve, parameters(state)))
    (steps, curve, right), (others, other_curve, found) = results
    assert steps == others
    assert curve == other_curve
    assert same(right, found)
    assert set(moved) == {SCHEDULE.block}
    assert len(moved) == 3 * len(steps)  # images and two masks, once a step


@pytest.mark.parametrize("noise", ["poisson-gaussian", "scan-flow"])
def test_rendered_images_stay_where_the_images_are_kept_and_are_judged_by_rows(noise, monkeypatch):
    """Doubles stand for the memory of the host; only rows become what the fit computes with."""
    monkeypatch.setattr(Problem, "here", lambda self, images: images if images.dtype == torch.bool else images.float())
    problem = make_problem()
    state = make_state(problem, noise=noise)
    density = evaluate_field(problem, state.field, 3)
    clean = render(problem, density, state.contrast, 3)
    kept = replace(problem, observed=problem.observed.double())
    rendered = render(kept, density, state.contrast, 3)
    assert rendered.dtype == torch.float64
    assert torch.equal(rendered.float(), clean)
    right, found = held_out(problem, state.noise, clean), held_out(kept, state.noise, rendered)
    assert found["nll"] == right["nll"]
    assert found["rmse"] == pytest.approx(right["rmse"], rel=1e-6)
