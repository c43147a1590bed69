"""Traits of noise against the laws it was drawn from."""

import numpy as np
import pytest
from scipy.signal import lfilter

from tiltfield.traits import classes, correlations, spectrum, traits_of


def test_classes_hold_equally_many():
    counts = np.bincount(classes(np.random.default_rng(0).exponential(size=(2, 64, 64))).ravel())
    assert len(counts) == 16
    assert np.ptp(counts) <= 1


def test_the_traits_of_known_noise():
    rng = np.random.default_rng(0)
    clean = rng.uniform(1, 3, (2, 256, 256))
    shape = (rng.exponential(size=clean.shape) - 1) * np.sqrt(0.2 * clean + 0.1)
    traits = traits_of(clean, shape)
    assert traits.slope == pytest.approx(0.2, rel=0.1)
    np.testing.assert_allclose(traits.variance, 0.2 * np.array(traits.intensity) + 0.1, rtol=0.15)
    assert traits.deviation == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert traits.skewness == pytest.approx(2, rel=0.05)
    assert traits.kurtosis == pytest.approx(6, rel=0.15)


def test_correlation_of_an_autoregressive_process():
    noise = lfilter([1], [1, -0.5], np.random.default_rng(1).standard_normal((1, 300, 600)))[..., 100:]
    np.testing.assert_allclose(correlations(noise, 2, 4), 0.5 ** np.arange(1, 5), atol=0.01)
    np.testing.assert_allclose(correlations(noise, 1, 4), 0, atol=0.015)


def test_the_spectrum_is_that_of_the_correlation():
    """White noise has power 1 at every frequency; y = 0.5 y + e has 0.75 / |1 - 0.5 e^{-2πif}|²."""
    noise = np.random.default_rng(2).standard_normal((1, 400, 512))
    np.testing.assert_allclose(spectrum(noise, 1), 1, atol=0.05)
    coloured = lfilter([1], [1, -0.5], noise)
    f = np.arange(33) / 64
    expected = 0.75 / np.abs(1 - 0.5 * np.exp(-2j * np.pi * f)) ** 2
    np.testing.assert_allclose(spectrum(coloured, 2), expected, rtol=0.05)


def test_small_images_have_traits():
    noise = np.random.default_rng(3).standard_normal((1, 32, 40))
    traits = traits_of(np.ones_like(noise), noise)
    assert traits.slope == 0  # one intensity has no slope
    assert len(traits.spectrum_across) == 17
