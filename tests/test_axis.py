"""What images tell of the tilt axis."""

import numpy as np
import pytest

import tiltfield
from tiltfield.axis import lost, turns_across
from tiltfield.config import SimulateConfig
from tiltfield.io import write_stack
from tiltfield.simulate import simulate

KINDS = {
    "simple": {"size": 64, "snr": 0.7, "tilts": "-60:60:3"},
    "paper": {"size": 48, "cell": "paper", "snr": 1, "tilts": "-60:60:3"},
    "haadf": {"size": 64, "snr": 1, "tilts": "-70:70:2", "mode": "haadf"},
    "far apart": {"size": 64, "snr": 1, "tilts": "-60:60:10"},
    "few": {"size": 64, "snr": 1, "tilts": "-20:20:2"},
}
SLOW = {
    "paper, 96": {"size": 96, "cell": "paper", "snr": 1, "tilts": "-60:60:2"},
    "demo": {"size": 96, "snr": 0.7, "tilts": "-50:49:1.5"},
    "wide": {"size": 160, "snr": 1, "tilts": "-60:60:2"},
    "along x": {"size": 96, "cell": "paper", "mode": "haadf", "snr": 1, "tilts": "-60:60:2", "scan_correlation": 0.5},
    "along y": {"size": 96, "mode": "haadf", "snr": 1, "tilts": "-60:60:2", "scan_correlation": 0.5, "scan_axis": "y"},
    "drowned": {"size": 64, "snr": 0.1, "tilts": "-60:60:3"},
}


def of(kind, seed):
    return simulate(SimulateConfig(seed=seed, **(KINDS | SLOW)[kind]))


def check(kind, seed):
    made = of(kind, seed)
    assert turns_across(made.noisy, made.angles_deg) == ""
    return turns_across(made.noisy.swapaxes(1, 2), made.angles_deg) != ""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_axis_is_told_and_the_right_one_is_not_doubted(kind, seed):
    assert check(kind, seed)


@pytest.mark.slow
def test_of_44_cells_the_right_axis_is_never_doubted_and_the_wrong_one_seldom_believed():
    told = [check(kind, seed) for kind in (*KINDS, *SLOW) for seed in range(4)]
    assert len(told) == 44
    assert sum(told) >= 39


@pytest.mark.parametrize(("taken", "other"), [("x", "y"), (90, "0"), (-90, "0")])
def test_loading_names_the_other_axis(tmp_path, taken, other):
    made = of("simple", 0)
    write_stack(made.noisy, tmp_path / "data.mrc", 1.0)
    np.savetxt(tmp_path / "data.rawtlt", made.angles_deg)
    said = tiltfield.load(tmp_path / "data.mrc", tilt_axis=taken).sources["warning tilt axis"]
    assert f"(--tilt-axis {other})" in said
    assert "warning tilt axis" not in tiltfield.load(tmp_path / "data.mrc").sources


def test_a_recorded_needle_about_a_horizontal_axis(shared_data):
    path = shared_data("needle/HAADF_Aligned.hspy")
    assert "--tilt-axis x" in tiltfield.load(path).sources["warning tilt axis"]
    assert "warning tilt axis" not in tiltfield.load(path, tilt_axis="x").sources


def test_what_is_lost_is_that_of_the_structure_whatever_the_noise():
    rng = np.random.default_rng(0)
    first, second = np.linalg.qr(rng.standard_normal((4000, 2)))[0].T * 30
    turn = np.arange(200)[:, None] * 0.1
    share, seen = lost(np.cos(turn) * first + np.sin(turn) * second + rng.standard_normal((200, 4000)) * 0.5, 5)
    assert share == pytest.approx(1 - np.cos(0.5) / np.cos(0.1), abs=0.02)
    assert seen == pytest.approx(900 / (900 + 4000 * 0.25), rel=0.02)


@pytest.mark.parametrize("kind", ["noise", "nothing", "three tilts", "one tilt", "no angles", "no images"])
def test_nothing_is_said_of_images_that_tell_nothing(kind):
    images = np.random.default_rng(0).standard_normal((40, 32, 32)).astype(np.float32)
    images = {
        "nothing": np.zeros_like(images),
        "three tilts": images[:3],
        "one tilt": images[:1],
        "no images": images[:0],
    }.get(kind, images)
    angles = np.zeros(0) if kind == "no angles" else np.linspace(-60, 60, len(images))
    assert turns_across(images, angles) == ""
