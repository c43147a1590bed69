"""Distances of distributions: closed forms, bounds, and numbers worked by hand."""

import math

import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.metrics import bhattacharyya, bhattacharyya_distance, jensen_shannon

MEASURES = [jensen_shannon, bhattacharyya, bhattacharyya_distance]


def test_equal_and_disjoint():
    p, q = np.array([1.0, 3.0, 0.0]), np.array([0.0, 0.0, 2.0])
    assert jensen_shannon(p, 5 * p) == pytest.approx(0, abs=1e-15)
    assert bhattacharyya(p, 5 * p) == pytest.approx(1)
    assert bhattacharyya_distance(p, 5 * p) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(p, q) == pytest.approx(1)  # bits
    assert bhattacharyya(p, q) == 0
    assert bhattacharyya_distance(p, q) == math.inf


def test_by_hand():
    p, q = [1.0, 0.0], [0.5, 0.5]  # m = (3/4, 1/4)
    assert jensen_shannon(p, q) == pytest.approx(0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25 * math.log2(2))
    assert bhattacharyya(p, q) == pytest.approx(math.sqrt(0.5))
    assert bhattacharyya_distance(p, q) == pytest.approx(0.5 * math.log(2))


@pytest.mark.parametrize("measure", MEASURES)
def test_symmetric(measure):
    p, q = np.random.default_rng(0).random((2, 3, 7))
    assert measure(p, q) == pytest.approx(measure(q, p))


def test_two_gaussians():
    """BC = sqrt(2 s t / (s² + t²)) exp(-d² / (4 (s² + t²))) for deviations s, t and means d apart."""
    x = np.linspace(-20, 20, 8001)
    p, q = np.exp(-0.5 * x**2), np.exp(-0.5 * ((x - 1.5) / 2) ** 2) / 2
    expected = math.sqrt(4 / 5) * math.exp(-(1.5**2) / 20)
    assert bhattacharyya(p, q) == pytest.approx(expected, rel=1e-6)
    assert bhattacharyya_distance(p, q) == pytest.approx(-math.log(expected), rel=1e-6)


def test_a_small_shift_is_the_fisher_information():
    """JSD → d²/8 nats and -ln BC → d²/8 for normals a small d apart."""
    x = np.linspace(-10, 10, 20001)
    p, q = np.exp(-0.5 * x**2), np.exp(-0.5 * (x - 0.05) ** 2)
    assert jensen_shannon(p, q) * math.log(2) == pytest.approx(0.05**2 / 8, rel=1e-3)
    assert bhattacharyya_distance(p, q) == pytest.approx(0.05**2 / 8, rel=1e-3)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [[0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0], [1.0, 1.0, 1.0]])
def test_what_is_no_histogram_is_refused(measure, bad):
    with pytest.raises(InputError, match=r"histogram|one shape"):
        measure(bad, [0.5, 0.5])
