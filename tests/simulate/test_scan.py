"""Noise along the scan: the law of an RC detector, measured on noise that was drawn."""

import math

import numpy as np
import pytest

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.simulate import simulate
from tiltfield.simulate.scan import scan_law

MEASURED = 0.51  # lag 1 of the repeated frames, whose lag 2 is 0.16


def smeared(correlation, shape, seed=0, axis=1):
    law = scan_law(correlation)
    wide = list(shape)
    wide[axis] += law.run_in
    return law.smear(np.random.default_rng(seed).standard_normal(wide), axis)


def acf(noise, lag, axis):
    lines = np.moveaxis(noise, axis, -1)
    n = lines.shape[-1]
    return float((lines[..., : n - lag] * lines[..., lag:]).mean() / (lines**2).mean())


@pytest.mark.parametrize("correlation", [0.01, 0.05, 0.3, MEASURED, 0.6667, 0.8, 0.9])
def test_the_law_is_that_of_a_slow_detector(correlation):
    law = scan_law(correlation)
    x = -math.log(law.phi)
    assert (1 - law.phi) ** 2 / (2 * (x - 1 + law.phi)) == pytest.approx(correlation, rel=1e-6)
    assert law.correlation(1) == pytest.approx(correlation, rel=1e-6)
    assert law.correlation(3) == pytest.approx(law.correlation(1) * math.exp(-2 * x))
    assert 0 < law.theta < 1


def test_there_is_a_law_for_every_correlation():
    for correlation in (0.0112763, *np.geomspace(1e-6, 0.99, 2000)):
        assert scan_law(correlation).correlation(1) == pytest.approx(correlation, rel=1e-6)


def test_the_dwell_integral_by_quadrature():
    # two roads: the correlation of the means over neighbouring dwells of a process with e^-|t|, by the midpoint rule
    x = -math.log(scan_law(MEASURED).phi)
    t = (np.arange(600) + 0.5) / 600 * x
    within = np.exp(-np.abs(t[:, None] - t)).mean()
    for lag in (1, 2, 3):
        across = np.exp(-np.abs(t[:, None] - t - lag * x)).mean()
        assert across / within == pytest.approx(scan_law(MEASURED).correlation(lag), abs=1e-5)


def test_it_explains_the_second_lag_of_the_repeated_frames():
    assert scan_law(MEASURED).correlation(2) == pytest.approx(0.16, abs=0.01)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("correlation", [0.2, MEASURED, 0.9])
def test_drawn_noise_follows_the_law(correlation, axis):
    noise = smeared(correlation, (1200, 1200), axis=axis)
    law = scan_law(correlation)
    # pixels that count as independent: n over the integrated square of the correlation
    scatter = math.sqrt((1 + 2 * sum(law.correlation(k) ** 2 for k in range(1, 80))) / noise.size)
    for lag in (1, 2, 3):
        assert acf(noise, lag, axis) == pytest.approx(law.correlation(lag), abs=5 * scatter)
    assert abs(acf(noise, 1, 1 - axis)) < 5 * scatter
    assert noise.var() == pytest.approx(1, abs=5 * scatter * math.sqrt(2))
    assert abs(noise.mean()) < 5 * math.sqrt((1 + 2 * sum(law.correlation(k) for k in range(1, 80))) / noise.size)


@pytest.mark.parametrize("correlation", [MEASURED, 0.9])
def test_a_line_is_stationary_from_its_first_pixel(correlation):
    noise = smeared(correlation, (200_000, 3))
    np.testing.assert_allclose(noise.var(axis=0), 1, rtol=5 * math.sqrt(2 / 200_000))
    assert (noise[:, 0] * noise[:, 1]).mean() == pytest.approx(correlation, abs=0.015)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_a_correlation_out_of_range_is_refused(bad):
    with pytest.raises(InputError, match="between 0 and 1"):
        scan_law(bad)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("noise", ["gaussian", "poisson-gaussian"])
def test_images_carry_the_correlation(axis, noise):
    config = SimulateConfig(size=96, tilts="-10:10:5", noise=noise, scan_correlation=MEASURED, scan_axis=axis)
    sim = simulate(config)
    white = simulate(config.model_copy(update={"scan_correlation": 0.0}))
    along = 2 if axis == "x" else 1
    residual = sim.noisy.astype(float) - sim.clean
    np.testing.assert_array_equal(sim.clean, white.clean)
    assert acf(residual, 1, along) == pytest.approx(MEASURED, abs=0.03)
    assert acf(residual, 2, along) == pytest.approx(0.167, abs=0.03)
    assert abs(acf(residual, 1, 3 - along)) < 0.03
    assert residual.var() == pytest.approx((white.noisy.astype(float) - white.clean).var(), rel=0.05)
    assert abs(residual.mean()) < 5 * residual.std() * math.sqrt(2.5 / residual.size)


def test_correlated_noise_repeats_and_is_clipped_last():
    config = SimulateConfig(size=24, tilts="-20:20:20", scan_correlation=0.4, clip=True)
    sim, again = simulate(config), simulate(config)
    assert sim.noisy.tobytes() == again.noisy.tobytes()
    free = simulate(config.model_copy(update={"clip": False}))
    np.testing.assert_array_equal(sim.noisy, np.clip(free.noisy, 0, 1))
