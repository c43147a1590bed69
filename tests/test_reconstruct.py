"""From a series to a volume, by every method, field and noise model: shapes, figures, limits, and that it works."""

import copy
import functools
import json
import time

import numpy as np
import pytest
import torch

from tiltfield import coarse, fields, neural, schedule
from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.fields.mlp import MLP
from tiltfield.fit import Outcome
from tiltfield.noise import NOISES, NoiseFile, save_noise
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.noise.scan import Scan
from tiltfield.observe import Observer
from tiltfield.reconstruct import pick_device, reconstruct
from tiltfield.schedule import PASSES
from tiltfield.series import TiltSeries

METHODS = ("neural", "wbp", "sirt")
QUICK = {"preset": "draft", "tv_weight": 1.0, "device": "cpu"}


class Keeper(Observer):
    """Keeps every checkpoint and message."""

    def __init__(self):
        self.states, self.said = [], []

    def say(self, message):
        self.said.append(message)

    def checkpoint(self, state):
        self.states.append(copy.deepcopy(dict(state)))


@pytest.fixture
def quick(monkeypatch):
    """Make the neural fit a matter of a second: the outcome has the right form, no more."""
    monkeypatch.setitem(PASSES, "draft", 2)
    monkeypatch.setattr(schedule, "FEWEST_STEPS", 0)
    small = functools.partial(MLP, width=16, depth=2, n_frequencies=4)
    monkeypatch.setitem(fields.FIELDS, "mlp", lambda box, features, **settings: small(box, **settings))
    monkeypatch.setattr(coarse, "COARSE_COLUMNS", 12)


def cut(series, tilts, rows, cols):
    """The middle of a series, of any size."""
    n_y, n_u = series.images.shape[1:]
    top, left = (n_y - rows) // 2, (n_u - cols) // 2
    images = series.images[:tilts, top : top + rows, left : left + cols]
    return TiltSeries(images, series.angles_deg[:tilts], series.pixel_size_nm)


def check_form(result, series):
    n_tilts, n_y, n_u = series.images.shape
    assert result.volume.data.shape[1:] == (n_y, n_u)
    assert result.volume.data.min() >= 0 or result.metrics["method"] == "wbp"
    assert result.rendered.shape == (n_tilts, n_y, n_u)
    assert result.rendered.dtype == result.volume.data.dtype == np.float32
    assert np.isfinite(result.rendered).all()
    assert result.volume.voxel_size_nm == series.pixel_size_nm
    json.dumps(result.metrics, allow_nan=False)


@pytest.mark.parametrize("mode", ["bf", "haadf"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_volume_its_images_and_its_figures(cell, quick, method, mode):
    series = cell(mode=mode).series()
    result = reconstruct(series, method=method, **QUICK)
    check_form(result, series)
    assert {"method", "seconds", "peak_memory_bytes", "device", "gain", "offset"} <= set(result.metrics)
    assert result.metrics["method"] == method
    assert (result.config.mode, result.config.device) == (mode, "cpu")
    assert not result.interrupted
    assert 0 < result.metrics["seconds"] < 600
    assert result.metrics["peak_memory_bytes"] > 1e7
    # Intensities are told in the units of the data: here about 0 to 1
    assert np.sqrt(np.mean((result.rendered - series.images) ** 2)) < 1


def test_the_neural_method_tells_what_it_chose_and_found(cell, quick):
    result = reconstruct(cell().series(), **QUICK)
    assert {"tv_weight", "heldout_nll", "heldout_rmse", "noise"} <= set(result.metrics)
    assert result.metrics["tv_weight"] == 1.0
    noise = result.metrics["noise"]
    assert len(noise["intensity"]) == len(noise["deviation"]) == 5
    assert all(d > 0 for d in noise["deviation"])
    assert result.metrics["thickness_pixels"] == result.volume.data.shape[0]


def test_its_state_loads_with_weights_only(cell, quick, tmp_path):
    result = reconstruct(cell().series(), **QUICK)
    torch.save(dict(result.state), tmp_path / "state.pt")
    assert set(torch.load(tmp_path / "state.pt", weights_only=True)) == {"plan", "fit", "prepared"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(13, 20, 31), (9, 31, 20), (3, 17, 23), (13, 2, 24)])
def test_images_need_not_be_square_nor_even(cell, quick, method, shape):
    series = cut(cell(size=32).series(), *shape)
    check_form(reconstruct(series, method=method, mode="bf", **QUICK), series)


@pytest.mark.parametrize("noise", sorted(NOISES))
@pytest.mark.parametrize("field", ["hashgrid", "mlp", "voxels"])
def test_every_field_and_noise_model_takes_odd_images(cell, quick, field, noise):
    series = cut(cell(size=32).series(), 13, 20, 31)
    result = reconstruct(series, mode="bf", field=field, noise=noise, **QUICK)
    check_form(result, series)
    assert result.volume.data.shape[0] % 2 == 1  # centred as the field of view is


@pytest.mark.parametrize("method", METHODS)
def test_a_single_row_is_enough(cell, quick, method):
    series = cut(cell().series(), 13, 1, 24)
    result = reconstruct(series, method=method, mode="bf", **QUICK)
    check_form(result, series)
    assert result.metrics.get("outcome") != "diverged"


@pytest.mark.parametrize("method", ["neural", "sirt", "wbp"])
def test_a_thickness_in_nm_is_kept(cell, quick, method):
    series = cell(pixel_size_nm=2.5).series()
    result = reconstruct(series, method=method, thickness="30", **QUICK)
    assert result.volume.data.shape[0] == 12
    assert result.metrics["thickness_pixels"] == 12


@pytest.mark.parametrize("method", METHODS)
def test_a_thickness_in_nm_needs_a_pixel_size(cell, method):
    series = cell().series()
    with pytest.raises(InputError, match="--pixel-size-nm"):
        reconstruct(TiltSeries(series.images, series.angles_deg), method=method, thickness="30")


def test_max_time_is_kept(cell, monkeypatch):
    """By the processor's clock, as others may be using the machine."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    result = reconstruct(cell().series(), preset="fine", max_time=6.0, threads=1, device="cpu")
    assert result.metrics["seconds"] < 6.6
    assert result.metrics["outcome"] in ("finished", "converged")
    assert result.metrics["steps"] < PASSES["fine"] * 24


def test_time_spent_before_the_call_counts(cell, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    settings = {"preset": "fine", "max_time": 30.0, "threads": 1, "device": "cpu", "tv_weight": 1.0}
    keeper = Keeper()
    result = reconstruct(cell().series(), began=time.process_time() - 27.0, observer=keeper, **settings)
    assert 27 < result.metrics["seconds"] < 33
    steps, full = result.metrics["steps"], result.metrics["steps_in_full"]
    assert steps < 0.7 * full
    assert any(f"allowed {steps} of {full} steps" in line for line in keeper.said)


def test_a_resumed_run_keeps_to_the_time_of_the_whole_run(cell, monkeypatch):
    """What an earlier sitting took counts, and its schedule goes on."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    monkeypatch.setattr(neural, "FIRST_CHECKPOINT_SECONDS", 0.0)
    keeper = Keeper()
    series = cell().series()
    settings = {"preset": "fine", "max_time": 6.0, "threads": 1, "device": "cpu", "tv_weight": 1.0}
    reconstruct(series, observer=keeper, **settings)
    state = keeper.states[0]
    state["fit"]["elapsed"] = 3.0
    resumed = reconstruct(series, resume=state, **settings)
    assert resumed.metrics["seconds"] + state["prepared"] + 3.0 < 6.6


def test_a_repeat_is_the_same_to_the_bit_and_another_seed_is_not(cell, quick):
    series = cell().series()
    one, two, other = (reconstruct(series, seed=seed, **QUICK).volume.data for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_masked_pixels_do_not_matter(cell, quick, method):
    series = cell().series()
    rng = np.random.default_rng(0)
    valid = rng.random(series.images.shape) > 0.05
    volumes = []
    for value in (0.0, 50.0):
        images = np.where(valid, series.images, value)
        masked = TiltSeries(images, series.angles_deg, valid=valid)
        volumes.append(reconstruct(masked, method=method, **QUICK).volume.data)
    np.testing.assert_array_equal(*volumes)


def test_an_interrupted_run_says_so_and_goes_on_from_its_state(cell, quick):
    class Impatient(Observer):
        def progress(self, stage, done, seconds_left, figures):
            if stage == "fit" and done > 0.5:
                raise KeyboardInterrupt

    series = cell().series()
    stopped = reconstruct(series, observer=Impatient(), **QUICK)
    assert stopped.interrupted
    assert stopped.metrics["outcome"] == "interrupted"
    check_form(stopped, series)
    on = reconstruct(series, resume=stopped.state, **QUICK)
    assert not on.interrupted
    assert on.metrics["steps"] > stopped.metrics["steps"]


def test_a_run_resumed_from_a_checkpoint_ends_where_the_uninterrupted_one_does(cell, quick, monkeypatch):
    monkeypatch.setattr(neural, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(neural, "FIRST_CHECKPOINT_SECONDS", 0.0)
    keeper = Keeper()
    series = cell().series()
    whole = reconstruct(series, observer=keeper, **QUICK)
    resumed = reconstruct(series, resume=keeper.states[len(keeper.states) // 2], **QUICK)
    np.testing.assert_array_equal(whole.volume.data, resumed.volume.data)


@pytest.mark.parametrize("kind", ["scan-flow", "file"])
def test_a_run_with_correlated_noise_resumes_too(cell, quick, monkeypatch, tmp_path, kind):
    """Held-out runs, the axis and the frozen parameters are the same again, wherever the file lies by then."""
    monkeypatch.setattr(neural, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(neural, "FIRST_CHECKPOINT_SECONDS", 0.0)
    keeper, series, noise = Keeper(), cell(scan_correlation=0.5, scan_axis="y").series(), kind
    if kind == "file":
        fitted = Scan(PoissonGaussian(0.02, 1e-3, 0.0))
        fitted.correlate_(torch.tensor([0.5, 0.16]))
        noise = str(save_noise(tmp_path / "noise.json", NoiseFile(fitted, 0.0, 1.0)))
    whole = reconstruct(series, observer=keeper, noise=noise, **QUICK)
    assert whole.metrics["noise"]["scan_axis"] == "y"
    if kind == "file":
        noise = str((tmp_path / "noise.json").rename(tmp_path / "moved.json"))
    resumed = reconstruct(series, resume=keeper.states[len(keeper.states) // 2], noise=noise, **QUICK)
    np.testing.assert_array_equal(whole.volume.data, resumed.volume.data)


def psnr_of(simulation, **settings):
    """Over the whole box and inside the slab, dB."""
    result = reconstruct(simulation.series(), device="cpu", **settings)
    figures = evaluate(result.volume, simulation.volume(), simulation.inside)
    return np.array([figures["psnr_affine_db"], figures["psnr_inside_db"]])


@pytest.mark.parametrize(
    "settings",
    [
        {"field": "voxels", "noise": "poisson-gaussian"},
        pytest.param({}, id="default", marks=pytest.mark.slow),
    ],
)
def test_a_cell_comes_closer_to_the_truth_than_by_sirt(cell, settings):
    """By 2 dB over the box and 0.3 dB inside, against the best of 10, 30, 100 iterations; the weight is found."""
    simulation = cell(size=40, tilts="-60:60:3")
    best = np.max([psnr_of(simulation, method="sirt", sirt_iterations=n) for n in (10, 30, 100)], axis=0)
    assert np.all(psnr_of(simulation, **settings) > best + np.array([2.0, 0.3]))


def test_unknown_settings_are_refused_by_name(cell):
    with pytest.raises(InputError, match="iterations"):
        reconstruct(cell().series(), sirt_iteration=3)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="--device cpu"):
        pick_device("cuda")


@pytest.mark.parametrize(("gpus", "device"), [(2, "cuda:1"), (1, "cpu")])
def test_processes_take_a_gpu_each_or_none(monkeypatch, gpus, device):
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(pick_device("auto")) == device
    if device == "cpu":
        with pytest.raises(InputError, match="2 processes on a machine of 1 GPUs"):
            pick_device("cuda")


def test_a_fit_that_diverges_at_once_is_an_error(cell, quick, monkeypatch):
    def spoil(problem, state, schedule, watch, step):
        return Outcome.DIVERGED

    monkeypatch.setattr(neural, "fit", spoil)
    with pytest.raises(InputError, match="--seed"):
        reconstruct(cell().series(), **QUICK)
