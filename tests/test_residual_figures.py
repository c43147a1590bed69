"""Figures of the residuals: by hand for tilts, by known noise for the noise model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tiltfield.fields.base import Box
from tiltfield.noise import Start, make_noise
from tiltfield.problem import Problem, held_out_pixels
from tiltfield.residuals import CALIBRATION_BINS, noise_figures, solution_figures, tilt_figures
from tiltfield.series import TiltSeries

SLOPE, FLOOR = 0.02, 0.004
LOW, HIGH = 100.0, 600.0  # what 0 and 1 of the fit's units are in the units of the data


def small_series(images, **fields):
    return TiltSeries(np.asarray(images, np.float32), np.array([-10.0, 0.0, 20.0]), **fields)


def test_figures_of_tilts_by_hand():
    rendered = np.full((3, 1, 2), 4.0, np.float32)
    series = small_series([[[5, 3]], [[4, 7]], [[2, 4]]], numbers=np.array([1, 2, 4]))
    held = np.array([[[False, True]], [[False, True]], [[False, False]]])
    figures = tilt_figures(series, rendered, (np.array([0.0, 8.0]), np.array([0.0, 4.0])), held=held)  # σ = 2 at 4
    assert figures["number"] == [1, 2, 4]
    assert figures["angle_deg"] == [-10.0, 0.0, 20.0]
    assert figures["chi2"] == pytest.approx([0.25, 9 / 8, 0.5])
    assert figures["rmse"] == pytest.approx([1, np.sqrt(4.5), np.sqrt(2)], rel=1e-4)
    assert figures["heldout_chi2"] == [0.25, 2.25, None]
    assert figures["heldout_rmse"] == [1.0, 3.0, None]
    assert figures["mean"] == [4.0, 5.5, 3.0]
    assert figures["mean_residual"] == [0.0, 1.5, -1.0]


def test_pixels_that_are_not_valid_do_not_count():
    valid = np.ones((3, 1, 2), bool)
    valid[1, 0, 1] = False
    series = small_series([[[5, 3]], [[4, 99]], [[2, 4]]], valid=valid)
    figures = tilt_figures(series, np.full((3, 1, 2), 4.0, np.float32))
    assert figures["rmse"][1] == 0.0
    assert figures["mean"][1] == 4.0


def test_without_a_noise_model_the_errors_are_relative_to_their_mean():
    series = small_series(np.random.default_rng(0).normal(5, [[[1]], [[1]], [[3]]], (3, 20, 20)))
    figures = tilt_figures(series, np.full((3, 20, 20), 5.0, np.float32))
    assert np.mean(figures["chi2"]) == pytest.approx(1.0, rel=1e-3)
    assert figures["chi2"][2] == pytest.approx(9 * figures["chi2"][0], rel=0.3)
    assert figures["heldout_chi2"] == [None, None, None]


def noise_model(name="poisson-gaussian", slope=SLOPE):
    generator = torch.Generator().manual_seed(0)
    return make_noise(name, Start(slope, FLOOR, 0.0, -0.1, 1.1, generator))


def fitted(model, drawn_from=None, shape=(40, 11, 60), scan=None):
    """A fit whose clean images are the true ones; its noise is drawn from a model, its own if none is given."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(shape, generator=generator)
    observed = (drawn_from or model).sample(clean, generator)
    held, near = held_out_pixels(shape, scan, 0)
    problem = Problem(observed, ~held & ~near, held, None, Box(4, shape[0], shape[2]), 0.1)
    plan = SimpleNamespace(low=LOW, high=HIGH)
    return SimpleNamespace(problem=problem, clean=clean, state=SimpleNamespace(noise=model), plan=plan)


def test_the_true_model_is_found_calibrated():
    figures = noise_figures(fitted(noise_model()))
    n = figures["pixels"]
    assert figures["calibration_gap"] < 1.63 / np.sqrt(n)  # Kolmogorov, one time in a hundred
    assert sum(figures["calibration"]) == pytest.approx(1.0)
    assert len(figures["calibration"]) == CALIBRATION_BINS
    variance = figures["variance"]
    law = (SLOPE * (np.array(variance["intensity"]) - LOW) / (HIGH - LOW) + FLOOR) * (HIGH - LOW) ** 2
    np.testing.assert_allclose(variance["seen"], law, rtol=0.5)
    np.testing.assert_allclose(variance["model"], law, rtol=0.2)


def test_a_model_of_too_little_noise_is_found_out():
    truth = noise_model(slope=4 * SLOPE)
    figures = noise_figures(fitted(noise_model(), drawn_from=truth))
    assert figures["calibration_gap"] > 0.08
    assert np.mean(figures["variance"]["seen"]) > 2 * np.mean(figures["variance"]["model"])


def test_densities_integrate_to_the_share_of_noise_that_is_shown():
    for density in noise_figures(fitted(noise_model()))["density"]:
        width = (density["high"] - density["low"]) / len(density["seen"])
        assert sum(density["seen"]) * width == pytest.approx(0.996, abs=0.01)
        assert 0.93 < sum(density["model"]) * width < 1
        assert np.abs(np.cumsum(np.subtract(density["seen"], density["model"])) * width).max() < 0.12


def test_correlation_along_the_scan_is_seen_and_gone_when_whitened():
    model = noise_model("scan-poisson-gaussian")
    model.correlate_(torch.tensor([0.5, 0.25, 0.12, 0.06]))
    lags = noise_figures(fitted(model, scan=2))["autocorrelation"]
    assert lags["x"][0] == pytest.approx(0.5, abs=0.03)
    assert abs(lags["y"][0]) < 0.03
    assert abs(lags["white_x"][0]) < 0.03


def test_few_pixels_say_nothing():
    assert noise_figures(fitted(noise_model(), shape=(8, 3, 8))) == {}


def test_figures_of_a_fit_are_in_units_of_the_data_and_make_json():
    solution = fitted(noise_model())
    images, rendered = (
        (part.permute(1, 0, 2).numpy() * (HIGH - LOW) + LOW).astype(np.float32)
        for part in (solution.problem.observed, solution.clean)
    )
    series = TiltSeries(images, np.linspace(-50, 50, len(images)))
    figures = solution_figures(series, solution, rendered, noisy=True)
    json.dumps(figures, allow_nan=False)
    tilts = figures["tilts"]
    np.testing.assert_allclose(tilts["chi2"], 1, atol=0.12)
    np.testing.assert_allclose(tilts["heldout_chi2"], 1, atol=0.6)
    np.testing.assert_allclose(tilts["mean"], (LOW + HIGH) / 2, rtol=0.05)
    denoised = solution_figures(replace(series, images=rendered + 1), solution, rendered, noisy=False)["tilts"]
    np.testing.assert_allclose(denoised["chi2"], 1, atol=1e-3)
