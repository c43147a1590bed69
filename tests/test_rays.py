"""Rays: where they run, how they are sampled, what a step does; against computations written out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from tiltfield.contrast import Contrast
from tiltfield.defocus import Defocus
from tiltfield.fields.base import Box
from tiltfield.fields.guided import Guided
from tiltfield.fields.voxels import Explicit
from tiltfield.fit import fit
from tiltfield.fitstate import FitState
from tiltfield.geometry import SliceGeometry, centred
from tiltfield.noise.paper import PaperFlow
from tiltfield.problem import Problem
from tiltfield.projector import Rays, SliceProjector
from tiltfield.rays import (
    RaySchedule,
    _blurred,
    _drawn,
    depths,
    importance,
    integral,
    plain_loss,
    ray_step,
    stratified,
)

F64 = torch.float64
N, ROWS = 12, 5
ANGLES = np.arange(-60, 61, 20.0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def ray(y, u, degrees):
    return Rays(*(torch.tensor([v], dtype=F64) for v in (y, u, math.radians(degrees))))


def guided(seed=0, width=16):
    return Guided(Box(N, ROWS, N), scale=0.5, mean=0.3, width=width, octaves=(2, 3), generator=seeded(seed))


def make_problem(seed=0):
    """Noise, of which tilt 3 is held out."""
    observed = torch.rand(ROWS, len(ANGLES), N, generator=seeded(seed))
    held = torch.zeros(observed.shape, dtype=torch.bool)
    held[:, 3] = True
    projector = SliceProjector(SliceGeometry.from_degrees(N, N, N, ANGLES))
    return Problem(observed, ~held, held, projector, Box(N, ROWS, N), 0.5)


SCHEDULE = RaySchedule(total=20, passes=4, rays=16, parts=2, samples=(4, 6), plain_steps=0, tv_weight=0.0, block=ROWS)


def make_state(field, noise=None, rate=1e-3):
    noise = noise or plain_loss("l2")
    optimisers = [torch.optim.Adam(field.parameters(), lr=rate)]
    free = list(noise.parameters())
    if free:
        optimisers.append(torch.optim.SGD([{"params": free, "falls": False}], lr=0.02, momentum=0.9))
    return FitState(field, noise, Contrast("bf", 0.0, 1.0), optimisers, seeded(5))


@pytest.mark.parametrize(
    ("u", "degrees", "near", "far"),
    [(0, 0, -3, 3), (1.5, 0, -3, 3), (0, 45, -3 * math.sqrt(2), 3 * math.sqrt(2)), (0, 80, -5.0772, 5.0772)],
)
def test_a_ray_enters_and_leaves_the_box_where_it_should(u, degrees, near, far):
    ends = ray(0.0, u, degrees).span(6, 10)
    assert [float(e) for e in ends] == pytest.approx([near, far], abs=1e-4)


def test_ends_lie_on_the_border_of_the_box():
    generator = seeded(0)
    rays = Rays(torch.zeros(200, dtype=F64), *(torch.rand(2, 200, generator=generator, dtype=F64) - 0.5))
    rays = replace(rays, u=rays.u * 8, angle=rays.angle * 2.5)
    near, far = rays.span(6, 10)
    hit = far > near
    assert hit.sum() > 150
    for end in (near[hit], far[hit]):
        z, _, x = replace(rays, y=rays.y[hit], u=rays.u[hit], angle=rays.angle[hit]).points(end[:, None])[:, 0].T
        torch.testing.assert_close(torch.maximum(z.abs() / 3, x.abs() / 5), torch.ones_like(z))


def test_a_ray_beside_the_box_has_no_length():
    near, far = ray(0.0, 5.1, 0).span(6, 10)
    assert near == far
    assert depths(guided().double(), ray(0.0, 6.2, 0), (4, 6), seeded(0))[0] == 0


def test_stratified_samples_lie_one_in_each_interval():
    near, far = torch.tensor([-2.0, 1.0], dtype=F64), torch.tensor([2.0, 5.0], dtype=F64)
    s = stratified(near, far, 8, seeded(1))
    interval = ((s - near[:, None]) / (far - near)[:, None] * 8).floor()
    assert torch.equal(interval, torch.arange(8, dtype=F64).expand(2, 8))
    torch.testing.assert_close(stratified(near, far, 4, None)[0], torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=F64))


def test_drawn_samples_follow_the_weights():
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0]], dtype=F64).expand(4000, 4)
    s = importance(weights, torch.zeros(4000, dtype=F64), torch.full((4000,), 4.0, dtype=F64), 1, seeded(2))
    edges, shares = [0, 1, 2, 3, 4], [0, 0, 0.25, 1, 1]
    assert kstest(s[:, 0].numpy(), lambda t: np.interp(t, edges, shares)).pvalue > 0.01


def test_without_weights_drawn_samples_are_spread_evenly():
    near, far = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for weights in (torch.zeros(1, 3, dtype=F64), torch.full((1, 3), 0.2, dtype=F64)):
        torch.testing.assert_close(importance(weights, near, far, 6, None), stratified(near, far, 6, None))


def test_the_integral_counts_every_sample_up_to_the_next():
    density, s = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 4.0]])
    assert integral(density, s, torch.tensor([6.0])) == 1 * 1 + 2 * 3 + 3 * 2


def by_hand(field, y, u, theta, samples):
    """The line integral of NeRF's two passes along one ray, point by point, in plain numpy."""

    def point(s):
        return [u * math.sin(theta) + s * math.cos(theta), y, u * math.cos(theta) - s * math.sin(theta)]

    def density(network, places):
        with torch.no_grad():
            return [float(network(torch.tensor(point(s), dtype=F64))) for s in places]

    def total(values, places, end):
        return sum(v * (b - a) for v, a, b in zip(values, places, [*places[1:], end], strict=True))

    inside = [s for s in np.linspace(-N, N, 200_001) if max(abs(point(s)[0]), abs(point(s)[2])) <= N / 2]
    near, far = inside[0], inside[-1]
    coarse = [near + (far - near) * (i + 0.5) / samples[0] for i in range(samples[0])]
    rough = np.array(density(field.coarse, coarse))
    share = (rough + 1e-5 * rough.max()) / (rough + 1e-5 * rough.max()).sum()
    wanted = [(j + 0.5) / samples[1] for j in range(samples[1])]
    edges = np.linspace(near, far, samples[0] + 1)
    drawn = np.interp(wanted, np.concatenate([[0], np.cumsum(share)]), edges)
    both = sorted([*coarse, *drawn])
    return total(density(field.fine, both), both, far), total(rough, coarse, far)


@pytest.mark.parametrize(("y", "u", "degrees"), [(0.0, 0.0, 0.0), (-2.0, 3.5, 35.0), (1.0, -4.5, -60.0)])
def test_fine_and_coarse_depths_are_those_written_out_by_hand(y, u, degrees):
    field = guided(3).double()
    with torch.no_grad():
        fine, coarse = depths(field, ray(y, u, degrees), (5, 9), None)
    expected = by_hand(field, y, u, math.radians(degrees), (5, 9))
    assert (float(fine), float(coarse)) == pytest.approx(expected, rel=1e-3)


def test_rays_and_slices_show_the_same_images():
    grid = Explicit(Box(N, ROWS, N), scale=0.5).double()
    zz, xx = torch.meshgrid(centred(N, dtype=F64), centred(N, dtype=F64), indexing="ij")
    with torch.no_grad():
        grid.values.copy_(torch.exp(-((zz - 1) ** 2 + (xx + 0.5) ** 2) / 8).expand(ROWS, N, N))
    problem = make_problem()
    every = torch.arange(problem.observed.numel())
    rays = _blurred(problem, every, seeded(0))
    rays = Rays(*(v.double() for v in (rays.y, rays.u, rays.angle)))
    by_rays = depths(grid, rays, (400, 0), None)[0].reshape(problem.observed.shape)
    projector = SliceProjector(problem.projector.geometry, dtype=F64)
    by_slices = projector(0.5 * grid.values.detach())
    assert (by_rays - by_slices).abs().max() < 0.03 * by_slices.max()


@pytest.mark.parametrize("noisy", [False, True])
def test_a_step_is_adam_and_momentum_on_the_loss_written_out_by_hand(noisy):
    problem = make_problem()
    noise = PaperFlow(0.2, n_layers=2, generator=seeded(4)) if noisy else plain_loss("l2")
    state, twin = make_state(guided(), noise), guided()
    before = {name: v.clone() for name, v in noise.named_parameters()}
    ray_step(problem, state, SCHEDULE, 0.0)

    generator, total = seeded(5), 0.0
    model = PaperFlow(0.2, n_layers=2, generator=seeded(4))
    for _ in range(SCHEDULE.parts):
        picked = _drawn(problem.used, SCHEDULE.rays, generator)
        observed = problem.observed.flatten()[picked]
        fine, coarse = depths(twin, _blurred(problem, picked, generator), SCHEDULE.samples, generator)
        fine, coarse = torch.exp(-fine), torch.exp(-coarse)
        fit_loss = -model.log_prob(observed, fine).mean() if noisy else ((observed - fine) ** 2).mean()
        total = total + (fit_loss + ((observed - coarse) ** 2).mean()) / SCHEDULE.parts
    total.backward()
    for name, value in twin.named_parameters():  # the first step of Adam goes by the rate along the gradient's sign
        moved = -1e-3 * value.grad / (value.grad.abs() + 1e-8)
        torch.testing.assert_close(dict(state.field.named_parameters())[name], value + moved, rtol=1e-3, atol=2e-5)
    if noisy:
        for name, value in model.named_parameters():
            torch.testing.assert_close(dict(noise.named_parameters())[name], before[name] - 0.02 * value.grad)


def test_the_first_steps_take_the_squared_error_and_leave_the_flow_alone():
    problem, noise = make_problem(), PaperFlow(0.2, n_layers=2, generator=seeded(4))
    state, squares = make_state(guided(), noise), make_state(guided())
    before = [v.clone() for v in noise.parameters()]
    for _ in range(3):
        ray_step(problem, state, replace(SCHEDULE, plain_steps=3), 0.0)
        ray_step(problem, squares, SCHEDULE, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, noise.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state.field.parameters(), squares.field.parameters(), strict=True))
    ray_step(problem, state, replace(SCHEDULE, plain_steps=3), 0.0)
    assert not all(torch.equal(a, b) for a, b in zip(before, noise.parameters(), strict=True))


def test_held_out_tilts_have_no_say_in_the_descent_but_choose_the_best():
    runs = []
    for held in (0.0, 1.0):
        problem = make_problem()
        problem.observed[:, 3] = held
        state = make_state(guided())
        fit(problem, state, SCHEDULE, step=ray_step)
        runs.append(state)
    assert len(runs[0].curve) == SCHEDULE.passes == runs[0].step / 5
    assert runs[0].curve != runs[1].curve
    assert runs[0].best_pass == 1 + min(range(4), key=runs[0].curve.__getitem__)
    last = [make_state(guided()) for _ in range(2)]
    for state, held in zip(last, (0.0, 1.0), strict=True):
        problem = make_problem()
        problem.observed[:, 3] = held
        for _ in range(5):
            ray_step(problem, state, SCHEDULE, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(*(s.field.parameters() for s in last), strict=True))


def test_states_are_looked_at_by_the_share_of_the_fit_that_is_done_and_at_its_end():
    state, looks = make_state(guided()), []
    fit(make_problem(), state, replace(SCHEDULE, total=19), lambda s, *_: looks.append(len(s.curve)), ray_step)
    assert [looks.count(k) for k in range(5)] == [4, 5, 5, 4, 1]
    hurried, clock = make_state(guided()), iter([0.0, 0.2, 0.4, 0.6, 0.8])
    for done in clock:  # of a time limit that allows for five steps of twenty
        ray_step(make_problem(), hurried, SCHEDULE, done)
        hurried.curve += [0.0] * (not hurried.queue)
    assert len(hurried.curve) == 3


def test_the_rate_is_level_for_a_quarter_and_then_falls_in_a_line_to_a_hundredth():
    rates = [SCHEDULE.rate(done, 0) for done in (0.0, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([1, 1, 0.505, 0.01])


def test_total_variation_is_added_once_a_step():
    problem, losses = make_problem(), []
    for weight in (0.0, 2.0):
        grid = Explicit(Box(N, ROWS, N), scale=0.5)
        with torch.no_grad():
            grid.values.copy_((torch.arange(N) % 2).float().expand(ROWS, N, N))
        losses.append(ray_step(problem, make_state(grid), replace(SCHEDULE, tv_weight=weight), 0.0)["loss"])
    assert losses[1] - losses[0] == pytest.approx(2.0, rel=0.2)  # a step of 1 a voxel along x, and the outside


def test_a_grid_stays_within_its_range():
    problem = make_problem()
    state = make_state(Explicit(Box(N, ROWS, N), scale=0.5), rate=0.3)
    fit(problem, state, SCHEDULE, step=ray_step)
    assert 0 <= state.field.values.min() < 0.5 < state.field.values.max() <= 1


def test_multiplying_in_bfloat16_changes_little():
    problem, losses = make_problem(), []
    for reduced in (False, True):
        losses.append(ray_step(problem, make_state(guided()), replace(SCHEDULE, reduced=reduced), 0.0)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_rays_of_blurred_pixels_scatter_as_the_blur_does_and_stay_in_the_image():
    problem = make_problem()
    blur = Defocus.of("linear", 2.0, ANGLES, N)
    problem = replace(problem, blur=blur)
    pixel = (2 * len(ANGLES) + 6) * N + 9  # row 2, the steepest tilt, column 9
    rays = _blurred(problem, torch.full((20_000,), pixel), seeded(1))
    sharp = _blurred(replace(problem, blur=None), torch.tensor([pixel]), seeded(1))
    assert (rays.u.abs() <= N / 2).all()
    assert (rays.y.abs() <= ROWS / 2).all()
    width = float(blur.widths[6, 9])
    for place, centre, half in ((rays.u, sharp.u, N / 2), (rays.y, sharp.y, ROWS / 2)):
        ends = [(side * half - float(centre)) / width for side in (-1, 1)]
        assert kstest(((place - centre) / width).numpy(), truncnorm(*ends).cdf).statistic < 0.02
    middle = _blurred(problem, torch.full((10,), (2 * len(ANGLES) + 3) * N + 9), seeded(1))  # untilted: no blur
    torch.testing.assert_close(middle.u, sharp.u.expand(10))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_plain_losses_are_plain(name):
    noise, error = plain_loss(name), torch.tensor([0.0, 0.5, -2.0])
    loss = -noise.log_prob(error, torch.zeros(3))
    torch.testing.assert_close(loss - loss[0], error.abs() if name == "l1" else error**2)
