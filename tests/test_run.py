"""The run folder: whole files, refusals, and going on after a kill."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.io import write_stack
from tiltfield.observe import Observer
from tiltfield.reconstruct import Reconstruction
from tiltfield.replacing import atomic
from tiltfield.run import Request, open_run, run
from tiltfield.runfolder import FILES, REPLACED, RunFolder, fingerprint
from tiltfield.series import TiltSeries, Volume


class Killed(BaseException):
    """Stands for SIGKILL: nothing gets to clean up after it."""


class Listener(Observer):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


class FakeFit:
    """Counts to ten, with a checkpoint every other step; can be killed or interrupted on the way."""

    def __init__(self):
        self.kill_at = self.interrupt_at = self.refuse_at = None
        self.resumed_from = None

    def __call__(self, series, config=None, *, observer=None, resume=None, began=None, **settings):
        self.began = began
        self.resumed_from = dict(resume) if resume else None
        start = int(resume["step"]) if resume else 0
        state = {"step": start, "weights": torch.full((3,), float(start))}
        for step in range(start + 1, 11):
            if step == self.refuse_at:
                raise InputError("refused")
            if step == self.kill_at:
                raise Killed
            state = {"step": step, "weights": torch.full((3,), float(step))}
            observer.record({"step": step, "loss": np.float32(1 / step)})
            if step == self.interrupt_at:
                return self.result(series, config, state, interrupted=True)
            if step % 2 == 0:
                observer.checkpoint(state)
        return self.result(series, config, state)

    def result(self, series, config, state, interrupted=False):
        data = np.random.default_rng(0).random((4, *series.images.shape[1:]), np.float32)
        metrics = {"seconds": np.float64(1.5), "held_out": float("nan"), "step": state["step"]}
        return Reconstruction(
            Volume(data, series.pixel_size_nm), series.images.copy(), metrics, config, state, interrupted
        )


@pytest.fixture
def fit(monkeypatch):
    fake = FakeFit()
    monkeypatch.setattr(sys.modules["tiltfield.reconstruct"], "reconstruct", fake)
    monkeypatch.setattr("tiltfield.report.save_preview", lambda path, series, result: path.write_bytes(b"a picture"))
    return fake


@pytest.fixture
def stack(tmp_path):
    rng = np.random.default_rng(1)
    write_stack(rng.random((5, 8, 12), np.float32), tmp_path / "data.mrc", 2.0)
    (tmp_path / "data.rawtlt").write_text("\n".join(str(a) for a in (-40, -20, 0, 20, 40)) + "\n")
    return tmp_path / "data.mrc"


def go(stack, out, listener=None, resume=False, overwrite=False, **settings):
    return run(Request(out, stack, settings, resume=resume, overwrite=overwrite), listener or Listener())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def history(out):
    return [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()]


def test_every_file_is_there_and_nothing_else(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(FILES)


def test_the_clock_starts_with_the_request(fit, stack, tmp_path):
    request = Request(tmp_path / "run", stack, {})
    run(request, Listener())
    assert fit.began == request.began


def test_metrics_are_strict_json(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["seconds"] == 1.5
    assert metrics["held_out"] is None
    assert metrics["interrupted"] is False


def test_what_was_found_is_said_and_noted(fit, stack, tmp_path):
    listener = Listener()
    go(stack, tmp_path / "run", listener)
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert any("data.rawtlt" in line for line in listener.said)
    assert notes == listener.said


def test_a_checkpoint_loads_with_weights_only(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["state"]["step"] == 10
    assert torch.equal(saved["state"]["weights"], torch.full((3,), 10.0))


def test_config_says_enough_to_run_again(fit, stack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go(stack.relative_to(tmp_path), tmp_path / "run", seed=7, angles=(tmp_path / "data.rawtlt").relative_to(tmp_path))
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert values["series"] == str(stack)
    assert values["angles"] == str(tmp_path / "data.rawtlt")
    assert values["seed"] == 7
    assert set(values) == {"series", *ReconstructConfig.model_fields}


def test_a_killed_run_goes_on_from_its_checkpoint(fit, stack, tmp_path):
    fit.kill_at = 6
    with pytest.raises(Killed):
        go(stack, tmp_path / "run", seed=3)
    assert history(tmp_path / "run") == [1, 2, 3, 4, 5]
    fit.kill_at = None
    result = go(None, tmp_path / "run", resume=True)
    assert fit.resumed_from["step"] == 4
    assert history(tmp_path / "run") == list(range(1, 11))
    assert result.config.seed == 3


def test_a_run_killed_before_its_first_checkpoint_starts_afresh_and_says_so(fit, stack, tmp_path):
    fit.kill_at, listener = 2, Listener()
    with pytest.raises(Killed):
        go(stack, tmp_path / "run")
    fit.kill_at = None
    go(None, tmp_path / "run", listener, resume=True)
    assert fit.resumed_from is None
    assert any("starting afresh" in line for line in listener.said)
    assert history(tmp_path / "run") == list(range(1, 11))


def test_resuming_nothing_starts_afresh_and_says_so(fit, stack, tmp_path):
    listener = Listener()
    go(stack, tmp_path / "run", listener, resume=True)
    assert any("starting afresh" in line for line in listener.said)


def test_resuming_nothing_without_a_series_is_refused(fit, tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        go(None, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_alone(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert go(None, tmp_path / "run", resume=True) is None
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(("given", "goes_on"), [({"max_time": 20.0}, True), ({"max_time": 5.0}, False), ({}, False)])
def test_a_run_that_its_time_limit_cut_short_goes_on_with_a_longer_one(fit, stack, tmp_path, given, goes_on):
    go(stack, tmp_path / "run", max_time=10.0)
    folder = RunFolder(tmp_path / "run", resume=True)
    folder.write_metrics({**folder.metrics, "outcome": "finished", "steps": 4, "steps_in_full": 10})
    assert (go(None, tmp_path / "run", resume=True, **given) is not None) == goes_on
    assert fit.resumed_from == ({"step": 10, "weights": fit.resumed_from["weights"]} if goes_on else None)


def test_an_interrupted_run_is_written_and_goes_on(fit, stack, tmp_path):
    fit.interrupt_at = 5
    assert go(stack, tmp_path / "run").interrupted
    assert (tmp_path / "run" / "volume.mrc").exists()
    fit.interrupt_at = None
    result = go(None, tmp_path / "run", resume=True)
    assert fit.resumed_from["step"] == 5
    assert not result.interrupted
    assert history(tmp_path / "run") == list(range(1, 11))


def test_resuming_with_another_setting_names_it(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run", seed=3)
    with pytest.raises(InputError, match=r"seed = 3.*seed = 4"):
        go(None, tmp_path / "run", resume=True, seed=4)


def test_what_fits_together_is_asked_of_given_and_recorded_settings_as_one(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run", method="l2-blur+", defocus="linear:2")
    fit.interrupt_at = None
    assert go(None, tmp_path / "run", resume=True, method="l2-blur+").config.defocus == "linear:2"


def test_resuming_with_the_same_or_a_harmless_setting_is_accepted(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run", seed=3)
    fit.interrupt_at = None
    result = go(stack, tmp_path / "run", resume=True, seed=3, threads=1, max_time=60.0)
    assert (result.config.threads, result.config.max_time) == (1, 60.0)


def test_resuming_on_other_data_is_refused(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run")
    (tmp_path / "data.rawtlt").write_text("-40\n-20\n0\n20\n41\n")
    with pytest.raises(InputError, match="images, masks, angles or noise model"):
        go(None, tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == [1, 2, 3, 4, 5]


def test_resuming_on_moved_data_is_accepted(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    for name in ("data.mrc", "data.rawtlt"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    fit.interrupt_at = None
    go(tmp_path / "elsewhere" / "data.mrc", tmp_path / "run", resume=True)
    assert fit.resumed_from["step"] == 5


def test_a_broken_checkpoint_is_named(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint"):
        go(None, tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_form_is_told(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["run"]["format"]
    torch.save(saved, path)
    with pytest.raises(InputError, match=r"written by another tiltfield"):
        go(None, tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_another_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"holds another run \({name}\).*--resume.*--overwrite"):
        RunFolder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_overwriting_replaces_every_file(fit, stack, tmp_path):
    fit.interrupt_at = 5
    go(stack, tmp_path / "run")
    fit.interrupt_at, fit.kill_at = None, 3
    with pytest.raises(Killed):
        go(stack, tmp_path / "run", overwrite=True)
    assert sorted(contents(tmp_path / "run")) == ["checkpoint.pt", "config.yaml", "history.jsonl"]


def test_a_run_that_is_refused_before_its_first_checkpoint_gives_back_the_one_it_replaces(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    before = contents(tmp_path / "run")
    fit.refuse_at = 2
    with pytest.raises(InputError, match="refused"):
        go(stack, tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_a_run_waits_beside_the_one_that_replaces_it_however_often_that_is_killed(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    before = contents(tmp_path / "run")
    fit.kill_at = 2
    for again in ({"overwrite": True}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(Killed):
            go(stack, tmp_path / "run", **again)
        assert contents(tmp_path / "run" / REPLACED) == before
        assert sorted(contents(tmp_path / "run")) == ["config.yaml", "history.jsonl"]
    fit.kill_at, fit.refuse_at = None, 2
    with pytest.raises(InputError, match="refused"):
        go(stack, tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_other_files_in_the_folder_are_left_alone(fit, stack, tmp_path):
    go(stack, stack.parent)
    assert stack.exists()


def test_resume_and_overwrite_contradict(tmp_path):
    with pytest.raises(InputError, match="contradict"):
        RunFolder(tmp_path, resume=True, overwrite=True)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "out")
    with pytest.raises(InputError, match="not a writable folder"):
        RunFolder(tmp_path / "out" / "deeper")


@pytest.mark.parametrize("step", [1, 2])
def test_input_refused_on_the_way_leaves_nothing(fit, stack, tmp_path, step):
    fit.refuse_at = step
    with pytest.raises(InputError, match="refused"):
        go(stack, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_input_refused_before_the_first_record_leaves_the_old_run(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    fit.refuse_at = 1
    with pytest.raises(InputError, match="refused"):
        go(stack, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "volume.mrc").exists()


def test_an_atomic_file_is_whole_or_absent(tmp_path):
    def half_way():
        with atomic(tmp_path / "file.txt") as part:
            part.write_text("new, but")
            raise Killed

    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(Killed):
        half_way()
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_the_fingerprint_knows_which_pixels_are_masked():
    images, valid = np.random.default_rng(0).random((3, 4, 5), np.float32), np.ones((3, 4, 5), bool)
    fewer = valid.copy()
    fewer[:, :2] = False
    least = fewer.copy()
    least[:, :, 0] = False
    masks = (fewer, least, valid, None)
    digests = [fingerprint(TiltSeries(images, np.array([-10.0, 0, 10]), valid=v)) for v in masks]
    assert len(set(digests[:3])) == 3
    assert digests[2] == digests[3] == "d97e7fd9b4db5d52831ee80de93f2192"  # as it was before masks counted


def test_what_a_killed_process_left_goes_when_the_run_begins(fit, stack, tmp_path):
    go(stack, tmp_path / "run")
    left = [tmp_path / "run" / name for name in (".checkpoint.1.part.pt", ".metrics.part.json")]
    for path in left:
        path.write_text("half")
    go(stack, tmp_path / "run", overwrite=True)
    assert not any(path.exists() for path in left)


def test_the_fingerprint_knows_images_and_angles():
    images = np.random.default_rng(0).random((3, 4, 5), np.float32)
    angles = np.array([-10.0, 0.0, 10.0])
    same = fingerprint(TiltSeries(images.copy(order="F"), angles.copy()))
    assert fingerprint(TiltSeries(images, angles), ReconstructConfig()) == same
    assert fingerprint(TiltSeries(images + 1, angles)) != same
    assert fingerprint(TiltSeries(images, angles + 1)) != same


def test_the_fingerprint_knows_what_a_noise_file_says_not_where_it_lies(tmp_path):
    series = TiltSeries(np.random.default_rng(0).random((3, 4, 5), np.float32), np.array([-10.0, 0.0, 10.0]))
    for name, text in (("a.json", "one"), ("b.json", "one"), ("c.json", "two")):
        (tmp_path / name).write_text(text)
    a, b, c = (fingerprint(series, ReconstructConfig(noise=str(tmp_path / f"{name}.json"))) for name in "abc")
    assert a == b != c
    with pytest.raises(InputError, match=r"cannot read the noise model .*gone\.json"):
        fingerprint(series, ReconstructConfig(noise=str(tmp_path / "gone.json")))


def test_a_folder_that_another_process_writes_is_refused(fit, stack, tmp_path):
    held = RunFolder(tmp_path / "run")
    held.begin(stack, ReconstructConfig())
    with pytest.raises(InputError, match="another process is writing"):
        go(stack, tmp_path / "run", overwrite=True)
    held.release()
    go(stack, tmp_path / "run", overwrite=True)


def test_resuming_a_run_that_another_process_writes_leaves_its_history(fit, stack, tmp_path):
    fit.kill_at = 6
    with pytest.raises(Killed):
        go(stack, tmp_path / "run")
    RunFolder(tmp_path / "run", resume=True).append_history({"step": 6})
    before = history(tmp_path / "run")
    held = RunFolder(tmp_path / "run", resume=True)
    held.lock()
    with pytest.raises(InputError, match="another process is writing"):
        go(stack, tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == before
    held.release()
    fit.kill_at = None
    go(stack, tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == list(range(1, 11))


def test_a_history_that_cannot_be_written_costs_no_run(fit, stack, tmp_path, monkeypatch):
    def full(self, entry):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "append_history", full)
    go(stack, tmp_path / "run")
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert sum("history.jsonl: could not be written" in note for note in notes) == 1


def test_a_folder_that_cannot_be_written_can_be_read(fit, stack, tmp_path, monkeypatch):
    go(stack, tmp_path / "run")
    monkeypatch.setattr("tiltfield.runfolder.os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "run", resume=True)
    assert open_run(tmp_path / "run").metrics["step"] == 10


def test_a_checkpoint_that_cannot_be_written_costs_no_run(fit, stack, tmp_path, monkeypatch):
    def full(self, state, digest):
        raise RuntimeError("unexpected pos 64 vs 0")  # what torch says of a full disk

    monkeypatch.setattr(RunFolder, "save_checkpoint", full)
    go(stack, tmp_path / "run")
    assert (tmp_path / "run" / "volume.mrc").exists()
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert any("checkpoint.pt: could not be written" in note for note in notes)
