"""First guesses of the noise: slope and floor of its variance, saturation, quantisation, correlation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tiltfield.contrast import smooth_one
from tiltfield.noise import estimate
from tiltfield.noise.estimate import NoiseLine, autocorrelation, estimate_noise, find_recording, scaled
from tiltfield.noise.gaussian import Gaussian
from tiltfield.series import TiltSeries

ANGLES = np.linspace(-60, 60, 9)
LINE = NoiseLine(0.02, 0.004, 0.0)


def clean(seed=0):
    """Smooth images that fill 0 to 1."""
    smooth = gaussian_filter(np.random.default_rng(seed).standard_normal((9, 64, 64)), (0, 8, 8))
    smooth -= smooth.min()
    return smooth / smooth.max()


def noisy(slope, floor, seed=0):
    image = clean(seed)
    rng = np.random.default_rng([seed, 1])
    return (image + np.sqrt(floor + slope * image) * rng.standard_normal(image.shape)).astype(np.float32)


@pytest.mark.parametrize(("slope", "floor"), [(0.02, 0.004), (0.1, 0.01), (0.005, 0.001)])
def test_slope_and_floor_are_recovered(slope, floor):
    line = estimate_noise(noisy(slope, floor))
    assert line.slope == pytest.approx(slope, rel=0.25)
    assert line.floor - line.slope * line.dark == pytest.approx(floor, rel=0.35)
    for intensity in (0.2, 0.5, 0.8):
        assert line.deviation(intensity) == pytest.approx(np.sqrt(floor + slope * intensity), rel=0.1)


def test_noise_that_does_not_depend_on_intensity_has_a_small_slope():
    line = estimate_noise(noisy(0.0, 0.01))
    assert 0 < line.slope < 0.003
    assert line.deviation(0.5) == pytest.approx(0.1, rel=0.1)


def test_some_images_of_a_large_series_tell_its_noise(monkeypatch):
    scene = np.linspace(1, 0.8, 72)[:, None, None] * clean()[0]
    given = scene + np.sqrt(0.004 + 0.02 * scene) * np.random.default_rng(0).standard_normal(scene.shape)
    given = given.astype(np.float32)
    every = estimate_noise(given)
    seen = []
    monkeypatch.setattr(estimate, "ENOUGH", given.size // 2)
    monkeypatch.setattr(estimate, "smooth_one", lambda stack, k, width: seen.append(k) or smooth_one(stack, k, width))
    some = estimate_noise(given)
    assert sorted(seen) == list(range(0, 72, 2))
    for intensity in (0.3, 0.5, 0.7):
        assert some.deviation(intensity) == pytest.approx(every.deviation(intensity), rel=0.02)
    monkeypatch.setattr(estimate, "ENOUGH", 1)
    seen.clear()
    estimate_noise(given)
    assert sorted(seen) == [0, 14, 28, 42, 56, 70]


def test_pixels_that_were_filled_do_not_count():
    given, valid = noisy(0.02, 0.004), np.ones((9, 64, 64), bool)
    valid[:, :, :20] = valid[4:, :, 52:] = False
    filled = np.where(valid, given, 0.5).astype(np.float32)
    line = estimate_noise(filled, valid)
    kept = estimate_noise(given[:, :, 24:48])
    for intensity in (0.2, 0.5, 0.8):
        assert line.deviation(intensity) == pytest.approx(kept.deviation(intensity), rel=0.05)
    assert estimate_noise(filled).slope > 1.5 * line.slope


def test_a_clean_series_still_gives_a_positive_line():
    line = estimate_noise(clean().astype(np.float32))
    assert line.slope > 0
    assert line.floor > 0
    assert line.deviation(0.5) < 0.02


def recording(images, quantum=None, valid=None):
    return find_recording(TiltSeries(images, ANGLES, quantum=quantum, valid=valid), LINE, 0.0, 1.0)


def test_no_saturation_is_found_where_there_is_none():
    found = recording(noisy(0.02, 0.004))
    assert (found.low, found.high, found.quantum) == (None, None, None)


@pytest.mark.parametrize(
    ("low", "high"), [(0.05, np.inf), (-np.inf, 0.9), (0.0, 1.0)], ids=["dark end", "bright end", "both"]
)
def test_clipping_is_found_at_its_end(low, high):
    found = recording(np.clip(noisy(0.02, 0.004), low, high))
    assert found.low == (pytest.approx(low) if np.isfinite(low) else None)
    assert found.high == (pytest.approx(high) if np.isfinite(high) else None)


def test_saturation_is_told_in_the_units_of_the_fit():
    images = 100 + 50 * np.clip(noisy(0.02, 0.004), 0, 1)
    found = find_recording(TiltSeries(images, ANGLES), LINE, 100.0, 150.0)
    assert (found.low, found.high) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_every_saturated_pixel_is_known_in_single_precision(seed):
    """Images are scaled in single precision: the very pixels that saturate must still be told from the others."""
    rng = np.random.default_rng(seed)
    level, span = rng.uniform(-1e4, 6e4), 10 ** rng.uniform(0, 4)
    images = (level + span * np.clip(noisy(0.02, 0.004), *rng.uniform([0.1, 0.7], [0.3, 0.9]))).astype(np.float32)
    low, high = level + span * rng.uniform(-0.05, 0.05), level + span * rng.uniform(0.95, 1.05)
    found = find_recording(TiltSeries(images, ANGLES), LINE, low, high)
    model = Gaussian(0.1, found)
    ends = model._atoms(torch.from_numpy(scaled(images, low, high)))
    counts = [int(saturated.sum()) for saturated, *_ in ends]
    for count, end in zip(counts, (images.min(), images.max()), strict=True):
        true = int((images == end).sum())
        assert true <= count <= true + 3e-4 * images.size  # those within the slack count, too: they are few


def test_counts_that_are_not_clipped_do_not_saturate():
    images = np.random.default_rng(0).poisson(30 * clean() + 10).astype(np.float32)
    found = find_recording(TiltSeries(images, ANGLES, quantum=1.0), LINE, 10.0, 40.0)
    assert (found.low, found.high) == (None, None)


def test_masked_pixels_do_not_saturate():
    images, valid = noisy(0.02, 0.004), np.ones((9, 64, 64), bool)
    images[:, :4] = -5.0
    valid[:, :4] = False
    assert recording(images, valid=valid).low is None


@pytest.mark.parametrize(("quantum", "kept"), [(0.1, True), (0.001, False)])
def test_grey_values_count_only_if_coarse_against_the_noise(quantum, kept):
    images = np.round(noisy(0.02, 0.004) / quantum) * quantum
    assert recording(images, quantum).quantum == (pytest.approx(quantum) if kept else None)


def test_autocorrelation_by_hand():
    # lag 1: products -2, -6, -3, over half of (1 + 4) + (4 + 9) + (9 + 1); lag 2: 3, 2 over half of (1 + 9) + (4 + 1)
    found = autocorrelation(torch.tensor([[1.0, -2.0, 3.0, -1.0]]), 1, 2)
    torch.testing.assert_close(found, torch.tensor([-11 / 14, 5 / 7.5]))
    assert autocorrelation(torch.ones(3, 4), 0, 2).tolist() == [1, 1]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_autocorrelation_is_that_of_the_process_along_its_axis_alone(axis):
    white = torch.randn(60, 60, 60, generator=torch.Generator().manual_seed(0))
    moved = white.movedim(axis, 0)
    series = (moved[2:] + 0.5 * moved[1:-1] + 0.25 * moved[:-2]).movedim(0, axis)
    power = 1 + 0.25 + 0.0625
    for along in range(3):
        expected = [0.625 / power, 0.25 / power, 0] if along == axis % 3 else [0, 0, 0]
        assert autocorrelation(series, along, 3).tolist() == pytest.approx(expected, abs=0.015)


def test_autocorrelation_takes_pairs_of_used_pixels_alone():
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    values[:, 20:] = values[:, :20]
    used = torch.ones(50, 40, dtype=torch.bool)
    used[:, 20:] = False
    torch.testing.assert_close(autocorrelation(values, 1, 4, used), autocorrelation(values[:, :20], 1, 4))
    values[:, 30] = 1e6
    torch.testing.assert_close(autocorrelation(values, 1, 4, used), autocorrelation(values[:, :20], 1, 4))
    assert autocorrelation(values, 1, 2, torch.zeros_like(used)).tolist() == [0, 0]  # nothing is known
