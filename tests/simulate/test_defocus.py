"""Defocus: constants, the axis, moments, and the sum written out."""

import math

import numpy as np
import pytest
import yaml

from tiltfield.config import SimulateConfig
from tiltfield.defocus import KERNELS, blur_widths
from tiltfield.simulate import simulate
from tiltfield.simulate.defocus import defocus_image

KINDS = sorted(KERNELS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_stays_constant(kind):
    widths = blur_widths(60, 1.0, 1.0, 6.0)
    np.testing.assert_allclose(defocus_image(np.full((40, 60), 0.7, np.float32), widths, KERNELS[kind]), 0.7, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tilt_no_blur_and_none_on_the_axis(kind):
    image = np.random.default_rng(1).random((30, 31), dtype=np.float32)
    np.testing.assert_array_equal(defocus_image(image, blur_widths(31, 0.0, 1.0, 5.0), KERNELS[kind]), image)
    blurred = defocus_image(image, blur_widths(31, 1.0, 1.0, 5.0), KERNELS[kind])
    np.testing.assert_array_equal(blurred[:, 15], image[:, 15])
    assert np.abs(blurred - image)[:, 0].max() > 0.1


def test_a_series_without_tilt_is_left_alone():
    np.testing.assert_array_equal(blur_widths(9, 0.0, 0.0, 5.0), 0)


def test_the_blur_grows_with_tangent_and_distance():
    steepest, most = math.radians(60), 4.0
    widths = blur_widths(101, math.radians(-45), steepest, most)
    np.testing.assert_allclose(widths, most * np.abs(np.arange(101) - 50) / 50 / math.sqrt(3), atol=1e-12)
    assert blur_widths(101, steepest, steepest, most).max() == pytest.approx(most)
    assert blur_widths(100, steepest, steepest, most)[[0, -1]] == pytest.approx(most)


@pytest.mark.parametrize("width", [2.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_gets_the_second_moment_asked_for(kind, width):
    n = 141
    point = np.zeros((n, n), np.float32)
    point[n // 2, n // 2] = 1
    spot = defocus_image(point, np.full(n, width), KERNELS[kind]).astype(np.float64)
    x = np.arange(n) - n // 2
    assert spot.sum() == pytest.approx(1, abs=1e-4)
    for axis in (0, 1):
        assert (spot.sum(axis=axis) * x**2).sum() == pytest.approx(width**2, rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_written_out(kind):
    rng = np.random.default_rng(2)
    image, widths = rng.random((17, 19), dtype=np.float32), rng.uniform(0.3, 3.0, 19)
    y, x = np.mgrid[:17, :19]
    expected = np.empty((17, 19))
    for i, j in np.ndindex(17, 19):
        r = np.hypot(y - i, x - j)
        weight = np.exp(-(r**2) / 2 / widths[j] ** 2) if kind == "linear" else np.exp(-r * math.sqrt(3) / widths[j])
        expected[i, j] = (weight * image).sum() / weight.sum()
    np.testing.assert_allclose(defocus_image(image, widths, KERNELS[kind]), expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_images_are_the_sharp_ones_blurred(kind, tmp_path):
    settings = {"size": 32, "tilts": "-60:60:20", "noise": "none"}
    sharp = simulate(SimulateConfig(**settings))
    sim = simulate(SimulateConfig(**settings, defocus=kind, defocus_pixels=3.0))
    assert (sim.gain, sim.offset) == (sharp.gain, sharp.offset)
    np.testing.assert_array_equal(sim.truth, sharp.truth)
    np.testing.assert_array_equal(sim.clean[3], sharp.clean[3])
    for i in (0, 1, 6):
        widths = blur_widths(32, math.radians(sharp.angles_deg[i]), math.radians(60), 3.0)
        np.testing.assert_array_equal(sim.clean[i], defocus_image(sharp.clean[i], widths, KERNELS[kind]))
    meta = yaml.safe_load((sim.save(tmp_path) / "meta.yaml").read_text())
    assert meta["defocus"]["kernel"] == kind
    assert meta["defocus"]["scale_at_steepest_edge_pixels"] == pytest.approx(
        3 if kind == "linear" else 3 / math.sqrt(3)
    )
