"""`--json` and `--quiet`: what scripts read is strict JSON on standard output, and nothing else."""

import json

import numpy as np
import pytest

from tiltfield.io import write_stack


@pytest.fixture
def stack(tmp_path, cell):
    write_stack(cell().noisy, tmp_path / "data.mrc", 2.0)
    (tmp_path / "data.rawtlt").write_text("".join(f"{a}\n" for a in cell().angles_deg))
    return tmp_path / "data.mrc"


def strict(text):
    return json.loads(text, parse_constant=pytest.fail)


def test_info_of_the_machine(tiltfield):
    code, out, _ = tiltfield("info", "--json")
    found = strict(out)
    assert code == 0
    assert {"tiltfield", "python", "packages", "cores", "memory_bytes", "device"} <= set(found)


def test_info_of_a_series(tiltfield, stack, cell):
    found = strict(tiltfield("info", stack, "--json", "--bin", 2)[1])
    assert found["shape"] == [len(cell().angles_deg), 12, 12]
    np.testing.assert_allclose(found["angles_deg"], cell().angles_deg)
    assert found["pixel_size_nm"] == 4.0
    assert found["sources"]["angles"].startswith("data.rawtlt")
    assert min(found["seconds"], found["memory_bytes"]) > 0


def test_a_run_prints_its_metrics(tiltfield, stack, tmp_path):
    code, out, error = tiltfield(
        "reconstruct", stack, "--out", tmp_path / "run", "--method", "wbp", "--quiet", "--json"
    )
    assert (code, error) == (0, "")
    assert out == (tmp_path / "run/metrics.json").read_text()
    assert strict(out)["method"] == "wbp"


def test_a_run_names_the_next_steps(tiltfield, stack, tmp_path):
    words = ("reconstruct", "--out", tmp_path / "run", "--resume", "--method", "wbp")
    for _ in range(2):  # the second finds it finished
        out = tiltfield(*words[:1], stack, *words[1:])[1]
        assert all(f"tiltfield {step} {tmp_path / 'run'}" in out for step in ("evaluate", "view", "convert"))


def test_the_help_has_commands_in_groups_within_eighty_columns(tiltfield, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tiltfield("--help")[1]
    groups = [line.split("─")[1].strip() for line in out.splitlines() if line.startswith("╭")]
    assert groups == ["Reconstruct", "Look at the result", "Noise", "Without a microscope", "This program"]
    assert max(map(len, out.splitlines())) <= 80
