"""The command line: flags made from the settings, messages instead of tracebacks, nothing written for bad input."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tiltfield import cli, cli_flags
from tiltfield.config import ReconstructConfig, SimulateConfig
from tiltfield.errors import InputError
from tiltfield.forecast import Forecast
from tiltfield.io import write_stack
from tiltfield.reconstruct import Reconstruction
from tiltfield.series import Volume


@pytest.fixture
def calls(monkeypatch):
    """Stand-in for the reconstruction; gives the settings it was called with."""
    seen = []

    def fake(series, config=None, *, observer=None, resume=None, **settings):
        seen.append(config)
        observer.progress("fit", 1.0, 0.0, {"held-out": 0.1})
        data = np.random.default_rng(0).random((4, *series.images.shape[1:]), np.float32)
        return Reconstruction(Volume(data, series.pixel_size_nm), series.images.copy(), {"seconds": 1.0}, config)

    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", fake)
    monkeypatch.setattr("tiltfield.report.save_preview", lambda path, series, result: path.write_bytes(b"a picture"))
    return seen


@pytest.fixture
def stack(tmp_path):
    rng = np.random.default_rng(1)
    write_stack(rng.random((5, 8, 12), np.float32), tmp_path / "data.mrc", 2.0)
    (tmp_path / "data.rawtlt").write_text("-40\n-20\n0\n20\n40\n")
    return tmp_path / "data.mrc"


def refused(result, *parts):
    """Assert exit code 2, one line on stderr without a traceback, and nothing on stdout."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.startswith("tiltfield: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


# --- flags and help


@pytest.mark.parametrize(("command", "model"), [("reconstruct", ReconstructConfig), ("simulate", SimulateConfig)])
def test_every_setting_is_a_flag_with_its_description(tiltfield, monkeypatch, command, model):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = tiltfield(command, "--help")
    assert code == 0
    for name, info in model.model_fields.items():
        assert f"--{name.replace('_', '-')}" in out
        assert info.description in out


def test_help_fits_eighty_columns_and_is_grouped():
    environment = {**os.environ, "COLUMNS": "80"}
    headings = ["Input", "Method", "Output", "Run"]
    command = [sys.executable, "-m", "tiltfield.cli", "reconstruct", "--help"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert max(len(line) for line in out.splitlines()) <= 80
    assert [h for h in headings if f"─ {h} ─" in out] == headings


@pytest.mark.parametrize(
    ("headings", "model"),
    [(cli_flags.RECONSTRUCT_HEADINGS, ReconstructConfig), (cli_flags.SIMULATE_HEADINGS, SimulateConfig)],
)
def test_every_setting_stands_under_one_heading(headings, model):
    assert sorted(n for names in headings.values() for n in names) == sorted(model.model_fields)


def test_the_version_is_told(tiltfield):
    assert tiltfield("--version")[1].strip() == cli.__version__


def test_no_words_show_the_help(tiltfield):
    code, out, _ = tiltfield()
    assert code == 0
    assert "reconstruct" in out


def test_flags_become_settings(tiltfield, calls, stack, tmp_path):
    words = ["--mode=haadf", "--bin=2", "--tilt-axis", "-90", "--seed", 3, "--method", "sirt", "--sirt-iterations", 5]
    assert tiltfield("reconstruct", stack, "--out", tmp_path / "run", *words)[0] == 0
    given = {"mode": "haadf", "bin": 2, "tilt_axis": "-90", "seed": 3}
    assert calls == [ReconstructConfig(**given, method="sirt", sirt_iterations=5)]


def test_flags_go_before_the_file_and_the_file_before_the_defaults(tiltfield, calls, stack, tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 5\nmode: bf\n")
    tiltfield("reconstruct", stack, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml", "--seed", 0)
    assert calls == [ReconstructConfig(seed=0, mode="bf")]


@pytest.mark.parametrize(
    ("filed", "flags"),
    [
        ("steps: 100", ["--method", "ours"]),
        ("method: l2-blur+", ["--defocus", "linear:2"]),
        ("method: ours-sup", ["--noise", "n.json"]),
    ],
)
def test_whether_settings_fit_together_is_asked_of_file_and_flags_as_one(
    tiltfield, calls, stack, tmp_path, filed, flags
):
    (tmp_path / "c.yaml").write_text(filed)
    (tmp_path / "n.json").write_text("{}")
    flags = [str(tmp_path / f) if f.endswith(".json") else f for f in flags]
    words = ["reconstruct", stack, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml"]
    assert tiltfield(*words, *flags)[0] == 0
    assert len(calls) == 1
    code, _, error = tiltfield(*words[:2], "--out", tmp_path / "other", *words[4:])
    assert (code, len(calls)) == (2, 1)
    assert "Traceback" not in error


def test_a_run_can_be_repeated_from_its_config(tiltfield, calls, stack, tmp_path):
    tiltfield("reconstruct", stack, "--out", tmp_path / "a", "--seed", 5)
    assert tiltfield("reconstruct", "--config", tmp_path / "a/config.yaml", "--out", tmp_path / "b")[0] == 0
    assert tiltfield("reconstruct", "--config", tmp_path / "a/config.yaml", stack, "--out", tmp_path / "c")[0] == 0
    assert calls[0] == calls[1] == calls[2]
    configs = [yaml.safe_load((tmp_path / d / "config.yaml").read_text()) for d in "abc"]
    assert configs[0] == configs[1] == configs[2]


# --- what is said


def test_the_end_says_where_to_look(tiltfield, calls, stack, tmp_path):
    code, out, err = tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    assert code == 0
    assert "volume.mrc (4 × 8 × 12, z y x)" in out
    assert "run/report.html" in out
    assert "preview.png" in out
    assert "data.rawtlt" in err
    assert "fit 100%" in err


def test_quiet_says_nothing(tiltfield, calls, stack, tmp_path):
    assert tiltfield("reconstruct", stack, "--out", tmp_path / "run", "--quiet") == (0, "", "")


def test_resuming_a_finished_run_says_so(tiltfield, calls, stack, tmp_path):
    tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    code, out, _ = tiltfield("reconstruct", "--out", tmp_path / "run", "--resume")
    assert code == 0
    assert "finished already" in out
    assert len(calls) == 1


def test_resuming_a_finished_run_with_other_settings_is_refused(tiltfield, calls, stack, tmp_path):
    tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    refused(tiltfield("reconstruct", "--out", tmp_path / "run", "--resume", "--seed", "3"), "seed = 0", "seed = 3")
    assert tiltfield("reconstruct", "--out", tmp_path / "run", "--resume", "--mode", "auto")[0] == 0
    assert len(calls) == 1


def test_what_is_missing_is_named(tiltfield, calls, stack):
    refused(tiltfield("reconstruct", stack), "--out is missing", "'tiltfield reconstruct --help'")
    refused(tiltfield("noise", "fit"), "--out is missing", "'tiltfield noise fit --help'")


def test_an_interrupted_run_says_how_to_go_on(tiltfield, stack, tmp_path, monkeypatch, calls):
    def interrupted(series, config, **_):
        return Reconstruction(Volume(series.images), series.images, {}, config, {"step": 1}, interrupted=True)

    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", interrupted)
    code, out, _ = tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    assert code == 0
    assert "stopped early" in out
    assert "--resume" in out


def test_stopping_before_anything_useful_exits_130(tiltfield, stack, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", stopped)
    code, _, err = tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    assert code == 130
    assert "tiltfield: stopped" in err
    assert not (tmp_path / "run").exists()


def test_a_bug_is_one_line_with_a_way_to_the_traceback(tiltfield, stack, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes differ [a/b]")

    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", broken)
    monkeypatch.delenv("TILTFIELD_DEBUG", raising=False)
    code, _, err = tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    assert code == 1
    assert "RuntimeError: shapes differ [a/b]" in err
    assert "TILTFIELD_DEBUG=1" in err
    monkeypatch.setenv("TILTFIELD_DEBUG", "1")
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["reconstruct", str(stack), "--out", str(tmp_path / "run")])


# --- bad input


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--mode", "bff"], ["--mode", "'bff'", "did you mean 'bf'?"]),
        (["--mode", "HAADF"], ["--mode", "'HAADF'", "did you mean 'haadf'?"]),
        (["--noise", "flwo"], ["or the .json of a fitted noise model, got 'flwo'; did you mean 'flow'?"]),
        (["--bin", "0"], ["--bin", "'0'"]),
        (["--bin", "two"], ["--bin", "'two'"]),
        (["--tilt-axis", "z"], ["--tilt-axis", "'z'", "degrees"]),
        (["--thickness", "-1"], ["--thickness", "positive"]),
        (["--thicknes", "5"], ["--thicknes", "--thickness"]),
        (["another.mrc"], ["another.mrc"]),
        (["--resume", "--overwrite"], ["contradict"]),
    ],
)
def test_bad_flags_are_named(tiltfield, calls, stack, tmp_path, words, parts):
    refused(tiltfield("reconstruct", stack, "--out", tmp_path / "run", *words), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["recnstruct"], ["recnstruct", "reconstruct"]),
        (["reconstruct", "x.mrc"], ["--out"]),
        (["simulate", "--out", "d", "--tilts", "0:95:5"], ["--tilts", "±89"]),
        (["evaluate", "x.mrc"], ["x.mrc", "no such file or folder"]),
    ],
)
def test_bad_commands_are_named(tiltfield, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    refused(tiltfield(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def spoil_angles_missing(stack):
    stack.with_suffix(".rawtlt").unlink()
    return ["no tilt angles found", "--angles"]


def spoil_angles_count(stack):
    stack.with_suffix(".rawtlt").write_text("-40\n-20\n0\n20\n")
    return ["4 tilt angles", "5 images"]


def spoil_angles_equal(stack):
    stack.with_suffix(".rawtlt").write_text("3\n" * 5)
    return ["equal"]


def spoil_angles_steep(stack):
    stack.with_suffix(".rawtlt").write_text("-40\n-20\n0\n20\n95\n")
    return ["±89"]


def spoil_foreign(stack):
    stack.write_text("a letter to my aunt\n" * 100)
    return ["data.mrc"]


def spoil_truncated(stack):
    stack.write_bytes(stack.read_bytes()[:-100])
    return ["data.mrc"]


def spoil_absent(stack):
    stack.unlink()
    return ["data.mrc"]


def spoil_constant(stack):
    write_stack(np.full((5, 8, 12), 3, np.float32), stack, 2.0)
    return ["constant"]


SPOILERS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__.removeprefix("spoil_"))
def test_bad_series_are_refused_and_nothing_is_written(tiltfield, calls, stack, tmp_path, spoil):
    parts = spoil(stack)
    refused(tiltfield("reconstruct", stack, "--out", tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()
    assert calls == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("methud: sirt\n", ["unknown setting 'methud'", "did you mean 'method'?"]),
        ("seed: [1\n", ["c.yaml is not readable YAML (line"]),
        ("just words\n", ["c.yaml", "name: value"]),
        ("seed: -1\n", ["c.yaml: seed", "-1"]),
        ("series: [1, 2]\n", ["series"]),
    ],
)
def test_bad_settings_files_are_refused(tiltfield, calls, stack, tmp_path, text, parts):
    (tmp_path / "c.yaml").write_text(text)
    refused(tiltfield("reconstruct", stack, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml"), *parts)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused(tiltfield, calls, stack, tmp_path):
    tiltfield("reconstruct", stack, "--out", tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    refused(tiltfield("reconstruct", stack, "--out", tmp_path / "run"), "another run", "--resume", "--overwrite")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert len(calls) == 1


def test_a_message_of_several_lines_becomes_one(tiltfield, stack, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("first\nsecond")

    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", refuse)
    refused(tiltfield("reconstruct", stack, "--out", tmp_path / "run", "--quiet"), "first; second")


# --- the other commands


def test_simulate_writes_a_series_that_reconstruct_reads(tiltfield, calls, tmp_path):
    words = ["--size", 16, "--tilts", "-40:40:20", "--seed", 1, "--pixel-size-nm", 2.5]
    code, out, _ = tiltfield("simulate", "--out", tmp_path / "sim", *words)
    assert code == 0
    assert "tiltfield reconstruct" in out
    assert {"truth.mrc", "clean.mrc", "noisy.mrc", "series.rawtlt"} <= {p.name for p in (tmp_path / "sim").iterdir()}
    words = [tmp_path / "sim/noisy.mrc", "--angles", tmp_path / "sim/series.rawtlt", "--out", tmp_path / "run"]
    assert tiltfield("reconstruct", *words)[0] == 0


def test_simulate_refuses_to_replace_before_it_computes(tiltfield, tmp_path, monkeypatch):
    (tmp_path / "truth.mrc").write_text("mine")
    monkeypatch.setattr(sys.modules["tiltfield.simulate.acquisition"], "simulate", pytest.fail)
    refused(tiltfield("simulate", "--out", tmp_path), "truth.mrc", "--overwrite")


def test_info_tells_of_the_machine(tiltfield):
    code, out, _ = tiltfield("info")
    assert code == 0
    for part in ("torch", "cores", "memory", "GiB", "device"):
        assert part in out


def test_info_tells_of_a_series(tiltfield, stack, monkeypatch):
    cost = Forecast(2**30, 75.0)
    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "expected", lambda shape, config: cost)
    code, out, _ = tiltfield("info", stack)
    assert code == 0
    for part in ("5 images", "8 x 12", "data.rawtlt", "1.0 GiB", "1:15"):
        assert part in out


def test_a_message_goes_to_stderr_of_the_process(tmp_path):
    command = [sys.executable, "-m", "tiltfield.cli", "reconstruct", "nothing.mrc", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tiltfield: nothing.mrc")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("use", "given", "policy"), [(90.0, None, "PASSIVE"), (0.0, None, None), (90.0, "ACTIVE", "ACTIVE")]
)
def test_waiting_threads_sleep_where_something_else_runs(monkeypatch, use, given, policy):
    monkeypatch.setattr(cli.psutil, "cpu_percent", lambda interval: use)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that what is set below is taken back
        del os.environ["OMP_WAIT_POLICY"]
    with pytest.raises(SystemExit):
        cli.main(["info", "nothing.mrc"])
    assert os.environ.get("OMP_WAIT_POLICY") == policy
