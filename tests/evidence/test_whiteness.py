"""Residuals that are noise pass, others do not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter1d

from tiltfield.evidence.whiteness import block_variance, chance, correlations, mean_residual, whiteness

SHAPE = (31, 48, 48)
ANGLES = np.linspace(-60, 60, 31)
ALL = np.ones(SHAPE, bool)


def white(seed=0):
    return np.random.default_rng(seed).standard_normal(SHAPE)


@pytest.mark.parametrize("seed", range(4))
def test_white_noise_passes(seed):
    result = whiteness(white(seed), ALL, ANGLES)
    assert result.verdict == "noise"
    assert result.variance == pytest.approx(1, abs=0.02)
    assert result.mean_chi2 == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(result.block_variance, 1, atol=0.15)


@pytest.mark.parametrize(("axis", "name"), [(0, "tilt"), (1, "y"), (2, "x")])
def test_correlated_residuals_fail_and_the_axis_is_named(axis, name):
    smooth = gaussian_filter1d(white(), 0.6, axis=axis)
    result = whiteness(smooth / smooth.std(), ALL, ANGLES)
    assert result.verdict == "structure"
    assert result.correlation[name][0] > 0.2
    assert result.probability[name] < 1e-6
    assert min(result.probability[other] for other in {"tilt", "y", "x"} - {name}) > 1e-3


def test_structure_far_below_the_noise_is_found_in_its_sum():
    """A blob of half the noise's deviation in every image."""
    blob = 0.5 * gaussian_filter(np.pad([[1.0]], 24)[:48, :48], 6) * 2 * np.pi * 36
    residual = white() + blob
    result = whiteness(residual, ALL, ANGLES)
    assert result.verdict == "structure"
    assert result.mean_chi2 > 1.2
    assert max(rho[0] for rho in result.correlation.values()) < 0.05
    mean = mean_residual(residual, ALL)
    assert mean[24, 24] > 2


def test_a_volume_that_follows_the_noise_is_told():
    noise = white()
    result = whiteness(noise - 0.9 * uniform_filter1d(noise, 3, axis=2), ALL, ANGLES)
    assert result.verdict == "overfitted"


def test_tilts_are_neighbours_by_angle():
    drift = np.repeat(np.random.default_rng(1).standard_normal((16, 48, 48)), 2, axis=0)[:31]
    shuffled = np.random.default_rng(2).permutation(31)
    assert whiteness(drift[shuffled], ALL, ANGLES[shuffled]).correlation["tilt"][0] > 0.4


def test_pixels_without_data_do_not_count():
    residual, valid = white(), ALL.copy()
    valid[:, :10] = False
    residual[:, :10] = 50
    result = whiteness(residual, valid, ANGLES)
    assert result.verdict == "noise"
    assert result.pixels == valid.sum()


def test_variance_off_is_said():
    assert "off" in whiteness(1.3 * white(), ALL, ANGLES).words
    assert "less noise" in whiteness(0.8 * white(), ALL, ANGLES).words


def test_correlation_of_a_moving_mean_is_known():
    moving = uniform_filter1d(white(), 2, axis=1, mode="wrap")  # ρ(1) = 1/2, ρ(2) = 0
    rho, pairs = correlations(moving, ALL, 1)
    np.testing.assert_allclose(rho[:2], [0.5, 0], atol=0.02)
    assert pairs[0] == 31 * 47 * 48


def test_equal_pixels_in_blocks_add_up():
    coarse = np.repeat(np.repeat(np.random.default_rng(3).standard_normal((31, 24, 24)), 2, 1), 2, 2)
    assert block_variance(coarse, ALL, 2) == pytest.approx(4, rel=0.05)
    assert block_variance(coarse, ALL, 1) == pytest.approx(1, rel=0.05)


def test_the_test_is_as_strict_as_it_says():
    rejected = [chance(*correlations(white(seed)[:8], ALL[:8], 2)) < 0.05 for seed in range(60)]
    assert sum(rejected) <= 9  # 3 are to be expected
