"""The paper's methods: its own numbers at its own size, the rule for others, and every method by name."""

import copy
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from tiltfield import neural
from tiltfield.config import PUBLISHED, Explicit, Implicit, ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.noise import NoiseFile, Start, make_noise, save_noise
from tiltfield.noise.paper import PaperFlow
from tiltfield.observe import Observer
from tiltfield.published import RECIPES, Scaled, hold_out_tilts, prepare
from tiltfield.reconstruct import forecast, reconstruct

CPU = torch.device("cpu")
QUICK = {"steps": 8, "mode": "bf", "device": "cpu"}
SMALL = QUICK | {"features": 16}


def prepared(series, **settings):
    return prepare(series, ReconstructConfig(steps=400, **settings), "bf", CPU)


@pytest.fixture
def noise_file(tmp_path):
    model = PaperFlow(0.2, generator=torch.Generator().manual_seed(0))
    save_noise(tmp_path / "noise.json", NoiseFile(model, -0.5, 1.5))
    return tmp_path / "noise.json"


def test_at_the_papers_size_the_numbers_are_the_papers():
    scaled = Scaled.to((67, 1000, 1000), None)
    assert scaled == Scaled(steps=400_000, rays=512, samples=(64, 128), octaves=(5, 10), faster=1.0)


def test_smaller_images_are_seen_as_often_with_samples_as_dense():
    scaled = Scaled.to((67, 96, 96), None)
    assert (scaled.rays, scaled.samples, scaled.octaves) == (128, (8, 16), (2, 7))
    assert scaled.steps * scaled.rays / (67 * 96**2) == pytest.approx(400_000 * 512 / 67e6, rel=1e-3)
    assert scaled.faster == 400_000 / scaled.steps
    assert Scaled.to((67, 96, 96), 100).faster == 4000


def test_every_published_method_has_a_recipe():
    assert set(RECIPES) == set(PUBLISHED) == {*get_args(Implicit), *get_args(Explicit)}


def test_the_field_is_the_papers(cell):
    _, problem, schedule, state = prepared(cell().series(), method="ours")
    fine, coarse = state.field.fine, state.field.coarse
    assert [len(w) for w in fine.weights] == [256] * 9 + [1]
    assert [len(w) for w in coarse.weights] == [256] * 3 + [1]
    assert fine.scale == pytest.approx(2 * 7 / 24)  # exp(-7 ∫ρ dl) over a box of edge 2
    assert problem.box.shape == (24, 24, 24)
    assert (state.contrast.offset.item(), state.contrast.gain.item()) == (0.0, 1.0)
    assert len(state.noise.free) == 4
    adam, descent = state.optimisers
    assert (adam.param_groups[0]["lr"], descent.param_groups[0]["lr"]) == (5e-4, 5e-4)
    assert (descent.param_groups[0]["momentum"], descent.param_groups[0]["weight_decay"]) == (0.9, 1e-3)
    assert schedule.plain_steps == 100


def test_capacities_are_as_asked(cell):
    _, _, _, state = prepared(cell().series(), method="ours", features=32, flow_layers=16)
    assert {len(w) for w in state.field.fine.weights[:-1]} == {32}
    assert len(state.noise.free) == 8


@pytest.mark.parametrize(("n_tilts", "held"), [(67, [5, 15, 25, 35, 45, 55, 65]), (7, [3]), (3, [1])])
def test_every_tenth_tilt_is_held_out(cell, n_tilts, held):
    series = cell(tilts=f"-33:33:{66 / (n_tilts - 1)}").series()
    _, problem, _, _ = prepared(series, method="l2-noisy")
    assert problem.held.all(dim=2).all(dim=0).nonzero().flatten().tolist() == held
    assert torch.equal(problem.used, ~problem.held)
    assert torch.equal(hold_out_tilts(problem).held, problem.held)


def test_images_are_scaled_to_their_extremes_and_the_flow_starts_at_the_noise(cell):
    series = cell().series()
    plan, problem, _, state = prepared(series, method="ours")
    assert problem.observed.min().item() == 0
    assert problem.observed.max().item() == pytest.approx(1, abs=1e-6)
    drawn = state.noise.sample(torch.full((4000,), 0.5), torch.Generator().manual_seed(0)) - 0.5
    mid = (plan.high + plan.low) / 2
    noise = (cell().noisy - cell().clean)[np.abs(cell().clean - mid) < 0.1] / (plan.high - plan.low)
    assert float(drawn.std()) == pytest.approx(noise.std(), rel=0.35)


@pytest.mark.parametrize("method", [m for m in PUBLISHED if m not in ("ours-sup", "l2-den", "l2-blur+")])
def test_every_method_gives_a_volume_and_its_images(cell, method):
    series = cell().series()
    result = reconstruct(series, method=method, **(QUICK if RECIPES[method].explicit else SMALL))
    assert result.volume.data.shape == (24, 24, 24)
    assert np.isfinite(result.volume.data).all()
    assert result.volume.data.min() >= 0
    assert result.rendered.shape == series.images.shape
    assert result.metrics["steps"] == 8
    assert result.metrics["noise"]["model"] == RECIPES[method].noise


def test_a_known_noise_stays_what_it_is(cell, noise_file):
    result = reconstruct(cell().series(), method="ours-sup", noise=str(noise_file), **SMALL)
    begin = prepared(cell().series(), method="ours-sup", noise=str(noise_file))[3].noise.state_dict()
    assert all(torch.equal(begin[name], value) for name, value in result.state["fit"]["noise"].items())


def test_of_noise_that_correlates_along_the_scan_rays_take_the_law_of_single_pixels(cell, tmp_path):
    start = Start(0.02, 0.02, 0.0, 0.0, 1.0, torch.Generator().manual_seed(0))
    model = make_noise("scan-flow", start)
    save_noise(tmp_path / "scan.json", NoiseFile(model, 0.0, 1.0))
    noise = prepared(cell().series(), method="ours-sup", noise=str(tmp_path / "scan.json"))[3].noise
    assert noise.axis is None
    observed, clean = torch.rand(2, 50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(noise.log_prob(observed, clean)[[7, 3]], noise.log_prob(observed[[7, 3]], clean[[7, 3]]))


def test_a_known_noise_need_not_know_the_extremes_of_noisy_images(cell, tmp_path):
    save_noise(tmp_path / "n.json", NoiseFile(PaperFlow(0.5, generator=torch.Generator().manual_seed(0)), 0.0, 1.0))
    series = cell(snr=0.15).series()
    assert np.ptp(series.images) > 2.2  # of clean images between 0 and 1
    prepared(series, method="ours-sup", noise=str(tmp_path / "n.json"))
    save_noise(tmp_path / "far.json", NoiseFile(PaperFlow(0.5, generator=torch.Generator()), 5.0, 9.0))
    with pytest.raises(InputError, match="fitted at intensities"):
        prepared(series, method="ours-sup", noise=str(tmp_path / "far.json"))


def test_a_series_whose_held_out_tilts_are_masked_is_refused(cell):
    series = cell().series()
    valid = np.ones(series.images.shape, bool)
    valid[5::10] = False
    with pytest.raises(InputError, match="every tenth tilt"):
        prepared(replace(series, valid=valid), method="l2-noisy")


def test_haadf_is_a_line_integral(cell):
    result = reconstruct(cell(mode="haadf").series(), method="l2-noisy", **(SMALL | {"mode": "haadf"}))
    assert result.metrics["gain"] > 0
    assert np.corrcoef(result.rendered.ravel(), cell(mode="haadf").clean.ravel())[0, 1] > 0


def test_plain_squares_come_near_the_truth_of_clean_images(cell):
    """More steps, a smaller error: by then the images are explained to less than a tenth of their range."""
    made = cell()
    series, errors = replace(made.series(), images=made.clean), []
    for steps in (10, 300):
        result = reconstruct(series, method="l2-clean", **(QUICK | {"steps": steps, "features": 32}))
        errors.append(float(np.sqrt(np.mean((result.rendered - made.clean) ** 2))))
    assert errors[1] < 0.09 < 1.5 * errors[1] < errors[0]


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(cell, monkeypatch):
    monkeypatch.setattr(neural, "FIRST_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(neural, "CHECKPOINT_SECONDS", 0.0)

    class Keeper(Observer):
        def __init__(self):
            self.states = []

        def checkpoint(self, state):
            self.states.append(copy.deepcopy(state))

    settings = SMALL | {"steps": 110}
    keeper = Keeper()
    whole = reconstruct(cell().series(), method="ours", observer=keeper, **settings)
    resumed = reconstruct(cell().series(), method="ours", resume=keeper.states[104], **settings)
    np.testing.assert_array_equal(whole.volume.data, resumed.volume.data)


def test_a_time_limit_compresses_the_schedule(cell):
    result = reconstruct(cell().series(), method="l2-noisy", features=16, steps=10**6, mode="bf", max_time=6.0)
    assert result.metrics["outcome"] == "finished"
    assert result.metrics["seconds"] < 8
    assert result.metrics["steps"] < 10**5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ours", "field": "mlp"}, "does not take field"),
        ({"method": "l2-noisy", "tv_weight": 0.1}, "does not take tv_weight"),
        ({"method": "ours-sup"}, "needs a fitted noise model"),
        ({"method": "l2-blur+"}, "needs to know the blur"),
        ({"method": "ours", "defocus": "linear:2"}, "knows of no blur"),
        ({"method": "neural", "steps": 10}, "does not take steps"),
        ({"defocus": "linear"}, "linear:2"),
        ({"flow_layers": 3}, "multiple of 2"),
        ({"flow_layers": 4, "noise": "gaussian"}, "has no flow_layers"),
        ({"features": 4, "field": "voxels"}, "voxels have no features"),
        ({"method": "explicit-l2", "reduced": True}, "does not take reduced"),
        ({"method": "ours", "wbp_filter": "ram-lak"}, "does not take wbp_filter"),
    ],
)
def test_settings_that_mean_nothing_to_a_method_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ReconstructConfig.parse(settings, "settings")


def test_a_grid_of_512_voxels_is_forecast_to_fit_a_workstation():
    shape = (67, 512, 512)
    plain = forecast(shape, ReconstructConfig(method="explicit-l2"))
    weighed = forecast(shape, ReconstructConfig(method="explicit-l2", tv_weight=0.05))
    assert 32 * 512**3 < plain.memory_bytes < weighed.memory_bytes < 20 * 2**30
    assert math.isfinite(plain.seconds)


def test_forecasts_know_of_width_blur_and_denoising():
    shape = (67, 96, 96)
    plain, large = (forecast(shape, ReconstructConfig(features=n)) for n in (None, 64))
    assert large.memory_bytes > 2 * plain.memory_bytes
    assert large.seconds > plain.seconds
    assert forecast(shape, ReconstructConfig(defocus="linear:8")).seconds > 1.5 * plain.seconds
    narrow, wide = (forecast(shape, ReconstructConfig(method="ours", features=n)).seconds for n in (128, 256))
    assert wide > 2 * narrow
    sharp, denoised = (forecast(shape, ReconstructConfig(method=m)).seconds for m in ("wbp", "wbp-den"))
    assert denoised > 10 + sharp
