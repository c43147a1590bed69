"""Noise2Self: masks cover all pixels, no pixel is told from itself, and the error against the truth goes down."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tiltfield.denoise import Run
from tiltfield.denoise import noise2self as module
from tiltfield.denoise.noise2self import BlindNet, Masks, by_noise2self
from tiltfield.series import TiltSeries


@pytest.fixture
def small(cell):
    made = cell(size=32, tilts="-50:50:4", snr=0.5)
    return TiltSeries(made.noisy, made.angles_deg), made.clean


def mse(images, clean):
    return float(np.mean((images - clean) ** 2))


@pytest.mark.parametrize("halo", [(0, 0), (0, 2), (1, 0)])
def test_the_lattices_cover_every_pixel_once(halo):
    masks, shape = Masks(halo), (11, 17)
    count = sum(masks.targets(i, shape).int() for i in range(len(masks)))
    assert (count == 1).all()


def test_hidden_are_the_points_and_their_neighbours_along_the_scan():
    masks = Masks((0, 1))
    hidden = masks.hidden(masks.targets(0, (4, 12)))
    row = [True, True, False, False, True, True, True, False, False, True, True, True]
    assert hidden[0].tolist() == row
    assert hidden[3].tolist() == row
    assert not hidden[1:3].any()


def test_what_is_foretold_does_not_depend_on_what_is_hidden():
    torch.manual_seed(0)
    net, masks = BlindNet(), Masks()
    targets = masks.targets(4, (13, 18))
    images = torch.randn(2, 5, 13, 18)
    other = images.clone()
    other[:, 2, targets] += 100
    first, second = net(images, targets), net(other, targets)
    assert first.shape == (2, 13, 18)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other[:, 2, ~targets] += 1
    assert not torch.allclose(first, net(other, targets))


def test_an_image_is_not_its_own_neighbour():
    """By hand: 0 1 2 3 mirrored is 2 1 0 1 2 3 2 1; where an image would meet itself, the one before is repeated."""
    assert module._neighbours(4).tolist() == [[2, 1, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 2, 1]]
    assert module._neighbours(3).tolist() == [[2, 1, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 1, 0]]
    for count in range(3, 9):
        near, own = module._neighbours(count), torch.arange(count)
        assert ((near == own[:, None]) == torch.tensor([False, False, True, False, False])).all()


def told_by_themselves(count):
    """The tilts at which a pixel's answer by a network that is not trained depends on what the pixel holds.

    Two pixels of one tilt change places, so that mean and deviation of the series stay; they are too far apart for
    either to see the other.
    """
    images = np.random.default_rng(0).integers(0, 100, (count, 16, 48)).astype(np.float32)
    here, there = (7, 4), (7, 43)
    images[:, *here] = 120
    series = TiltSeries(images, np.linspace(40, -50, count))
    expected, found = by_noise2self(series, Run(), steps=0), []
    for tilt in range(count):
        changed = images.copy()
        changed[tilt, *here], changed[tilt, *there] = images[tilt, *there], images[tilt, *here]
        answer = by_noise2self(replace(series, images=changed), Run(), steps=0)
        assert np.abs(answer - expected).max() > 0  # their neighbours see it
        if any(answer[tilt, *pixel] != expected[tilt, *pixel] for pixel in (here, there)):
            found.append(tilt)
    return found


@pytest.mark.parametrize("count", [3, 4, 6])
def test_no_pixel_depends_on_itself(count):
    assert told_by_themselves(count) == []


def test_the_check_sees_images_given_as_their_own_neighbours(monkeypatch):
    mirrored = torch.tensor([[2, 1, 0, 1, 2], [1, 0, 1, 2, 3], [0, 1, 2, 3, 2], [1, 2, 3, 2, 1]])
    monkeypatch.setattr(module, "_neighbours", lambda count: mirrored)
    assert told_by_themselves(4) == [1, 2]


def test_the_error_against_the_truth_goes_down(small):
    series, clean = small
    images = by_noise2self(series, Run(), steps=100)
    assert images.dtype == np.float32
    assert mse(images, clean) < mse(series.images, clean) / 4  # 5.8 to 7.6 over three cells


def test_the_unit_and_the_order_of_the_tilts_do_not_matter(small):
    series, _ = small
    images = by_noise2self(series, Run(seed=1), steps=20)
    other = replace(series, images=3000 + 500 * series.images).select(np.arange(len(images))[::-1])
    again = by_noise2self(other, Run(seed=1), steps=20)[::-1]
    np.testing.assert_allclose((again - 3000) / 500, images, atol=2e-3 * np.ptp(images))


def test_the_seed_fixes_the_images(small):
    series, _ = small
    first, same, other = (by_noise2self(series, Run(seed=s), steps=5) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0


def test_the_state_of_other_draws_is_left_alone(small):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    by_noise2self(small[0], Run(), steps=2)
    torch.testing.assert_close(torch.rand(3), expected)


def test_progress_ends_at_one_and_tells_the_time_left(small, monkeypatch, told):
    monkeypatch.setattr(module, "_PIXELS", 8 * 32 * 32)
    by_noise2self(small[0], Run(observer=told), steps=4)
    shares = [done for _, done, _ in told.done]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len(shares) == 4 + 4
    assert {stage for stage, _, _ in told.done} == {"noise2self"}
    assert all(left >= 0 for _, done, left in told.done if done > 0.05)


def test_neighbours_along_the_scan_are_hidden_where_noise_correlates(cell, told):
    made = cell(size=32, tilts="-50:50:4", snr=0.5, scan_correlation=0.5)
    series = TiltSeries(made.noisy, made.angles_deg)
    images = by_noise2self(series, Run(observer=told), steps=100)
    assert "along x" in told.said[0]
    assert mse(images, made.clean) < mse(series.images, made.clean) / 3


def test_large_images_go_in_tiles(small, monkeypatch):
    series = small[0]
    whole = by_noise2self(series, Run(), steps=3)
    monkeypatch.setattr(module, "_TILE", 16)
    np.testing.assert_allclose(by_noise2self(series, Run(), steps=3), whole, atol=1e-3 * np.ptp(whole))


def test_images_of_any_size(small):
    series = replace(small[0], images=small[0].images[:, :9, :10]).select(range(3))
    images = by_noise2self(series, Run(), steps=2)
    assert images.shape == (3, 9, 10)
    assert np.all(np.isfinite(images))
