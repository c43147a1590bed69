"""`tiltfield denoise`: a stack and its angles out, or nothing and a way out."""

import numpy as np
import pytest

from tiltfield import denoise as package
from tiltfield.config import DenoiseConfig
from tiltfield.denoise import DENOISERS
from tiltfield.errors import InputError
from tiltfield.io import load, load_frames, write_stack


def smoothed(series, run):
    run.observer.progress("smooth", 1.0, 0.0, {})
    return (series.images + np.roll(series.images, 1, axis=1)) / 2 + run.seed


def missing(series, run):
    raise InputError("install it with pip install 'tiltfield[topaz]'")


@pytest.fixture(autouse=True)
def denoisers(monkeypatch):
    """Stand-ins: dwk-p smooths and adds the seed, topaz is not installed."""
    monkeypatch.setattr(package, "DENOISERS", {**DENOISERS, "dwk-p": smoothed, "topaz": missing})


@pytest.fixture
def stack(tmp_path):
    rng = np.random.default_rng(0)
    write_stack(rng.normal(100, 10, (4, 16, 24)).astype(np.float32), tmp_path / "noisy.mrc", 0.8)
    (tmp_path / "noisy.rawtlt").write_text("-10\n0\n10\n20.5\n")
    return tmp_path / "noisy.mrc"


def refused(result, folder, *parts):
    code, out, err = result
    assert code == 2, err
    assert out == ""
    for part in parts:
        assert part in err
    assert sorted(p.name for p in folder.iterdir()) == ["noisy.mrc", "noisy.rawtlt"]


def test_help_names_every_setting(tiltfield, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tiltfield("denoise", "--help")[1]
    for name, info in DenoiseConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in out
        assert info.description in out


def test_a_stack_and_its_angles(tiltfield, stack):
    out = stack.with_name("clean.mrc")
    code, said, err = tiltfield("denoise", stack, "--with", "dwk-p", "--seed", 5, "--out", out)
    assert code == 0, err
    assert said.startswith(f"wrote {out}: 4 images, and {out.with_suffix('.rawtlt')}")
    assert "smooth 100%" in err
    series, noisy = load(out), load(stack)
    np.testing.assert_allclose(series.images, 5 + (noisy.images + np.roll(noisy.images, 1, axis=1)) / 2, rtol=1e-5)
    assert series.angles_deg.tolist() == [-10, 0, 10, 20.5]
    assert series.pixel_size_nm == pytest.approx(0.8)
    assert sorted(p.name for p in stack.parent.iterdir()) == [
        *("clean.mrc", "clean.rawtlt", "noisy.mrc", "noisy.rawtlt")
    ]


def test_quiet_says_nothing(tiltfield, stack):
    words = ["denoise", stack, "--with", "dwk-p", "--out", stack.with_name("clean.mrc"), "--quiet"]
    assert tiltfield(*words) == (0, "", "")


def test_settings_of_loading(tiltfield, stack, tmp_path):
    angles, out = tmp_path / "other.txt", tmp_path / "clean.mrc"
    angles.write_text("1\n2\n3\n4\n")
    words = ["--tilt-axis", "-90", "--pixel-size-nm", 2, "--bin", 2, "--angles", angles, "--threads", 1]
    code, _, err = tiltfield("denoise", stack, "--with", "dwk-p", "--out", out, *words)
    assert code == 0, err
    raw = load_frames(out)
    assert raw.images.shape == (4, 12, 8)
    assert raw.pixel_size_nm == pytest.approx(4)
    assert raw.angles_deg.tolist() == [1, 2, 3, 4]


def test_files_that_are_there_are_kept_unless_told(tiltfield, stack):
    out = stack.with_name("clean.mrc")
    words = ["denoise", stack, "--with", "dwk-p", "--out", out, "--quiet"]
    for path in (out, out.with_suffix(".rawtlt")):
        path.write_text("mine")
        code, _, err = tiltfield(*words)
        assert code == 2
        assert f"{path.name} is there already" in " ".join(err.split())
        assert path.read_text() == "mine"
        assert tiltfield(*words, "--overwrite") == (0, "", "")
        out.unlink()
        out.with_suffix(".rawtlt").unlink()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--with", "bmd3"], ["--with", "bm3d"]),
        ([], ["--with"]),
        (["--with", "topaz"], ["pip install 'tiltfield[topaz]'"]),
        (["--with", "dwk-p", "--bin", "0"], ["--bin", "greater than or equal to 1"]),
        (["--with", "dwk-p", "--tilt-axis", "z"], ["--tilt-axis", "expected x, y, file or a number of degrees"]),
        (["--with", "dwk-p", "--angles", "none.tlt"], ["no such file"]),
        (["--with", "dwk-p", "--bin", "200"], ["bin must be a whole number from 1 to 16"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_bad_input_leaves_no_file(tiltfield, stack, words, parts):
    out = stack.with_name("clean.mrc")
    refused(tiltfield("denoise", stack, "--out", out, *words), stack.parent, *parts)


def test_the_series_is_not_written_over(tiltfield, stack):
    before = stack.read_bytes()
    result = tiltfield("denoise", stack, "--with", "dwk-p", "--out", stack, "--overwrite")
    refused(result, stack.parent, "is the noisy series itself")
    assert stack.read_bytes() == before


def test_out_is_mrc(tiltfield, stack):
    result = tiltfield("denoise", stack, "--with", "dwk-p", "--out", stack.with_name("clean.tif"))
    refused(result, stack.parent, "--out takes an MRC file")
