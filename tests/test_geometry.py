"""The conventions, by hand: which way is up, where a point lands, what "x" means."""

import math

import numpy as np
import pytest
import torch

from tiltfield.geometry import (
    Placement,
    SliceGeometry,
    centred,
    detector_coordinate,
    full_padding,
    orient,
    side_padding,
)

PATTERN = np.array([[[1, 2, 3], [4, 5, 6]]])


@pytest.mark.parametrize(
    ("tilt_axis", "expected"),
    [
        ("y", [[1, 2, 3], [4, 5, 6]]),
        (0, [[1, 2, 3], [4, 5, 6]]),
        ("x", [[4, 1], [5, 2], [6, 3]]),  # a quarter turn clockwise: the left end of the axis goes to the top
        (90, [[4, 1], [5, 2], [6, 3]]),
        ("90", [[4, 1], [5, 2], [6, 3]]),
        (-90, [[3, 6], [2, 5], [1, 4]]),
        (270, [[3, 6], [2, 5], [1, 4]]),
        (180, [[6, 5, 4], [3, 2, 1]]),
        (-180.0, [[6, 5, 4], [3, 2, 1]]),
    ],
)
def test_quarter_turns_by_hand(tilt_axis, expected):
    result = orient(PATTERN, tilt_axis)
    assert result.dtype == PATTERN.dtype
    np.testing.assert_array_equal(result, [expected])


def test_x_makes_a_horizontal_axis_vertical():
    images = np.zeros((2, 5, 7))
    images[:, 2, :] = 1
    expected = np.zeros((2, 7, 5))
    expected[:, :, 2] = 1
    np.testing.assert_array_equal(orient(images, "x"), expected)


def test_x_is_ninety_degrees_and_minus_ninety_its_half_turn():
    images = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_array_equal(orient(images, "x"), orient(images, 90))
    np.testing.assert_array_equal(orient(images, "x"), orient(orient(images, -90), 180))


def blob(row, col, n=65, sigma=2.5):
    """A blob at (row, col) from the centre of an n × n image."""
    i = np.arange(n) - (n - 1) / 2
    return np.exp(-((i[:, None] - row) ** 2 + (i - col) ** 2) / (2 * sigma**2))[None]


@pytest.mark.parametrize("degrees", [0, 3, -3, 30, 45, -45, 50, 89.5, 90, -90, 130, 180, -130, 200, 355])
def test_the_upper_end_of_the_axis_goes_up(degrees):
    a = math.radians(degrees)
    given = blob(-20 * math.cos(a), -20 * math.sin(a))  # counter-clockwise from the vertical leans to the left
    turned = Placement.unmoved(1).turned(degrees)
    np.testing.assert_allclose(turned.move(given, turned.shape((65, 65))), blob(-20, 0), atol=2e-3)
    if degrees % 90 == 0:
        np.testing.assert_allclose(orient(given, degrees), blob(-20, 0), atol=2e-3)


@pytest.mark.parametrize("degrees", [7.0, -7.0])
def test_a_small_angle_keeps_the_shape_and_is_no_quarter_turn(degrees):
    assert Placement.unmoved(2).turned(degrees).shape((8, 12)) == (8, 12)
    with pytest.raises(ValueError, match=f"multiple of 90°, got {degrees:g}°"):
        orient(PATTERN, degrees)


def test_whole_shifts_and_quarter_turns_by_hand():
    image = np.arange(6.0).reshape(1, 2, 3)
    right = Placement(np.eye(2)[None], np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(right.move(image, (2, 3))[0, :, 1:], [[0, 1], [3, 4]], atol=1e-5)
    np.testing.assert_array_equal(right.seen(0, (2, 3), (2, 3)), [[False, True, True]] * 2)
    turned = Placement.unmoved(1).turned(90.0)
    assert turned.shape((2, 3)) == (3, 2)
    np.testing.assert_allclose(turned.move(image, (3, 2)), orient(image, 90), atol=1e-5)
    assert turned.seen(0, (2, 3), (3, 2)).all()


def test_moving_there_and_back_is_nothing():
    images = np.concatenate([blob(4, -6), blob(-3, 8)])
    there = Placement(np.array([[[1.1, 0.2], [-0.1, 0.9]]] * 2), np.array([[2.5, -3.0], [0.3, 4.0]]))
    inverse = np.linalg.inv(there.matrices)
    back = Placement(inverse, -np.einsum("nij,nj->ni", inverse, there.shifts))
    shape = images.shape[1:]
    np.testing.assert_allclose(back.move(there.move(images, shape), shape), images, atol=2e-3)


def test_a_turn_after_a_shift_turns_the_shift():
    placed = Placement(np.eye(2)[None], np.array([[3.0, 0.0]])).turned(90.0)
    np.testing.assert_allclose(placed.shifts, [[0.0, 3.0]], atol=1e-12)  # what was right is now below


@pytest.mark.parametrize("axis", ["z", "vertical", ""])
def test_an_axis_that_is_none_is_refused(axis):
    with pytest.raises(ValueError, match="tilt axis must be 'y', 'x' or an angle in degrees"):
        orient(PATTERN, axis)


@pytest.mark.parametrize(
    ("thickness", "angles", "expected"),
    [
        (100, [0.0], 0),
        (100, [-45.0, 10.0], 50),  # 50 · 1
        (40, [-50.0, 60.0], 35),  # 20 · 1.732 = 34.6
        (20, [-70.0, 50.0], 28),  # 10 · 2.747 = 27.5
        (0, [70.0], 0),
    ],
)
def test_side_padding_by_hand(thickness, angles, expected):
    assert side_padding(thickness, np.array(angles)) == expected


def test_full_padding_holds_every_ray():
    n_u, thickness, angles = 40, 12.0, np.array([-50.0, 0.0, 35.0])
    theta = np.deg2rad(angles)[:, None, None]
    u, z = np.linspace(-n_u / 2, n_u / 2, 5)[:, None], np.linspace(-thickness / 2, thickness / 2, 7)
    reach = np.abs((u - z * np.sin(theta)) / np.cos(theta)).max()
    assert 0 <= n_u / 2 + full_padding(n_u, thickness, angles) - reach < 1
    assert full_padding(n_u, thickness, np.zeros(3)) == 0


def test_side_padding_holds_the_rays_through_the_field_of_view():
    angles, thickness, half_width = np.array([-61.0, 20.0, 55.0]), 37.0, 50.0
    room = half_width + side_padding(thickness, angles)
    z = np.array([-thickness / 2, thickness / 2])
    x = half_width - z * np.tan(np.deg2rad(angles))[:, None]  # through (half_width, 0), the edge at zero tilt
    assert room - 1 < x.max() <= room


def test_centred_by_hand():
    torch.testing.assert_close(centred(4), torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    torch.testing.assert_close(centred(3), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(centred(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "z", "degrees", "u"), [(3, 5, 0, 3), (2, 0, 60, 1), (0, 2, 30, 1), (0, 2, -30, -1), (1, 1, 45, math.sqrt(2))]
)
def test_a_point_lands_in_its_column(x, z, degrees, u):
    given = (torch.tensor(float(v), dtype=torch.float64) for v in (x, z, math.radians(degrees)))
    assert detector_coordinate(*given).item() == pytest.approx(u)


def test_geometry_from_degrees():
    geometry = SliceGeometry.from_degrees(3, 4, 5, np.array([-60, 0, 30]))
    assert geometry.angles == pytest.approx((-math.pi / 3, 0, math.pi / 6))
    assert geometry.n_tilts == 3


@pytest.mark.parametrize("angles", [[90.0], [-95.0], [math.nan]])
def test_tilts_that_see_nothing_are_refused(angles):
    with pytest.raises(ValueError, match="within"):
        SliceGeometry.from_degrees(3, 4, 5, np.array(angles))


@pytest.mark.parametrize("sizes", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_an_empty_slice_is_refused(sizes):
    with pytest.raises(ValueError, match="at least one"):
        SliceGeometry(*sizes, (0.0,))
    with pytest.raises(ValueError, match="at least one"):
        SliceGeometry(3, 4, 5, ())
