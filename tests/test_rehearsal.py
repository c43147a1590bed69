"""What a block of slices tells before the fit: how noise is correlated, so which model and which held-out pixels."""

import functools

import numpy as np
import pytest
import torch

from tiltfield.coarse import find_plan
from tiltfield.config import ReconstructConfig, SimulateConfig
from tiltfield.errors import InputError
from tiltfield.noise import NoiseFile, save_noise
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.noise.scan import Scan
from tiltfield.observe import Observer
from tiltfield.plan import make_problem, new_noise
from tiltfield.problem import HELD_OUT, held_out_pixels
from tiltfield.rehearsal import _at_the_end, rehearse
from tiltfield.series import TiltSeries
from tiltfield.simulate import simulate

CPU = torch.device("cpu")
FIXED = {"tv_weight": 1.0, "field": "voxels"}  # no trials of weights


class Listener(Observer):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@functools.cache
def series(correlation=0.0, axis="x", mode="haadf"):
    """Images of a cell of 48³ voxels at SNR 1."""
    made = SimulateConfig(
        size=48, tilts="-60:60:4", mode=mode, snr=1.0, scan_correlation=correlation, scan_axis=axis, noise="gaussian"
    )
    return simulate(made).series()


@functools.cache
def planned(*args, **options):
    images = series(*args, **options)
    return images, find_plan(images, ReconstructConfig(), options.get("mode", "haadf"), CPU, Observer())


def found(config, *args, **options):
    images, plan = planned(*args, **options)
    listener = Listener()
    problem = make_problem(images, plan, config.seed, CPU, mask_sides=False)
    return *rehearse(problem, plan, config, CPU, listener), "\n".join(listener.said)


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_white_noise_is_taken_for_independent(mode):
    problem, plan, said = found(ReconstructConfig(**FIXED), mode=mode)
    assert (plan.scan, plan.noise) == (None, "flow")
    assert "noise is taken as independent" in said
    assert (problem.used | problem.held).all()


@pytest.mark.parametrize(("axis", "dimension"), [("x", 2), ("y", 0)])
def test_correlated_noise_and_its_axis_are_found(axis, dimension):
    problem, plan, said = found(ReconstructConfig(**FIXED), 0.5, axis)
    assert (plan.scan, plan.noise) == (dimension, "scan-flow")
    assert f"the scan runs along {axis}" in said
    assert plan.correlation[0] == pytest.approx(0.5, abs=0.12)  # with what the fit leaves unexplained
    expected, near = held_out_pixels(tuple(problem.held.shape), dimension, 0, plan.guard)
    assert torch.equal(problem.held, expected)
    assert torch.equal(problem.used, ~expected & ~near)
    assert problem.held.double().mean() == pytest.approx(HELD_OUT, rel=0.1)


def test_a_model_that_is_asked_for_is_kept_and_judged_by_runs():
    problem, plan, _ = found(ReconstructConfig(noise="gaussian", **FIXED), 0.5)
    assert (plan.scan, plan.noise) == (2, "gaussian")
    assert not (problem.used | problem.held).all()


def test_the_scan_model_starts_from_the_correlation_that_was_seen():
    _, plan, _ = found(ReconstructConfig(**FIXED), 0.5)
    model = new_noise(plan, plan.noise, torch.Generator().manual_seed(0))
    assert isinstance(model, Scan)
    assert model.axis == 2
    torch.testing.assert_close(model.autocorrelation(4), torch.tensor(plan.correlation), rtol=0, atol=1e-4)


def test_interpolated_noise_is_no_scan():
    """Images that were shifted by half a pixel when they were aligned correlate along both axes."""
    images = series().images
    images = (images + np.roll(images, 1, axis=1)) / 2
    images = (images + np.roll(images, 1, axis=2)) / 2
    aligned = TiltSeries(images, series().angles_deg)
    plan = find_plan(aligned, ReconstructConfig(), "haadf", CPU, Observer())
    problem = make_problem(aligned, plan, 0, CPU, mask_sides=False)
    assert rehearse(problem, plan, ReconstructConfig(**FIXED), CPU, Observer())[1].scan is None


def test_a_fitted_model_is_taken_as_it_is(tmp_path):
    fitted = Scan(PoissonGaussian(0.02, 1e-3, 0.0), axis=-1)
    fitted.correlate_(torch.tensor([0.4, 0.1, 0.0, 0.0]))
    path = save_noise(tmp_path / "noise.json", NoiseFile(fitted, 0.0, 1.0))
    _, plan, _ = found(ReconstructConfig(noise=str(path), **FIXED), 0.5, "y")
    model = new_noise(plan, plan.noise, torch.Generator())
    assert model.axis == 0  # as seen in this series, whichever way it was turned
    assert not any(p.requires_grad for p in model.parameters())
    assert model.groups(1e-3) == []
    there = torch.linspace(0, 1, 5)
    expected = fitted.deviation(there * (plan.high - plan.low) + plan.low) / (plan.high - plan.low)
    torch.testing.assert_close(model.deviation(there), expected, rtol=1e-4, atol=0)


def test_a_model_of_other_intensities_is_refused(tmp_path):
    path = save_noise(tmp_path / "noise.json", NoiseFile(PoissonGaussian(1.0, 1.0), 2000.0, 5000.0))
    with pytest.raises(InputError, match="fitted at intensities from 2000 to 5000, the images have"):
        found(ReconstructConfig(noise=str(path), **FIXED))


@pytest.mark.parametrize(
    ("weight", "scores", "words"),
    [(1.0, (2.0, 1.0, 0.5), ""), (2.0, (2.0, 1.0), "a stronger"), (0.5, (1.0, 0.5), "a weaker"), (1.0, (1.0,), "")],
)
def test_a_weight_at_the_end_of_those_tried_is_told(weight, scores, words):
    said = _at_the_end(weight, scores)
    assert words in said
    assert bool(said) == bool(words)
