"""Curves for TensorBoard: what it reads back, over a kill and a second sitting."""

import builtins

import numpy as np
import pytest

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.observe import Observer
from tiltfield.report.tensorboard import TensorBoard
from tiltfield.run import RunObserver
from tiltfield.runfolder import RunFolder

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")


def curves(folder):
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, pytest.approx(e.value)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_every_number_is_a_curve(tmp_path):
    log = TensorBoard(tmp_path / "log")
    assert not (tmp_path / "log").exists()
    for value in (3.0, 2.0):
        log.record({"stage": "weight", "tv_weight": value, "heldout_nll": value / 2})
    for step in (10, 20):
        log.record({"stage": "fit", "step": step, "nll": np.float32(1 / step), "word": "none"})
    log.close()
    assert curves(tmp_path / "log") == {
        "weight/tv_weight": [(0, 3.0), (1, 2.0)],
        "weight/heldout_nll": [(0, 1.5), (1, 1.0)],
        "fit/nll": [(10, 0.1), (20, 0.05)],
    }


def test_a_second_sitting_hides_what_came_after_the_checkpoint(tmp_path):
    for steps in ((1, 2, 3, 4), (3, 4, 5)):  # killed, and gone on with from step 2
        log = TensorBoard(tmp_path)
        for step in steps:
            log.record({"stage": "fit", "step": step, "nll": float(len(steps))})
        log.close()
    assert curves(tmp_path)["fit/nll"] == [(1, 4.0), (2, 4.0), (3, 3.0), (4, 3.0), (5, 3.0)]


@pytest.mark.parametrize("log", ["none", "tensorboard"])
def test_a_run_writes_curves_only_if_asked(tmp_path, log):
    observer = RunObserver(RunFolder(tmp_path / "run"), tmp_path, ReconstructConfig(log=log), "", Observer())
    observer.record({"stage": "fit", "step": 1, "nll": 0.5})
    assert (tmp_path / "run/history.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "run/tensorboard").exists() == (log == "tensorboard")
    RunFolder(tmp_path / "run", overwrite=True).discard()


def test_without_the_package_the_run_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr("tiltfield.extras.importlib.import_module", lambda name: builtins.__import__("no_such_package"))
    with pytest.raises(InputError, match=r"--log tensorboard needs.*pip install 'tiltfield\[logs\]'"):
        RunObserver(RunFolder(tmp_path / "run"), tmp_path, ReconstructConfig(log="tensorboard"), "", Observer())
    assert not (tmp_path / "run").exists()
