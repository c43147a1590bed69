"""Total variation against numbers worked by hand; the choice of its weight on curves with known minima."""

import math

import pytest
import torch

from tiltfield.regularise import choose_weight, margin_density, total_variation

EPS = 0.005


def gradient(height):
    return math.sqrt(height**2 + EPS**2) - EPS


def test_nothing_has_none():
    assert total_variation(torch.zeros(3, 4, 5), 1.0).item() == 0


def test_a_constant_has_but_its_faces_to_the_vacuum_above_and_below():
    """Of n_z + 1 steps along z, two see the constant end."""
    for n_z in (2, 4, 9):
        slices = torch.full((3, n_z, 5), 2.0, dtype=torch.float64)
        assert total_variation(slices, 1.0, edge=math.inf).item() == pytest.approx(2 * gradient(2.0) / (n_z + 1))


def test_a_slab_costs_the_same_at_the_end_of_the_box_as_inside():
    """Else a specimen that fills the box would be cheaper than one that ends inside."""
    inside, at_end = torch.zeros(2, 3, 6, 4, dtype=torch.float64)
    inside[:, 2:4], at_end[:, 0:2] = 1.0, 1.0
    assert total_variation(at_end, 1.0).item() == pytest.approx(total_variation(inside, 1.0).item())


@pytest.mark.parametrize(("axis", "next_to_it"), [(0, 9), (2, 10)])
def test_a_step_by_hand(axis, next_to_it):
    """3 × 3 × 3 voxels in vacuum along z: 2 · 4 · 3 count.

    Along y, nine within z see one neighbour differ; the vacuum below sees none: its own neighbours are vacuum. Along x,
    six do, and the last column has two faces to the vacuum above and two to that below.
    """
    slices = torch.zeros(3, 3, 3, dtype=torch.float64)
    slices[:, :, 2] = 1.0
    slices = slices.transpose(axis, 2)
    assert total_variation(slices, 1.0, edge=math.inf).item() == pytest.approx(gradient(1.0) * next_to_it / 24)
    for height, excess in ((1.0, 0.0), (5.0, 2.0)):  # what is denser than 3 has a plain variation besides
        expected = (0.3 * math.log1p(gradient(height) / 0.3) + 1.2 * gradient(excess)) * next_to_it / 24
        assert total_variation(height * slices, 1.0, edge=0.3).item() == pytest.approx(expected)


def test_gradients_along_two_axes_add_as_squares():
    slices = torch.zeros(2, 2, 2, dtype=torch.float64)
    slices[1, 0, 0], slices[0, 0, 1] = 3.0, 4.0
    # Of the six that count, in y = 0: the vacuum sees the 4; the voxel at x = 0 the 3 along y and the 4 along x; that
    # at x = 1 its own 4 end along y and along z.
    total = gradient(4.0) + gradient(5.0) + gradient(math.sqrt(32.0))
    assert total_variation(slices, 1.0, edge=math.inf).item() == pytest.approx(total / 6)


def test_the_last_column_has_a_variation_within_it():
    slices = torch.zeros(3, 5, 4, dtype=torch.float64)
    slices[:, 2, 3] = 1.0
    first, last = (total_variation(s, 1.0, edge=math.inf).item() for s in (slices.flip(2), slices))
    assert last > 0.5 * first > 0


def test_one_slice_alone_has_the_variation_of_its_plane():
    plane = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(total_variation(plane, 1.0), total_variation(plane.expand(4, -1, -1), 1.0))


def test_only_the_density_over_its_scale_counts():
    slices = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert total_variation(7 * slices, 7.0).item() == pytest.approx(total_variation(slices, 1.0).item())


def test_an_infinite_edge_is_the_plain_total_variation():
    slices = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = total_variation(slices, 1.0, edge=math.inf).item()
    assert total_variation(slices, 1.0, edge=1e9).item() == pytest.approx(plain)
    assert total_variation(slices, 1.0, edge=0.3).item() < plain


def test_its_gradient_is_finite_where_the_density_is_flat():
    slices = torch.ones(3, 3, 3, requires_grad=True)
    total_variation(slices, 1.0).backward()
    assert torch.isfinite(slices.grad).all()


WEIGHTS = [2.0 * 0.6**k for k in range(9)]


def test_an_interior_minimum_is_refined():
    best = 2.0 * 0.6**3.4
    weight, scores = choose_weight(lambda w: math.log(w / best) ** 2, WEIGHTS)
    assert weight == pytest.approx(best)
    assert weight not in scores


def test_candidates_are_tried_in_the_order_given():
    asked = []
    choose_weight(lambda w: asked.append(w) or w, WEIGHTS)
    assert asked == WEIGHTS


def test_a_falling_curve_gives_the_last():
    assert choose_weight(lambda w: w, WEIGHTS)[0] == WEIGHTS[-1]


def test_a_rising_curve_gives_the_first_and_stops_after_two_rises():
    weight, scores = choose_weight(lambda w: -w, WEIGHTS)
    assert weight == WEIGHTS[0]
    assert list(scores) == WEIGHTS[:3]


def test_one_rise_is_no_reason_to_stop():
    values = iter([5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 3.0])
    weight, scores = choose_weight(lambda w: next(values), WEIGHTS)
    assert len(scores) == 7
    assert WEIGHTS[5] < weight < WEIGHTS[3]


def test_a_flat_curve_gives_a_candidate():
    assert choose_weight(lambda w: 1.0, WEIGHTS)[0] in WEIGHTS


def test_density_in_the_margin_costs_and_elsewhere_does_not():
    slices = torch.zeros(2, 8, 3)
    slices[:, 2:6] = 7.0
    assert margin_density(slices, 2.0, 2).item() == 0
    slices[:, 0] = 4.0
    slices[:, 7] = 2.0
    assert margin_density(slices, 2.0, 2).item() == pytest.approx((4 + 2) / 2 / 8)
    assert margin_density(slices, 2.0, 0).item() == 0


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_weight_whose_fit_was_lost_is_not_chosen(lost):
    losses = {w: abs(math.log(w / WEIGHTS[2])) for w in WEIGHTS} | {WEIGHTS[1]: lost}
    weight, scores = choose_weight(losses.__getitem__, WEIGHTS)
    assert weight == WEIGHTS[2]
    assert scores[WEIGHTS[1]] == math.inf
