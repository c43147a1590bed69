"""Handing out series: one to each worker, again where one dies, until none is left; against workers made up here."""

import pytest

from tiltfield.batch import supervise
from tiltfield.batch.clusters import Workers
from tiltfield.batch.supervise import DEATHS, Supervisor
from tiltfield.batch.work import DiedError, Task


class Future:
    """Something that a worker has; done when a test says so."""

    def __init__(self, task, worker):
        self.task, self.worker = task, worker
        self.answer = self.error = None
        self.status = "pending"

    def done(self):
        return self.status != "pending"

    def result(self):
        if self.error is not None:
            raise self.error
        return self.answer

    def cancel(self):
        self.status = "cancelled"

    def cancelled(self):
        return self.status == "cancelled"


class Client:
    """Stands for Dask's: each poll lets the test's function do something to workers and futures."""

    def __init__(self, act):
        self.act, self.futures, self.workers, self.polls, self.stopped = act, [], {"w1": 1, "w2": 4}, 0, []

    def nthreads(self):
        self.polls += 1
        assert self.polls < 1000, "it never ends"
        self.act(self)
        return dict(self.workers)

    def submit(self, function, task, workers, **options):
        assert not any(f.worker == workers[0] and not f.done() for f in self.futures), "a worker has two"
        self.futures.append(Future(task, workers[0]))
        return self.futures[-1]

    def subscribe_topic(self, topic, handler):
        self.handler = handler

    def run(self, function, batch, **options):
        self.stopped.append(batch)


class Watcher:
    def __init__(self):
        self.said, self.rows, self.events = [], {}, []

    def say(self, message):
        self.said.append(message)

    def heard(self, task, event):
        self.events.append((task.name, event))

    def now(self, task, row):
        self.rows[task.name] = row


@pytest.fixture
def supervised(monkeypatch, tmp_path):
    """Return a function that hands out series; gives whether it came to its end, the client, what was told."""
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0.0)

    def go(act, names="abcde", adjust=lambda left, idle: None):
        tasks = [Task("batch", name, f"/d/{name}.st", str(tmp_path / name), {}) for name in names]
        client, watcher = Client(act), Watcher()
        return Supervisor(Workers(client, adjust), tasks, watcher).carry_out(), client, watcher

    return go


def finish(future, outcome="finished"):
    future.status, future.answer = "finished", future.task.row(outcome)


def fail(future, error):
    future.status, future.error = "error", error


def finish_all(client):
    for future in client.futures:
        if not future.done():
            finish(future)


def outcomes(watcher):
    return {name: row.outcome for name, row in watcher.rows.items()}


def test_every_series_is_handed_out_once(supervised):
    done, client, watcher = supervised(finish_all)
    assert done
    assert [f.task.name for f in client.futures] == list("abcde")
    assert outcomes(watcher) == dict.fromkeys("abcde", "finished")
    assert {f.worker for f in client.futures} == {"w1", "w2"}


def test_a_series_whose_worker_is_gone_goes_to_another(supervised):
    def act(client):
        if client.polls == 2:
            del client.workers["w1"]
        elif client.polls > 2:
            finish_all(client)

    done, client, watcher = supervised(act, "ab")
    assert done
    assert [(f.task.name, f.worker) for f in client.futures] == [("a", "w1"), ("b", "w2"), ("a", "w2")]
    assert watcher.rows["a"].message == "attempt 2, as workers died"
    assert watcher.rows["b"].message == ""
    assert any("a: its worker died" in line for line in watcher.said)


def test_a_series_that_kills_its_workers_is_given_up_and_the_others_go_on(supervised):
    def act(client):
        for future in client.futures:
            if not future.done():
                fail(future, DiedError("killed by SIGKILL")) if future.task.name == "a" else finish(future)

    done, client, watcher = supervised(act, "abc")
    assert done
    assert [f.task.name for f in client.futures].count("a") == DEATHS
    assert outcomes(watcher) == {"a": "failed", "b": "finished", "c": "finished"}
    assert "killed by SIGKILL" in watcher.rows["a"].message
    assert "--bin" in watcher.rows["a"].message


def test_what_a_worker_cannot_begin_stands_in_its_row(supervised):
    def act(client):
        for future in client.futures:
            if not future.done():
                fail(future, ModuleNotFoundError("No module named 'tiltfield'"))

    _, _, watcher = supervised(act, "a")
    assert watcher.rows["a"].outcome == "failed"
    assert "No module named 'tiltfield'" in watcher.rows["a"].message


def test_workers_may_come_and_go(supervised):
    def act(client):
        client.workers = {} if client.polls < 5 else {f"w{client.polls}": 1}
        finish_all(client)

    done, _, watcher = supervised(act, "abc")
    assert done
    assert outcomes(watcher) == dict.fromkeys("abc", "finished")


def test_ctrl_c_stops_the_running_ones_and_hands_out_no_more(supervised):
    def act(client):
        if client.polls == 2:
            raise KeyboardInterrupt
        if client.stopped:
            for future in client.futures:
                finish(future, "stopped")

    done, client, watcher = supervised(act, "abc")
    assert not done
    assert client.stopped == ["batch"]
    assert outcomes(watcher) == {"a": "stopped", "b": "stopped"}


def test_a_second_ctrl_c_does_not_wait(supervised):
    def act(client):
        if client.polls in (2, 4):
            raise KeyboardInterrupt

    done, _, watcher = supervised(act, "ab")
    assert not done
    assert outcomes(watcher) == {"a": "stopped", "b": "stopped"}


def test_a_worker_that_dies_while_stopping_is_not_replaced(supervised):
    def act(client):
        if client.polls == 2:
            raise KeyboardInterrupt
        if client.polls > 3:
            client.workers = {}

    done, client, watcher = supervised(act, "ab")
    assert not done
    assert len(client.futures) == 2
    assert outcomes(watcher) == {"a": "stopped", "b": "stopped"}


def test_only_the_worker_that_has_a_series_is_heard(supervised):
    def act(client):
        if client.polls == 2:
            for worker in ("w1", "gone"):
                client.handler((0.0, {"name": "a", "worker": worker, "stage": "fit"}))
            finish_all(client)

    _, _, watcher = supervised(act, "a")
    assert [(name, event["worker"]) for name, event in watcher.events] == [("a", "w1")]


def test_missing_workers_are_asked_for_and_idle_ones_let_go(supervised, monkeypatch):
    monkeypatch.setattr(supervise, "REFILL_SECONDS", 0.0)
    asked = []

    def act(client):
        for future in client.futures[: client.polls // 3]:
            if not future.done():
                finish(future)

    supervised(act, "abc", lambda left, idle: asked.append((left, tuple(idle))))
    assert asked[0] == (3, ())  # one more than there are workers
    assert (1, ("w1",)) in asked or (1, ("w2",)) in asked
