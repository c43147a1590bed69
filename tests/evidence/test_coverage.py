"""What uncertainties are judged by, and laws that any uncertainty obeys."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom
from scipy.stats import norm

from tiltfield.evidence.coverage import coverage, error_by_deviation, errors, rank_correlation, widths
from tiltfield.evidence.uncertainty import LAW, REFITS, grain, half_sets, typical

RNG = np.random.default_rng(0)
DEVIATION = RNG.uniform(0.5, 2, 100_000)
ERROR = DEVIATION * RNG.standard_normal(100_000)


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9, 0.95])
def test_normal_errors_are_covered_as_the_normal_law_says(level):
    width = norm.ppf((1 + level) / 2)
    assert coverage(ERROR, DEVIATION, width) == pytest.approx(level, abs=0.005)
    assert widths(ERROR, DEVIATION, (level,))[level] == pytest.approx(width, rel=0.02)


def test_an_uncertainty_of_half_the_size_covers_less():
    assert coverage(ERROR, DEVIATION / 2, 1.0) == pytest.approx(2 * norm.cdf(0.5) - 1, abs=0.005)


def test_errors_grow_with_a_right_uncertainty_and_not_with_a_random_one():
    mean, rms = error_by_deviation(ERROR, DEVIATION)
    np.testing.assert_allclose(rms, mean, rtol=0.05)
    assert rank_correlation(ERROR, DEVIATION) > 0.2
    assert abs(rank_correlation(ERROR, RNG.permutation(DEVIATION))) < 0.02


def test_errors_do_not_depend_on_the_scale_of_the_truth():
    volume, truth = RNG.random((4, 5, 6)), RNG.random((4, 5, 6))
    np.testing.assert_allclose(errors(volume, 7 * truth), errors(volume, truth))
    np.testing.assert_allclose(errors(volume, 3 * volume), 0, atol=1e-12)


def test_the_law_is_homogeneous_and_positive():
    volume = RNG.random((6, 7, 8)).astype(np.float32)
    refits = [volume + 0.1 * RNG.standard_normal(volume.shape).astype(np.float32) for _ in range(4)]
    one = LAW.deviation(volume, refits)
    many = LAW.deviation(1000 * volume, [1000 * r for r in refits])
    np.testing.assert_allclose(many, 1000 * one, rtol=1e-4)
    assert one.shape == volume.shape
    assert one.min() > 0
    assert sum(LAW.powers) == pytest.approx(1)


def test_the_law_grows_with_the_stray():
    volume = RNG.random((6, 7, 8)).astype(np.float32)
    off = RNG.standard_normal(volume.shape).astype(np.float32)
    assert (LAW.deviation(volume, [volume + 0.2 * off]) > LAW.deviation(volume, [volume + 0.1 * off])).all()


def test_wider_intervals_for_higher_levels_and_one_deviation_for_68():
    assert list(LAW.widths) == sorted(LAW.widths)
    assert list(LAW.widths.values()) == sorted(LAW.widths.values())
    assert LAW.widths[0.68] == pytest.approx(1)


@pytest.mark.parametrize("n", [12, 13])
def test_half_sets_come_in_complementary_pairs_without_wide_gaps(n):
    angles = np.random.default_rng(1).permutation(np.linspace(-60, 60, n))
    sets = half_sets(angles, seed=0)
    assert len(sets) == REFITS
    for a, b in zip(sets[::2], sets[1::2], strict=True):
        assert sorted([*a, *b]) == list(range(n))
        assert abs(len(a) - len(b)) <= 1
        ranks = np.sort(np.argsort(np.argsort(angles))[a])
        assert np.diff(ranks).max() <= 3
    assert not np.array_equal(sets[0], sets[2])


def test_typical_density_ignores_how_much_vacuum_there_is():
    dense = np.full(100, 2.0)
    assert typical(np.concatenate([dense, np.zeros(100)])) == pytest.approx(2)
    assert typical(np.zeros(10)) == 1


def test_the_law_knows_no_pixel_size():
    coarse = zoom(gaussian_filter(RNG.random((12, 16, 16)), 1), 2, order=3).astype(np.float32)
    refits = [coarse + 0.1 * gaussian_filter(RNG.standard_normal(coarse.shape), 3).astype(np.float32) for _ in range(4)]
    fine = [zoom(part, 2, order=3) for part in (coarse, *refits)]
    assert grain(fine[0]) == pytest.approx(2 * grain(coarse), rel=0.1)
    one, other = LAW.deviation(coarse, refits), LAW.deviation(fine[0], fine[1:])
    assert np.median(other) == pytest.approx(np.median(one), rel=0.05)


def test_the_grain_of_a_wave_is_its_wavelength_over_two_pi():
    z = np.sin(2 * np.pi * np.arange(200) / 25)[:, None, None] + np.zeros((1, 3, 3))
    assert grain(z) == pytest.approx(25 / (2 * np.pi), rel=0.03)
    assert grain(np.ones((4, 4, 4))) == 1
    assert grain(np.ones((1, 4, 4))) == 1
