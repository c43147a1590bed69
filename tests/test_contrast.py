"""Contrast: from line integrals to intensities and back, and what the images say of mode, gain and offset."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from tiltfield.contrast import Contrast, clean_range, decide_mode, estimate_levels, linearise, smooth
from tiltfield.errors import InputError
from tiltfield.plan import first_plan
from tiltfield.series import TiltSeries

ANGLES = np.arange(-70.0, 71.0, 5.0)


def needle(mode, noise=0.01):
    """A cylinder around the tilt axis in vacuum: as thick at every tilt."""
    u = np.arange(40) - 19.5
    chord = 2 * np.sqrt(np.clip(8**2 - u**2, 0, None)) / 16
    signal = np.exp(-2 * chord) if mode == "bf" else chord
    images = np.broadcast_to(signal, (len(ANGLES), 20, 40)) + noise * np.random.default_rng(0).standard_normal(
        (len(ANGLES), 20, 40)
    )
    return TiltSeries(images, ANGLES, name="needle")


def slab(mode, *, offset, gain, depth, n=40):
    """A slab around the axis with vacuum on both sides of the field of view."""
    integral = np.zeros((len(ANGLES), 12, n))
    integral[:, :, 8:-8] = depth / np.cos(np.deg2rad(ANGLES))[:, None, None]
    return TiltSeries(offset + gain * (np.exp(-integral) if mode == "bf" else integral), ANGLES)


@pytest.mark.parametrize("mode", ["bf", "haadf"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mode_of_a_cell_is_told_by_its_tilts(cell, mode, seed):
    assert decide_mode(cell(mode=mode, seed=seed).series())[0] == mode


@pytest.mark.parametrize("mode", ["bf", "haadf"])
def test_the_mode_of_a_needle_is_told_by_the_vacuum_beside_it(mode):
    found, reason = decide_mode(needle(mode))
    assert found == mode
    assert "vacuum" in reason


@pytest.mark.parametrize("seed", range(12))
def test_noise_alone_tells_no_mode(seed):
    images = np.random.default_rng(seed).standard_normal((len(ANGLES), 24, 32))
    with pytest.raises(InputError, match="--mode"):
        decide_mode(TiltSeries(images, ANGLES))


def test_bright_field_levels_come_from_the_course_over_the_tilts():
    levels = estimate_levels(slab("bf", offset=0.1, gain=0.8, depth=1.2), "bf")
    assert levels.offset == pytest.approx(0.1, abs=0.04)
    assert levels.gain == pytest.approx(0.8, abs=0.05)
    assert levels.depth == pytest.approx(1.2, rel=0.1)
    assert levels.offset + levels.gain == pytest.approx(0.9, abs=0.01)  # vacuum


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_the_gain_of_a_section_without_vacuum_lies_beyond_the_brightest_image(gain):
    clean = gain * np.exp(-1.5 / np.cos(np.deg2rad(ANGLES)))
    noise = 1e-3 * gain * np.random.default_rng(0).standard_normal((len(ANGLES), 12, 40))
    levels = estimate_levels(TiltSeries(clean[:, None, None] + noise, ANGLES), "bf")
    assert clean.max() < gain / 4
    assert levels.gain == pytest.approx(gain, rel=0.25)
    assert levels.depth == pytest.approx(1.5, rel=0.15)


def test_haadf_offset_is_the_vacuum():
    levels = estimate_levels(slab("haadf", offset=5.0, gain=3.0, depth=1.0), "haadf")
    assert levels.offset == pytest.approx(5.0, abs=0.05)
    assert levels.gain * levels.depth == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("mode", ["bf", "haadf"])
def test_levels_follow_the_units_of_the_images(mode):
    series = needle(mode)
    scaled = TiltSeries(100 + 50 * series.images, ANGLES)
    a, b = estimate_levels(series, mode), estimate_levels(scaled, mode)
    assert b.offset == pytest.approx(100 + 50 * a.offset, rel=1e-3)
    assert b.gain == pytest.approx(50 * a.gain, rel=1e-3)
    assert b.depth == pytest.approx(a.depth, rel=1e-3)


@pytest.mark.parametrize("mode", ["bf", "haadf"])
def test_linearise_inverts_the_contrast(mode):
    levels = estimate_levels(needle(mode), mode)
    depth = torch.linspace(0, 2.5, 20)
    with torch.no_grad():
        images = Contrast(mode, levels.offset, levels.gain)(depth).numpy()
    np.testing.assert_allclose(linearise(images, mode, levels), depth, atol=1e-4)


def test_linearise_bounds_the_logarithm_of_noise():
    levels = estimate_levels(needle("bf"), "bf")
    dark = np.array([levels.offset, levels.offset - 10 * levels.gain])
    np.testing.assert_allclose(linearise(dark, "bf", levels), -np.log(0.05), rtol=1e-5)


def test_gain_is_refined_in_bright_field_only():
    def trained(mode):
        return {name for name, p in Contrast(mode, 0.0, 1.0).named_parameters() if p.requires_grad}

    assert trained("bf") == {"offset", "gain"}
    assert trained("haadf") == {"offset"}
    assert len(Contrast("haadf", 0.0, 1.0).groups(1e-3)[0]["params"]) == 1


def test_the_clean_range_is_not_that_of_the_noise():
    low, high = clean_range(needle("haadf", noise=0.05))
    assert (low, high) == pytest.approx((0, 1), abs=0.06)


def test_images_whose_means_are_all_alike_hold_no_contrast():
    with pytest.raises(InputError, match="contrast"):
        clean_range(TiltSeries(_single_spots(), np.arange(3)))


def _single_spots():
    """One bright pixel an image: 5 × 5 × 3 running means see it in too few places to count."""
    images = np.ones((3, 400, 400), np.float32)
    images[:, 200, 200] = 2.0
    return images


@pytest.mark.parametrize("shape", [(1, 9, 8), (2, 9, 8), (7, 16, 12)])
def test_smoothing_image_by_image_is_smoothing_all_at_once(shape):
    given = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    np.testing.assert_array_equal(smooth(given, 5), uniform_filter(given, (3, 5, 5), mode="nearest"))


@pytest.mark.parametrize("mode", ["bf", "haadf"])
def test_the_order_of_the_tilts_does_not_matter(mode):
    series = needle(mode, noise=0.1)
    alternating = np.argsort(np.abs(ANGLES), kind="stable")  # as recorded in dose-symmetric schemes
    first, other = (first_plan(s, mode) for s in (series, series.select(alternating)))
    numbers = ("low", "high", "offset", "gain", "scale", "slope", "floor", "dark")
    assert [getattr(first, name) for name in numbers] == pytest.approx([getattr(other, name) for name in numbers])


@pytest.mark.parametrize("mode", ["bf", "haadf"])
def test_pixels_that_were_filled_do_not_count(mode):
    whole = slab(mode, offset=0.1, gain=0.8, depth=0.5)
    valid = np.ones(whole.images.shape, bool)
    valid[:14, :, :18] = valid[14:, :, 22:] = False
    filled = np.where(valid, whole.images, whole.images.max())
    part = TiltSeries(filled, ANGLES, valid=valid)
    found, expected = (estimate_levels(series, mode) for series in (part, whole))
    assert found.depth == pytest.approx(expected.depth, rel=0.05)
    assert decide_mode(part)[0] == mode
