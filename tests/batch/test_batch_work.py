"""What a worker does with a series: it tells how it goes, and says how it ended, whatever its process did."""

import os
import sys

import pytest

from tiltfield.batch import work
from tiltfield.batch.work import DiedError, Task, carry_out, stop

CHILD = """
import json, os, signal, sys, time
task = json.loads(sys.stdin.readline())
print("not for the worker", flush=True)
print(json.dumps({"stage": "fit", "done": 0.5, "left": 3.0, "threads": task["settings"]["threads"]}), flush=True)
how = task["settings"]["how"]
if how == "bug":
    raise ZeroDivisionError("by nothing")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "waits":
    time.sleep(600)
print(json.dumps({"outcome": how, "message": "why"}), flush=True)
"""


@pytest.fixture
def outcome_of(tmp_path, monkeypatch):
    """Return a function from what the process does to the row, and what was told."""
    (tmp_path / "stub_child.py").write_text(CHILD)
    monkeypatch.setattr(work, "CHILD", "stub_child")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def carry(how, hear=None, batch="batch"):
        events = []
        task = Task(batch, "a", "/d/a.st", str(tmp_path / "out" / "a"), {"how": how})
        return carry_out(task, 3, hear or events.append), [event for event in events if event]

    return carry


def test_how_it_goes_and_ends_is_told(outcome_of):
    row, events = outcome_of("finished")
    assert (row.outcome, row.message, row.series) == ("finished", "why", "/d/a.st")
    assert events[0] == {"stage": "fit", "done": 0.5, "left": 3.0, "threads": 3}


def test_a_refusal_writes_nothing(outcome_of, tmp_path):
    assert outcome_of("refused")[0].outcome == "refused"
    assert not (tmp_path / "out").exists()


def test_the_traceback_of_a_bug_is_kept_until_a_better_end(outcome_of, tmp_path):
    row, _ = outcome_of("bug")
    log = tmp_path / "out" / "a" / "error.log"
    assert row.outcome == "failed"
    assert row.message == f"ZeroDivisionError: by nothing; see {log}"
    assert "Traceback" in log.read_text()
    outcome_of("finished")
    assert not log.exists()


def test_a_process_that_was_killed_asks_for_another_attempt(outcome_of):
    with pytest.raises(DiedError, match="SIGKILL"):
        outcome_of("killed")


def test_what_is_stopped_ends_and_nothing_more_begins(outcome_of):
    row, _ = outcome_of("waits", lambda event: stop("halted") if "stage" in event else None, batch="halted")
    assert row.outcome == "stopped"
    assert outcome_of("finished", batch="halted")[0].outcome == "stopped"
