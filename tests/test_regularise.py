"""Total variation against numbers worked by hand; the choice of its weight on curves with known minima."""

import math

import pytest
import torch

from tiltfield.regularise import choose_weight, total_variation

EPS = 0.005


def step_volume(height=1.0):
    """3 × 3 × 3 voxels, a step along x: of the eight voxels with neighbours, four see it."""
    slices = torch.zeros(3, 3, 3, dtype=torch.float64)
    slices[:, :, 2] = height
    return slices


def gradient(height):
    return math.sqrt(height**2 + EPS**2) - EPS


def test_a_constant_has_none():
    assert total_variation(torch.full((3, 4, 5), 2.0), 1.0).item() == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_by_hand(axis):
    slices = step_volume().transpose(axis, 2)
    assert total_variation(slices, 1.0, edge=math.inf).item() == pytest.approx(gradient(1.0) / 2)
    assert total_variation(slices, 1.0, edge=0.3).item() == pytest.approx(0.3 * math.log1p(gradient(1.0) / 0.3) / 2)


def test_gradients_along_two_axes_add_as_squares():
    slices = torch.zeros(2, 2, 2, dtype=torch.float64)
    slices[1, 0, 0], slices[0, 1, 0] = 3.0, 4.0
    assert total_variation(slices, 1.0, edge=math.inf).item() == pytest.approx(gradient(5.0))


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
