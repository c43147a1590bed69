"""What a reconstruction is expected to take, against what it took; what fits; how fast a step is."""

import math
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch

from tiltfield import pace
from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.fields.base import Box
from tiltfield.forecast import (
    Forecast,
    box_of,
    check_box,
    check_memory,
    fitting_bin,
    forecast,
    knowing,
    too_much,
    work_of,
)
from tiltfield.pace import step_seconds
from tiltfield.projector import STORED_LIMIT
from tiltfield.reconstruct import expected

CPU = torch.device("cpu")
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "forecast.py"
FACTOR = 1.5
WITH_MATRIX = [
    ((61, 64, 64), {}, 558e6),
    ((61, 96, 96), {}, 681e6),
    ((61, 128, 128), {}, 762e6),
    ((61, 192, 192), {}, 1052e6),
    ((61, 256, 256), {}, 1552e6),
    ((61, 16, 192), {}, 805e6),
    ((61, 128, 256), {}, 1117e6),
    ((61, 32, 256), {}, 1020e6),
    ((31, 192, 192), {}, 988e6),
    ((61, 96, 96), {"method": "sirt"}, 494e6),
    ((61, 192, 192), {"method": "sirt"}, 837e6),
    ((61, 96, 96), {"field": "voxels"}, 644e6),
    ((61, 192, 192), {"field": "voxels"}, 902e6),
    ((61, 64, 64), {"field": "mlp"}, 902e6),
    ((61, 96, 96), {"method": "explicit-l2"}, 558e6),
    ((61, 192, 192), {"method": "explicit-l2"}, 880e6),
    ((61, 64, 64), {"method": "ours"}, 644e6),
    ((61, 128, 128), {"method": "ours"}, 752e6),
]
WITHOUT_MATRIX = [
    ((61, 64, 64), {}, 451e6),
    ((61, 96, 96), {}, 549e6),
    ((61, 128, 128), {}, 606e6),
    ((61, 192, 192), {}, 841e6),
    ((61, 256, 256), {}, 1295e6),
    ((61, 16, 192), {}, 473e6),
    ((61, 32, 256), {}, 613e6),
    ((61, 256, 256), {"features": 1}, 826e6),
    ((61, 256, 256), {"features": 8}, 2250e6),
    ((11, 256, 256), {"features": 1}, 727e6),
    ((61, 192, 192), {"method": "explicit-l2", "tv_weight": 0.05}, 906e6),
]
"""Peak memory of whole runs, by benchmarks/forecast.py --short, where the projector keeps a matrix and where not."""


@pytest.mark.parametrize(("shape", "settings", "measured"), WITH_MATRIX)
def test_the_memory_is_what_was_measured_where_a_matrix_is_kept(monkeypatch, shape, settings, measured):
    monkeypatch.setattr("tiltfield.forecast.keeps_matrix", lambda samples: samples <= STORED_LIMIT)
    found = forecast(shape, ReconstructConfig(device="cpu", **settings)).memory_bytes
    assert measured / FACTOR < found < measured * FACTOR


@pytest.mark.parametrize(("shape", "settings", "measured"), WITHOUT_MATRIX)
def test_the_memory_is_what_was_measured_without_a_matrix(monkeypatch, shape, settings, measured):
    monkeypatch.setattr("tiltfield.forecast.keeps_matrix", lambda samples: False)
    found = forecast(shape, ReconstructConfig(device="cpu", **settings)).memory_bytes
    assert measured / 1.15 < found < measured * 1.15


def test_tables_that_are_full_grow_no_more():
    """The paper's cell: two of six levels hold 2²⁵ entries and no more, and two fields would not."""
    shape, config = (67, 1000, 1000), ReconstructConfig(device="cpu")
    assert too_much(shape, config, 16 * 2**30) == ""
    twice = forecast(shape, config.model_copy(update={"features": 8})).memory_bytes
    assert 16 * 4 * 2 * 2**25 < twice - forecast(shape, config).memory_bytes < 20 * 4 * 3 * 2**25


@pytest.mark.parametrize("settings", [{}, {"field": "voxels"}, {"method": "sirt"}, {"method": "ours"}], ids=str)
def test_where_a_gpu_computes_the_machine_holds_less(settings):
    shape = (67, 512, 512)
    here, there = (forecast(shape, ReconstructConfig(device=d, **settings)).memory_bytes for d in ("cpu", "cuda"))
    assert 4 * (67 * 512**2 + 0.6 * 512**3) < there < here


def run_benchmark(folder, *words):
    command = [sys.executable, str(BENCHMARK), "--out", str(folder), "--set", "threads=1", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_memory_is_what_a_run_takes_here(tmp_path):
    assert "61 × 64 × 64" in run_benchmark(tmp_path, "--short", "--sizes", "64")


@pytest.mark.slow
def test_memory_and_time_are_what_runs_take_here(tmp_path):
    """Within a factor of 1.5 from 64³ to 256³; the times on a quiet machine."""
    assert run_benchmark(tmp_path).count("finished") == 5


CONFIGS = [
    *({"field": field} for field in ("hashgrid", "mlp", "voxels")),
    {"method": "wbp"},
    {"method": "sirt"},
]


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_more_data_cost_no_less(settings):
    config = ReconstructConfig(**settings)
    sizes = [(61, n, n) for n in (48, 64, 96, 128, 192, 256)]
    costs = [forecast(shape, config) for shape in sizes]
    assert [c.memory_bytes for c in costs] == sorted(c.memory_bytes for c in costs)
    assert [c.seconds for c in costs] == sorted(c.seconds for c in costs)
    assert forecast((122, 96, 96), config).memory_bytes >= costs[2].memory_bytes
    assert forecast((61, 192, 96), config).memory_bytes >= costs[2].memory_bytes


def test_longer_presets_take_longer_and_a_limit_is_a_limit():
    seconds = [forecast((61, 96, 96), ReconstructConfig(preset=p)).seconds for p in ("draft", "standard", "fine")]
    assert seconds == sorted(seconds)
    assert forecast((61, 256, 256), ReconstructConfig(max_time=30.0)).seconds == 30


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_a_refusal_for_memory_names_the_bin_that_fits(settings):
    config, shape = ReconstructConfig(bin=2, **settings), (67, 1024, 1024)
    available = forecast((67, 341, 341), config).memory_bytes
    with pytest.raises(InputError, match=r"--bin \d+") as refusal:
        check_memory(shape, config, available)
    named = int(str(refusal.value).split("--bin ")[1])
    n = 1024 * 2 // named
    check_memory((67, n, n), config, available)
    with pytest.raises(InputError):
        check_memory((67, 1024 // (named // 2 - 1), 1024 // (named // 2 - 1)), config, available)


def test_a_refusal_says_when_no_bin_fits():
    with pytest.raises(InputError, match="more memory"):
        check_memory((67, 64, 64), ReconstructConfig(), available=10**8)


def test_what_does_not_fit_is_told_with_the_bin_that_does():
    shape, config = (61, 512, 512), ReconstructConfig()
    half = forecast((61, 256, 256), config).memory_bytes
    assert too_much(shape, config, forecast(shape, config).memory_bytes) == ""
    assert too_much(shape, config, half).endswith("try --bin 2")
    assert "more memory" in too_much(shape, config, 10**8)


def test_a_forecast_is_told_in_words():
    assert str(Forecast(int(1.5 * 2**30), 3700)) == "about 1.5 GiB of memory and 1:01:40 (h:mm:ss or m:ss)"


# --- time


@pytest.mark.parametrize("settings", [{}, {"field": "voxels"}, {"method": "sirt"}, {"method": "ours"}], ids=str)
def test_time_is_that_of_the_steps(settings):
    config, shape = ReconstructConfig(**settings), (61, 96, 96)
    work = work_of(shape, config)
    assert forecast(shape, config, 0.25).seconds == pytest.approx(work.fixed + 0.25 * work.steps)
    assert forecast(shape, config).seconds == pytest.approx(work.fixed + work.usual * work.steps)


def test_the_weight_takes_steps_unless_it_is_given():
    shape = (61, 96, 96)
    assert work_of(shape, ReconstructConfig(tv_weight=1.0)).steps < 0.8 * work_of(shape, ReconstructConfig()).steps


@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"field": "voxels", "noise": "scan-flow"}, {"field": "mlp"}, {"defocus": "linear:1"}),
        *({"method": "sirt"}, {"method": "wbp"}, {"method": "ours", "steps": 200, "features": 16}),
    ],
    ids=str,
)
def test_a_step_is_timed_for_every_kind_of_method(monkeypatch, settings):
    config, shape = ReconstructConfig(**settings), (9, 12, 16)
    seconds = step_seconds(shape, config, CPU)
    assert seconds > 0
    assert math.isfinite(forecast(shape, config, seconds).seconds)


def test_a_step_that_grows_with_the_volume_is_not_timed():
    assert step_seconds((9, 12, 16), ReconstructConfig(method="explicit-l2"), CPU) is None


def test_a_step_is_timed_on_some_slices_whose_images_take_no_memory():
    step = pace._fit((9, 5000, 16), ReconstructConfig(), CPU)
    problem = dict(zip(step.__code__.co_freevars, (c.cell_contents for c in step.__closure__), strict=True))["problem"]
    assert problem.box.n_y == pace.BLOCKS * 16
    assert problem.observed.shape == (problem.box.n_y, 9, 16)
    assert problem.observed.untyped_storage().nbytes() == 9 * 16 * 4


@pytest.mark.parametrize(
    ("each", "count", "mean"), [([9.0] + [0.1] * 20, 9, 0.1), ([9.0] + [1.0] * 20, 5, 1.0), ([1.0, 2.0, 2.0], 3, 2.0)]
)
def test_the_first_step_does_not_count(monkeypatch, each, count, mean):
    seconds, calls = [0.0], []
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(pace, "LONGEST_SECONDS", 100.0 if count > 3 else 3.0)

    def take():
        seconds[0] += each[len(calls)]
        calls.append(None)

    assert pace._seconds_of(take, CPU) == pytest.approx(mean)
    assert len(calls) == count


def test_what_gets_in_between_for_a_second_does_not_count(monkeypatch):
    turns = [[0.04] * 4, [1.2, 0.04, 0.04, 0.04], *([0.02] * 4 for _ in range(20))]
    each, seconds = iter([0.1, *(step for turn in turns for step in turn)]), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(pace, "LEAST_SECONDS", 2.0)
    monkeypatch.setattr(pace, "LONGEST_SECONDS", 3.0)

    def take():
        seconds[0] += next(each)

    assert pace._seconds_of(take, CPU) == pytest.approx((0.04 + 7 * 0.02) / 8)  # the second turn is left out


def test_on_a_gpu_the_step_that_compiles_is_not_timed(monkeypatch):
    each = iter([99.0] + [1.0] * 20)
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(pace, "LONGEST_SECONDS", 3.0)

    def take():
        seconds[0] += next(each)

    assert pace._seconds_of(take, torch.device("cuda")) == pytest.approx(1.0)


def test_a_step_that_takes_too_long_is_taken_once(monkeypatch):
    monkeypatch.setattr(pace, "LONGEST_SECONDS", 0.0)
    calls = []
    assert pace._seconds_of(lambda: calls.append(time.sleep(0.01)), CPU) >= 0.01
    assert len(calls) == 1


def test_what_is_expected_is_measured_here_and_refused_where_it_does_not_fit(monkeypatch):
    config = ReconstructConfig(threads=1, device="cpu")
    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "step_seconds", lambda shape, config, device: 1e4)
    assert expected((9, 12, 16), config).seconds > 1e4
    assert expected((9, 12, 16), config.model_copy(update={"max_time": 30.0})).seconds <= 30
    with pytest.raises(InputError, match="--bin"):
        expected((61, 20000, 20000), config)


def test_a_thickness_that_is_given_is_forecast_in_pixels_of_the_series():
    shape = (61, 64, 64)
    given = {
        name: ReconstructConfig(thickness=t) for name, t in (("thin", 20.0), ("as guessed", 78.0), ("thick", 320.0))
    }
    unknown = forecast(shape, given["thick"])
    assert unknown == forecast(shape, ReconstructConfig())
    known = {name: knowing(config, 2.0) for name, config in given.items()}
    assert box_of(shape, known["thin"]).n_z == 10
    assert forecast(shape, known["as guessed"]) == unknown
    assert forecast(shape, known["thick"]).seconds > 1.5 * unknown.seconds
    binned = knowing(given["thick"].model_copy(update={"bin": 4}), 2.0)
    assert box_of(shape, binned).n_z == 160


@pytest.mark.parametrize("method", ["neural", "sirt"])
def test_a_thickness_of_many_widths_is_refused(method):
    config = ReconstructConfig(method=method, thickness=1e9)
    with pytest.raises(InputError, match=r"1e\+09 nm is 7812500 times the width of the images, expected at most 8"):
        check_memory((61, 64, 64), knowing(config, 2.0))


def test_binning_makes_a_given_thickness_fit():
    config = knowing(ReconstructConfig(thickness=512.0), 1.0)
    needed = forecast((61, 256, 256), config).memory_bytes
    assert fitting_bin((61, 256, 256), config, needed / 2) in (2, 3)


def test_what_a_box_takes_that_was_found_to_be_larger_is_asked_for_again(monkeypatch):
    shape, config = (61, 64, 64), ReconstructConfig()
    free = mock.Mock(available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    check_box(shape, config, Box(40, 64, 100))
    free.available = 10**6
    with pytest.raises(InputError, match=r"goes on beyond the images.* GiB are free: try --bin 2"):
        check_box(shape, config, Box(200, 64, 3000))


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    shape, config = (61, 64, 64), ReconstructConfig()
    needed = forecast(shape, config).memory_bytes
    check_memory(shape, config, int(1.5 * needed))
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="in each of 2 processes"):
        check_memory(shape, config, int(1.5 * needed))
