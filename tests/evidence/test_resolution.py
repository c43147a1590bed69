"""Fourier shell correlation of halves: its laws, and which components were measured."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tiltfield.evidence.resolution import Shells, compare_halves, measured, ring_correlation, shell_share, soft_mask
from tiltfield.metrics import fsc

ALL = np.arange(-90.0, 90.0, 1.0)
WEDGE = np.arange(-60.0, 61.0, 2.0)
SHAPE = (32, 32, 32)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_equal_halves_correlate_by_one():
    volume = 5 + noise(0)
    shells = compare_halves((volume, 3 * volume), (WEDGE, WEDGE))
    np.testing.assert_allclose(shells.correlation, 1, atol=1e-5)
    np.testing.assert_allclose(shells.everywhere, 1, atol=1e-5)
    assert shells.resolution(0.143) == pytest.approx(2)


def test_halves_of_independent_noise_do_not_correlate():
    shells = compare_halves((5 + noise(1), 5 + noise(2)), (WEDGE, WEDGE))
    assert np.abs(shells.correlation[3:]).max() < 0.25  # a shell has few independent components under a mask
    assert np.abs(shells.correlation[3:].mean()) < 0.05


def test_correlation_is_signal_over_signal_and_noise():
    signal, n1, n2 = noise(3), noise(4), noise(5)
    a, b = signal + 0.5 * n1, signal + 0.5 * n2
    where = measured(SHAPE, WEDGE)
    _, correlation = fsc(a, b, where)
    assert correlation[4:].mean() == pytest.approx(1 / (1 + 0.25), abs=0.02)


def test_only_what_was_measured_counts():
    where = measured(SHAPE, WEDGE)
    shared, apart = noise(6), (noise(7), noise(8))
    halves = []
    for own in apart:
        spectrum = np.where(where, np.fft.rfftn(own), np.fft.rfftn(shared))
        halves.append(np.fft.irfftn(spectrum, SHAPE, axes=(0, 1, 2)))
    assert np.abs(fsc(*halves, where)[1][4:]).max() < 0.15
    np.testing.assert_allclose(fsc(*halves, ~where)[1][3:], 1, atol=1e-6)


def test_every_component_is_measured_by_every_tilt_and_a_wedge_is_missing_otherwise():
    assert measured(SHAPE, ALL).all()
    seen = measured(SHAPE, WEDGE)
    k_z, k_x = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)[None]
    steep = np.rad2deg(np.arctan2(np.abs(k_z), k_x)) > 75
    assert not seen[:, 0][steep & (np.hypot(k_z, k_x) > 0.2)].any()
    assert seen[:, 0][np.rad2deg(np.arctan2(np.abs(k_z), k_x)) < 55].all()
    assert (seen == seen[:, :1]).all()  # k_y is along the tilt axis


def test_gaps_between_tilts_open_at_crowthers_limit():
    thick = (64, 8, 64)
    step = 10.0
    seen = measured(thick, np.arange(-60.0, 61.0, step))[:, 0]
    opening = 1 / (64 * np.deg2rad(step))  # cos θ = 1 between -5° and 5°
    between = [k for k in range(1, 33) if not seen[round(k * np.tan(np.deg2rad(5))), k]]
    assert 0.8 * opening < between[0] / 64 < 2 * opening


def test_a_single_image_measures_the_plane_across_the_beam():
    seen = measured((8, 4, 6), np.array([0.0]))
    assert seen[0].all()
    assert not seen[1:].any()


def test_share_of_a_shell_is_that_of_the_whole_spectrum():
    np.testing.assert_allclose(shell_share(SHAPE, np.ones((32, 32, 17), bool)), 1)
    full = np.random.default_rng(9).random(SHAPE) < 0.3
    even = full | np.roll(full[::-1, ::-1, ::-1], 1, (0, 1, 2))  # a set that holds -k with every k
    radius = np.sqrt(sum(f**2 for f in np.ix_(*(np.fft.fftfreq(32),) * 3)))
    for k in (1, 5, 16):
        shell = np.rint(radius * 32) == k
        assert shell_share(SHAPE, even[..., :17])[k - 1] == pytest.approx(even[shell].mean())


def test_the_limit_is_where_half_of_a_shell_is_unmeasured():
    f = np.array([0.1, 0.2, 0.3, 0.4])
    one = np.ones(4)
    assert Shells(f, one, one, one, np.array([1, 0.9, 0.4, 0.8])).limit == pytest.approx(0.2)
    assert Shells(f, one, one, one, np.zeros(4)).limit == 0
    assert Shells(f, one, one, one, one).limit == pytest.approx(0.4)


def test_the_mask_is_soft_and_ends_before_the_box_does():
    volume = np.zeros((32, 40, 40), np.float32)
    volume[10:22] = 1
    mask = soft_mask(volume)
    assert mask[16, 20, 20] == pytest.approx(1, abs=0.01)
    assert mask[1, 20, 20] < 0.05
    assert mask[16, 20, 0] < 0.05
    assert np.abs(np.diff(mask[:, 20, 20])).max() < 0.5
    smooth = gaussian_filter(noise(10, (8, 8, 8)), 1)
    assert soft_mask(np.abs(smooth)).shape == (8, 8, 8)


def test_rings_of_a_prediction_correlate_as_far_as_it_has_signal():
    images = noise(11, (7, 64, 64))
    smooth = gaussian_filter(images, (0, 1.5, 1.5))
    rings = ring_correlation(smooth, images + noise(12, images.shape))
    assert rings.correlation[2:10].mean() == pytest.approx(1 / np.sqrt(2), abs=0.03)  # signal and noise of one power
    assert rings.limit > 0.2


def test_rings_of_independent_images_stay_below_chance():
    limits = [ring_correlation(noise(s, (5, 48, 48)), noise(100 + s, (5, 48, 48))) for s in range(10)]
    above = np.mean([rings.correlation > rings.chance for rings in limits])
    assert above < 0.01
    spread = np.mean([(rings.correlation / rings.chance)[2:] ** 2 for rings in limits]) ** 0.5
    assert spread == pytest.approx(1 / 3.09, rel=0.1)  # what a normal law exceeds once in a thousand times
    assert max(rings.limit for rings in limits) < 0.05
