"""Measures against hand-worked numbers and their own laws."""

import math

import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.metrics import (
    affine_fit,
    curve_resolution,
    fsc,
    mse_minmax,
    psnr_affine,
    psnr_minmax,
    ssim,
)

TRUTH = np.array([0.0, 1.0, 2.0, 3.0])


@pytest.fixture
def volume():
    return np.random.default_rng(1).normal(size=(16, 18, 20))


def band_limited(shape, lowest, highest, seed):
    """White noise with only the frequencies (cycles per voxel) in [lowest, highest)."""
    spectrum = np.fft.fftn(np.random.default_rng(seed).normal(size=shape))
    radius = np.sqrt(sum(f**2 for f in np.ix_(*(np.fft.fftfreq(n) for n in shape))))
    return np.fft.ifftn(spectrum * ((radius >= lowest) & (radius < highest))).real


def test_affine_fit_recovers_scale_and_shift(volume):
    scale, shift = affine_fit(volume, 3 * volume - 2)
    assert scale == pytest.approx(3)
    assert shift == pytest.approx(-2)


def test_affine_fit_agrees_with_lstsq(volume):
    other = np.random.default_rng(2).normal(size=volume.shape) + 0.5 * volume
    columns = np.stack([volume.ravel(), np.ones(volume.size)], axis=1)
    np.testing.assert_allclose(affine_fit(volume, other), np.linalg.lstsq(columns, other.ravel(), rcond=None)[0])


def test_affine_fit_of_a_constant_is_the_mean():
    assert affine_fit(np.full(4, 5.0), TRUTH) == (0.0, 1.5)


def test_psnr_affine_by_hand():
    # a constant fits as the mean 1.5: squared errors 2.25, .25, .25, 2.25, mean 1.25; peak 3
    assert psnr_affine(np.ones(4), TRUTH) == pytest.approx(10 * math.log10(9 / 1.25))


def test_psnr_affine_with_mask_keeps_the_peak_of_the_whole():
    mask = np.array([False, True, True, False])
    # over the mask the mean is 1.5 and every squared error .25; the peak stays 3
    assert psnr_affine(np.ones(4), TRUTH, mask) == pytest.approx(10 * math.log10(9 / 0.25))


def test_psnr_affine_ignores_what_lies_outside_the_mask(volume):
    mask = volume > 0
    spoiled = np.where(mask, volume, 1e3) + np.random.default_rng(3).normal(size=volume.shape)
    other = np.where(mask, spoiled, -7.0)
    assert psnr_affine(spoiled, volume, mask) == pytest.approx(psnr_affine(other, volume, mask))


def test_psnr_affine_is_invariant_to_gain_and_offset(volume):
    estimate = volume + np.random.default_rng(4).normal(size=volume.shape)
    assert psnr_affine(-4 * estimate + 9, volume) == pytest.approx(psnr_affine(estimate, volume))


def test_a_perfect_estimate_is_infinitely_good():
    assert psnr_minmax(TRUTH, TRUTH) == math.inf
    assert psnr_affine(TRUTH, TRUTH) == math.inf


def test_minmax_by_hand():
    # scaled: (0, 1, 1, 1) against (0, 1/3, 2/3, 1): squared errors 0, 4/9, 1/9, 0, mean 5/36
    estimate = np.array([2.0, 4.0, 4.0, 4.0])
    assert mse_minmax(estimate, TRUTH) == pytest.approx(5 / 36)
    assert psnr_minmax(estimate, TRUTH) == pytest.approx(10 * math.log10(36 / 5))


def test_minmax_takes_a_constant_estimate_as_zero():
    assert mse_minmax(np.ones(4), TRUTH) == pytest.approx((0 + 1 / 9 + 4 / 9 + 1) / 4)


@pytest.mark.parametrize("scaling", ["affine", "minmax"])
def test_ssim_of_equals_is_one_whatever_the_gain(volume, scaling):
    assert ssim(5 * volume + 1, volume, scaling) == pytest.approx(1)


def test_ssim_falls_with_noise(volume):
    rng = np.random.default_rng(5)
    smooth = band_limited((20, 20, 20), 0, 0.15, 6)
    values = [ssim(smooth + s * smooth.std() * rng.normal(size=smooth.shape), smooth) for s in (0.1, 0.5, 2.0)]
    assert 1 > values[0] > values[1] > values[2] > 0


def test_ssim_takes_images_and_thin_volumes(volume):
    assert ssim(volume[0], volume[0]) == pytest.approx(1)
    assert ssim(volume[:4], volume[:4]) == pytest.approx(1)


def test_ssim_refuses_what_is_too_thin(volume):
    with pytest.raises(InputError, match="at least 3 samples"):
        ssim(volume[:2], volume[:2])


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 15, 15), (8, 13, 20)])
def test_fsc_of_equals_is_one(shape):
    volume = np.random.default_rng(7).normal(size=shape)
    frequency, correlation = fsc(volume, 2 * volume + 5)
    np.testing.assert_allclose(correlation, 1)
    assert frequency[0] == pytest.approx(1 / max(shape))
    assert frequency[-1] == pytest.approx((max(shape) // 2) / max(shape))


def test_fsc_of_independent_noise_scatters_about_zero():
    a, b = (np.random.default_rng(s).normal(size=(32, 32, 32)) for s in (8, 9))
    frequency, correlation = fsc(a, b)
    independent = 2 * np.pi * (32 * frequency) ** 2  # half of the shell: the other half repeats it
    score = correlation * np.sqrt(independent)  # standard normal
    assert abs(score).max() < 4
    assert abs(score.mean()) < 4 / np.sqrt(len(score))


@pytest.mark.parametrize("shape", [(12, 12, 12), (9, 10, 11)])
def test_fsc_from_half_the_spectrum_equals_the_whole_sum(shape):
    a, b = (np.random.default_rng(s).normal(size=shape) for s in (10, 11))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    radius = np.sqrt(sum(f**2 for f in np.ix_(*(np.fft.fftfreq(n) for n in shape)))) * max(shape)
    for k, value in enumerate(fsc(a, b)[1], start=1):
        s = np.rint(radius) == k
        power = (abs(fa[s]) ** 2).sum() * (abs(fb[s]) ** 2).sum()
        assert value == pytest.approx((fa[s] * fb[s].conj()).sum().real / math.sqrt(power))


def test_fsc_of_an_opposite_is_minus_one(volume):
    np.testing.assert_allclose(fsc(volume, -volume)[1], -1)


def test_fsc_of_an_empty_volume_is_zero(volume):
    np.testing.assert_array_equal(fsc(np.zeros_like(volume), volume)[1], 0)


def test_fsc_of_nothing_shared_is_near_zero_where_one_ends():
    low = band_limited((24,) * 3, 0, 0.2, 12)
    _, correlation = fsc(low, low + band_limited((24,) * 3, 0.2, 0.9, 13))
    np.testing.assert_allclose(correlation[:4], 1)
    assert abs(correlation[5:]).max() < 0.5


def test_the_resolution_is_the_end_of_the_shared_band():
    shape = (40, 40, 40)
    shared = band_limited(shape, 0, 0.25, 13)
    a, b = (shared + band_limited(shape, 0.25, 0.9, s) for s in (14, 15))
    assert curve_resolution(*fsc(a, b), 0.5) == pytest.approx(4, rel=0.05)
    assert curve_resolution(*fsc(a, b), 0.5, voxel_size_nm=1.5) == pytest.approx(6, rel=0.05)


def test_curve_resolution_interpolates():
    frequency, correlation = np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.6, 0.2])
    assert curve_resolution(frequency, correlation, 0.5) == pytest.approx(1 / 0.225)
    assert curve_resolution(frequency, correlation, 0.95, 2.0) == pytest.approx(2 / 0.05)


def test_a_curve_that_never_falls_gives_nyquist(volume):
    assert curve_resolution(*fsc(volume, volume), 0.143) == pytest.approx(2)
    assert curve_resolution(*fsc(volume, volume), 0.143, 1.5) == pytest.approx(3)


@pytest.mark.parametrize("measure", [affine_fit, psnr_affine, psnr_minmax, mse_minmax, ssim, fsc])
def test_shapes_must_agree(measure, volume):
    with pytest.raises(InputError, match=r"\(16, 18, 19\).*\(16, 18, 20\)"):
        measure(volume[..., 1:], volume)


@pytest.mark.parametrize("measure", [psnr_affine, psnr_minmax, mse_minmax, ssim])
def test_a_constant_truth_is_refused(measure, volume):
    with pytest.raises(InputError, match="truth is constant"):
        measure(volume, np.zeros_like(volume))


def test_an_empty_mask_is_refused(volume):
    with pytest.raises(InputError, match="mask is empty"):
        psnr_affine(volume, volume, np.zeros(volume.shape, bool))
