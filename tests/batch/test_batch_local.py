"""A batch on this machine, with true workers: one is killed in the middle, one command goes on where another ended."""

import csv
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tiltfield.batch import clusters
from tiltfield.batch.board import Board
from tiltfield.batch.many import BatchRequest, Record, run_batch
from tiltfield.batch.shares import Share
from tiltfield.io import write_stack
from tiltfield.observe import Observer
from tiltfield.run import Request, run

pytest.importorskip("distributed", reason="needs the extra cluster: pip install 'tiltfield[cluster]'")
HASTY = Path(__file__).parent / "hasty"
# Of the methods with checkpoints the quickest
SETTINGS = {"method": "explicit-l2", "steps": 40, "mode": "bf", "threads": 1}
WAIT_SECONDS = 120


@pytest.fixture
def data(cell, tmp_path):
    """Two small series with angles beside them, and one without."""
    series = cell(size=16, tilts="-60:60:10").series()
    for name in "abc":
        write_stack(series.images, tmp_path / f"{name}.mrc", 1.0)
        if name != "c":
            (tmp_path / f"{name}.rawtlt").write_text("\n".join(map(str, series.angles_deg)))
    return tmp_path


@pytest.fixture
def resting(monkeypatch, tmp_path):
    """Let the workers be hasty; return the file that says that series a rests, and with which worker."""
    nanny = clusters._nanny

    def hasty(share):
        options = nanny(share)
        return {**options, "preload": [*options["preload"], str(HASTY / "hasty_worker.py")]}

    monkeypatch.setattr(clusters, "_nanny", hasty)
    monkeypatch.setenv("PYTHONPATH", str(HASTY))
    monkeypatch.setenv("RESTING", str(tmp_path / "resting"))
    return tmp_path / "resting"


@pytest.fixture
def heard(monkeypatch):
    """What the workers tell."""
    events = []
    monkeypatch.setattr(Record, "heard", lambda self, task, event: events.append((task.name, event)))
    return events


def once_resting(resting, act):
    """Do something in a thread as soon as series a rests in the middle of its fit."""

    def wait():
        end = time.monotonic() + WAIT_SECONDS
        while not resting.exists() and time.monotonic() < end:
            time.sleep(0.02)
        if resting.exists():
            act(int(resting.read_text()))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def go(data, names, workers=2):
    request = BatchRequest(data / "out", [data / f"{name}.mrc" for name in names], SETTINGS, workers=workers)
    return run_batch(request, Board(quiet=True))


def table(data):
    with (data / "out" / "summary.csv").open(newline="") as file:
        return {Path(row["series"]).stem: row for row in csv.DictReader(file)}


def listening(pid):
    """Addresses at which a process and its children listen."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    connections = [c for p in processes for c in p.net_connections("inet")]
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


def test_all_series_finish_though_a_worker_is_killed_in_the_middle(data, resting, heard):
    addresses = set()

    def kill(worker):
        addresses.update(listening(os.getpid()))
        os.kill(worker, signal.SIGKILL)

    killer = once_resting(resting, kill)
    result = go(data, "abc")
    killer.join()
    assert addresses == {"127.0.0.1"}
    assert not result.stopped
    rows = table(data)
    assert {name: row["outcome"] for name, row in rows.items()} == {"a": "finished", "b": "finished", "c": "refused"}
    assert "no tilt angles found" in rows["c"]["message"]
    assert "attempt 2" in rows["a"]["message"]
    said = [event["said"] for name, event in heard if name == "a" and "said" in event]
    assert any(line.startswith("going on with the run") for line in said)
    assert float(rows["a"]["heldout_nll"]) == pytest.approx(float(rows["b"]["heldout_nll"]), abs=1e-5)  # the same data
    assert (data / "out" / "a" / "volume.mrc").exists()


def test_no_worker_is_started_for_what_is_finished(data, monkeypatch):
    for name in "ab":
        run(Request(data / "out" / name, data / f"{name}.mrc", {"method": "wbp", "mode": "bf"}), Observer())
    monkeypatch.setattr("tiltfield.batch.many.opened", pytest.fail)
    request = BatchRequest(data / "out", [data / "a.mrc", data / "b.mrc"], {"method": "wbp"})
    assert [row.outcome for row in run_batch(request, Board(quiet=True)).rows] == ["finished"] * 2
    other = replace(request, settings={"method": "sirt"})
    assert ["method = wbp" in row.message for row in run_batch(other, Board(quiet=True)).rows] == [True, True]
    (data / "old").mkdir()
    moved = (data / "a.mrc").rename(data / "old" / "a.mrc")
    row = run_batch(replace(request, series=[moved]), Board(quiet=True)).rows[0]
    assert (row.outcome, "holds the finished run of" in row.message) == ("refused", True)


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard, even if what started the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_stopped_batch_keeps_a_checkpoint_and_the_run_goes_on(data, resting):
    stopper = once_resting(resting, lambda worker: os.kill(os.getpid(), signal.SIGINT))
    result = go(data, "ab", workers=1)
    stopper.join()
    assert result.stopped
    assert {name: row["outcome"] for name, row in table(data).items()} == {"a": "stopped", "b": "waiting"}
    assert (data / "out" / "a" / "checkpoint.pt").exists()
    assert not (data / "out" / "b").exists()
    on = run(Request(data / "out" / "a", None, {"threads": 1}, resume=True), Observer())  # it is an ordinary run
    assert not on.interrupted


def test_each_worker_sees_its_own_gpu():
    shares = [Share(1, "3"), Share(2, "GPU-5")]
    with clusters.opened("local", shares, 2) as workers:
        seen = workers.client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(seen.values()) == ["3", "GPU-5"]
        assert sorted(workers.client.nthreads().values()) == [1, 2]
