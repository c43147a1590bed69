"""`tiltfield evaluate`: a table for people, strict JSON for programs."""

import json

import numpy as np
import pytest

from tiltfield.cli import main
from tiltfield.io import write_volume
from tiltfield.series import Volume


@pytest.fixture
def truth(tmp_path):
    volume = Volume(np.random.default_rng(0).random((16, 16, 16), np.float32), 2.0)
    return write_volume(volume, tmp_path / "truth.mrc")


def test_evaluate_prints_json_that_parses(tiltfield, truth, tmp_path):
    write_volume(Volume(np.random.default_rng(1).random((16, 16, 16), np.float32), 2.0), tmp_path / "v.mrc")
    code, out, _ = tiltfield("evaluate", tmp_path / "v.mrc", "--truth", truth, "--json")
    assert code == 0
    assert {"psnr_affine_db", "psnr_minmax_db", "mse_minmax", "ssim", "fsc_0.5", "fsc_0.143"} <= set(json.loads(out))


def test_evaluate_of_a_perfect_volume_is_json_too(tiltfield, truth):
    out = tiltfield("evaluate", truth, "--truth", truth, "--json")[1]
    json.loads(out, parse_constant=pytest.fail)


def test_evaluate_prints_a_table(tiltfield, truth):
    out = tiltfield("evaluate", truth, "--truth", truth)[1]
    assert "psnr_affine_db" in out


def test_evaluate_refuses_another_shape(tiltfield, truth, tmp_path):
    write_volume(Volume(np.random.default_rng(1).random((16, 8, 16), np.float32), 2.0), tmp_path / "v.mrc")
    code, out, err = tiltfield("evaluate", tmp_path / "v.mrc", "--truth", truth)
    assert (code, out) == (2, "")
    assert "shape" in err


def test_what_is_not_there_is_said_to_be_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(tmp_path / "gone")])
    assert end.value.code == 2
    assert "no such file or folder" in " ".join(capsys.readouterr().err.split())


def test_a_volume_alone_is_held_against_nothing(tiltfield, tmp_path):
    write_volume(Volume(np.random.default_rng(0).random((3, 4, 5), np.float32)), tmp_path / "v.mrc")
    code, _, err = tiltfield("evaluate", tmp_path / "v.mrc")
    assert code == 2
    assert "--truth FILE" in " ".join(err.split())
