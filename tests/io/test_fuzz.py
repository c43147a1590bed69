"""Bad files of every kind give an input error, or load: no traceback, no hang, no more memory than twice the file."""

import os
import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest

from tiltfield import io
from tiltfield.errors import InputError

CASES = 240  # ten of each kind


def test_damaged_files_are_input_errors_or_load(tmp_path):
    tally = fuzz.run(tmp_path, CASES, seed=0)
    assert tally.wrong == []
    assert tally.loaded.total() + tally.refused.total() == CASES
    assert min(tally.refused.total(), tally.loaded.total()) > CASES / 5  # some damage is to what does not matter


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_larger_damaged_files(tmp_path, seed):
    command = [sys.executable, str(Path(fuzz.__file__)), str(tmp_path / "files"), "2400", str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def bomb(path, **_):
    raise KeyError("tag")


def hog(path, **_):
    held = np.ones(16 * 2**20)
    raise InputError(f"{path}: {held.size} values")


def riddle(path, **_):
    raise InputError("something is wrong")


@pytest.mark.parametrize(("load", "found"), [(bomb, "KeyError"), (hog, "bytes taken"), (riddle, "not name the file")])
def test_the_check_sees_a_violation(tmp_path, monkeypatch, load, found):
    base = next(fuzz.bases(tmp_path))
    if load is hog and fuzz._peak(reset=True) == 0:
        pytest.skip("this system does not tell the most memory that a process has held")
    monkeypatch.setattr(io, "load", load)
    tally = fuzz.Tally()
    fuzz.attempt(base, base.path, base.contents[base.path], tally)
    assert found in tally.wrong[0]


def test_a_hang_ends_the_program_with_its_place(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import fuzz; from tiltfield import io; from pathlib import Path\n"
        "fuzz.LIMIT = 0.5; base = next(fuzz.bases(Path(sys.argv[2])))\n"
        "def load(path, **_):\n    while True: pass\n"
        "io.load = load; fuzz.attempt(base, base.path, b'', fuzz.Tally())"
    )
    command = [sys.executable, "-c", code, str(Path(fuzz.__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "in load" in done.stderr
