"""The closed form against a linear solve; what learned Wiener filters keep, and what they gain on simulated noise."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tiltfield.denoise import denoise, wiener
from tiltfield.denoise.stabilise import Stabiliser, deviation
from tiltfield.denoise.wiener import (
    DeepWiener,
    deep_wiener,
    load_deep_wiener,
    normalised,
    restore,
    save_deep_wiener,
    solve,
    weights_path,
)
from tiltfield.errors import InputError
from tiltfield.noise.estimate import NoiseLine
from tiltfield.series import TiltSeries
from tiltfield.simulate import NoiseLaw

CPU = torch.device("cpu")
NOISES = ("gaussian", "poisson")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def answers(image, kernel):
    """The kernel's answer at each pixel of a periodic image, by the sum that it is."""
    half = kernel.shape[-1] // 2
    shifts = [(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
    return sum(kernel[i + half, j + half] * torch.roll(image, (-i, -j), (-2, -1)) for i, j in shifts)


def matrix(kernel, shape):
    units = torch.eye(math.prod(shape), dtype=kernel.dtype).reshape(-1, *shape)
    return answers(units, kernel).flatten(1).T


@pytest.mark.parametrize("with_targets", [False, True])
def test_the_closed_form_is_the_solution_of_the_linear_system(generator, with_targets):
    shape, float64 = (6, 7), torch.float64
    kernels = torch.randn(3, 5, 5, generator=generator, dtype=float64)
    weights = torch.rand(2, 3, generator=generator, dtype=float64)
    image = torch.randn(2, 1, *shape, generator=generator, dtype=float64)
    targets = torch.randn(2, 3, *shape, generator=generator, dtype=float64) if with_targets else None
    found = solve(image, kernels, weights, targets)
    rows = [matrix(kernel, shape) for kernel in kernels]
    for b in range(2):
        system = torch.eye(42, dtype=float64) + sum(w * g.T @ g for w, g in zip(weights[b], rows, strict=True))
        right = image[b].flatten()
        if targets is not None:
            right = right + sum(w * g.T @ f.flatten() for w, g, f in zip(weights[b], rows, targets[b], strict=True))
        torch.testing.assert_close(found[b].flatten(), torch.linalg.solve(system, right), rtol=1e-10, atol=1e-10)


def test_targets_that_the_image_meets_leave_it_as_it_is(generator):
    kernels = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    image = torch.randn(1, 1, 9, 8, generator=generator, dtype=torch.float64)
    met = torch.cat([answers(image, kernel) for kernel in kernels], 1)
    found = solve(image, kernels, torch.full((1, 3), 5.0, dtype=torch.float64), met)
    torch.testing.assert_close(found, image, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noise", NOISES)
def test_a_constant_image_stays_and_the_mean_of_any_is_kept(noise, generator):
    model, log_snr = load_deep_wiener(noise), torch.zeros(1)
    constant = torch.full((1, 1, 24, 16), 7.5)
    torch.testing.assert_close(model(constant, log_snr), constant, rtol=1e-4, atol=1e-4)
    image = 3 + torch.randn(1, 1, 24, 16, generator=generator)
    torch.testing.assert_close(model(image, log_snr).mean(), image.mean(), rtol=1e-5, atol=1e-5)


def test_the_model_turns_with_a_periodic_image(generator):
    model, image = load_deep_wiener("gaussian"), torch.randn(1, 1, 32, 24, generator=generator)
    shifted = torch.roll(image, (8, 16), (-2, -1))
    expected = torch.roll(model(image, torch.zeros(1)), (8, 16), (-2, -1))
    torch.testing.assert_close(model(shifted, torch.zeros(1)), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_kernels_weights_and_network(generator):
    model = DeepWiener(n_kernels=4, widths=(3, 4))
    model(torch.randn(2, 1, 16, 16, generator=generator), torch.ones(2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert model.kernels.mean((-2, -1)).abs().max() < 1e-6


def test_weights_fall_with_the_signal():
    model = DeepWiener(n_kernels=2)
    weak, strong = model.weights(torch.tensor([-1.0, 1.0])).unbind(1)
    torch.testing.assert_close(weak / strong, torch.full((4, 2), math.exp(2)))


# ---- noise ---------------------------------------------------------------------------------------------------------


def test_the_stabiliser_makes_the_deviation_one_and_its_inverse_is_unbiased():
    rng = np.random.default_rng(0)
    law = NoiseLaw(slope=0.02, floor=0.0008, dark=-0.1)
    transform = Stabiliser(NoiseLine(law.slope, law.floor, law.dark))
    for clean in (0.05, 0.3, 1.0):  # 7.5, 20 and 55 counts
        stable = transform.forward(torch.from_numpy(law.draw(np.full(200_000, clean), rng)))
        assert stable.std() == pytest.approx(1, abs=0.04)
        assert transform.back(stable.mean()) == pytest.approx(clean, abs=0.003)


def test_no_counts_come_back_as_none():
    transform = Stabiliser(NoiseLine(slope=2.0, floor=1e-9, dark=5.0))
    assert transform.back(torch.tensor(0.0)) == pytest.approx(5.0, abs=1e-5)


def test_the_deviation_of_white_noise_is_found():
    noise = 3 * np.random.default_rng(0).standard_normal((4, 64, 64)).astype(np.float32)
    slope = np.linspace(0, 500, 64, dtype=np.float32)
    assert deviation(noise + slope) == pytest.approx(3, rel=0.06)


def test_empty_places_do_not_hide_the_noise():
    images = np.zeros((3, 64, 64), np.float32)
    assert deviation(images) == 0
    images[:, :, :20] = np.random.default_rng(0).standard_normal((3, 64, 20))
    assert deviation(images) == pytest.approx(1, rel=0.15)


def test_units_and_signal_to_noise_of_images():
    image = 4 * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    scaled, log_snr, unit = normalised(image, 2.0)
    assert unit.item() == pytest.approx(2)
    assert log_snr.exp().item() == pytest.approx(3, rel=0.1)
    torch.testing.assert_close(scaled * unit, image)
    assert normalised(image, 0.0)[1].exp().item() == pytest.approx(30, rel=1e-3)


# ---- series --------------------------------------------------------------------------------------------------------


def noisy(sim, law):
    """The series of a simulation with noise of a law drawn anew."""
    return replace(sim.series(), images=law.draw(sim.clean, np.random.default_rng(7)))


@pytest.fixture(scope="module")
def sim(cell):
    return cell(size=64, cell="paper", tilts="-60:60:15", noise="none", seed=4)


def error(images, sim):
    return float(np.mean((images - sim.clean) ** 2))


def best_gaussian(images, sim):
    return min(error(gaussian_filter(images, (0, w, w)), sim) for w in (0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0))


GAUSSIAN_LAW = NoiseLaw(0.0, 0.01)
POISSON_LAW = NoiseLaw(0.06, 1e-4)


@pytest.mark.parametrize(("noise", "law", "factor"), [("gaussian", GAUSSIAN_LAW, 5.5), ("poisson", POISSON_LAW, 7)])
def test_shipped_weights_lower_the_error_more_than_the_best_gaussian_filter(sim, noise, law, factor):
    series = noisy(sim, law)
    before, after = error(series.images, sim), error(deep_wiener(series, noise, CPU), sim)
    filtered = best_gaussian(series.images, sim)
    assert after < before / factor
    assert after < 0.87 * filtered


def test_noise_that_follows_the_signal_is_for_the_poisson_variant(sim):
    series = noisy(sim, POISSON_LAW)
    poisson, gaussian = (error(deep_wiener(series, noise, CPU), sim) for noise in ("poisson", "gaussian"))
    assert poisson < 0.9 * gaussian


@pytest.mark.parametrize("noise", NOISES)
def test_units_of_the_intensity_do_not_matter(sim, noise):
    series = noisy(sim, POISSON_LAW)
    expected = 2500 + 3000 * deep_wiener(series, noise, CPU)
    found = deep_wiener(replace(series, images=2500 + 3000 * series.images), noise, CPU)
    np.testing.assert_allclose(found, expected, atol=3)


@pytest.mark.parametrize("noise", NOISES)
def test_the_denoisers_are_these_filters(sim, noise):
    series = noisy(sim, POISSON_LAW)
    images = deep_wiener(series, noise, CPU)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(denoise(series, f"dwk-{noise[0]}").images, images)


def test_what_a_masked_pixel_holds_does_not_matter(sim):
    series = noisy(sim, POISSON_LAW)
    valid = np.ones(series.images.shape, bool)
    valid[2, 10, 12] = False
    wrong = series.images.copy()
    wrong[2, 10, 12] = 1e4
    first, second = (denoise(replace(series, images=images, valid=valid), "dwk-p") for images in (series.images, wrong))
    np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (33, 64)])
def test_images_of_any_size_are_done_each_by_itself(shape):
    images = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    series = TiltSeries(images, np.array([-10.0, 0, 10]))
    denoised = deep_wiener(series, "gaussian", CPU)
    assert denoised.shape == images.shape
    assert denoised.std() < 0.5 * images.std()
    turned = deep_wiener(series.select([2, 0, 1]), "gaussian", CPU)
    np.testing.assert_allclose(turned, denoised[[2, 0, 1]], atol=1e-5)


def test_clean_images_change_little(sim):
    change = error(deep_wiener(sim.series(), "gaussian", CPU), sim)
    assert change < 0.005 * float(sim.clean.var())


def test_without_noise_nothing_changes(generator):
    image = torch.randn(1, 1, 16, 16, generator=generator)
    torch.testing.assert_close(restore(image, 0.0, load_deep_wiener("gaussian"), 8), image)


def test_batches_do_not_matter(sim, monkeypatch):
    series = noisy(sim, GAUSSIAN_LAW)
    expected = deep_wiener(series, "gaussian", CPU)
    monkeypatch.setattr(wiener, "_BATCH", 1)
    np.testing.assert_allclose(deep_wiener(series, "gaussian", CPU), expected, atol=1e-5)


def test_input_that_cannot_be_used_is_named(sim):
    with pytest.raises(InputError, match="expected noise of poisson or gaussian, got 'salt'"):
        deep_wiener(sim.series(), "salt", CPU)
    small = TiltSeries(np.random.default_rng(0).random((3, 15, 20)), np.array([-10.0, 0, 10]))
    with pytest.raises(InputError, match="at least 16 x 16 pixels, got 15 x 20"):
        deep_wiener(small, "gaussian", CPU)


# ---- weights -------------------------------------------------------------------------------------------------------


def test_shipped_files_are_small_and_told_of():
    assert sum(weights_path(noise).stat().st_size for noise in NOISES) < 500_000
    record = json.loads(weights_path("gaussian").with_name("dwk.json").read_text())
    for noise in NOISES:
        assert record[noise]["weights"] == sum(p.numel() for p in load_deep_wiener(noise).parameters())
        for figures in record[noise]["validation_psnr_db"].values():
            assert figures["restored"] > figures["gaussian_filter"] > figures["noisy"]


def test_weights_are_kept_in_half_precision(tmp_path, generator):
    model = load_deep_wiener("poisson")
    save_deep_wiener(model, tmp_path / weights_path("poisson").name)
    again = load_deep_wiener("poisson", tmp_path)
    image = torch.randn(1, 1, 16, 16, generator=generator)
    torch.testing.assert_close(again(image, torch.zeros(1)), model(image, torch.zeros(1)))
