"""Hands out the series of a batch: one to each worker, again to another where a worker dies, until none is left."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tiltfield.batch.clusters import Workers
from tiltfield.batch.table import Row
from tiltfield.batch.work import DiedError, Task, run_task, stop

POLL_SECONDS = 0.2
REFILL_SECONDS = 30.0  # after which workers that are missing are asked for again
DEATHS = 3  # of its worker, after which a series is given up


class Watcher(Protocol):
    """Is told how the series fare."""

    def say(self, message: str) -> None:
        """Take a message."""

    def heard(self, task: Task, event: Mapping[str, Any]) -> None:
        """Take what a running series tells."""

    def now(self, task: Task, row: Row) -> None:
        """Take how a series stands."""


@dataclass(frozen=True, eq=False)
class _Handed:
    """A series that a worker has."""

    task: Task
    worker: str
    future: Any


class Supervisor:
    """Hands out series to the workers of a Dask scheduler.

    Each is bound to one worker, so that a worker has one at a time however many threads it has, and so that a death
    counts against the series that the worker had.

    Args:
        workers: who does the work.
        tasks: what to do, of one batch.
        watcher: told of everything.
    """

    def __init__(self, workers: Workers, tasks: Sequence[Task], watcher: Watcher) -> None:
        self.workers, self.watcher = workers, watcher
        self._batch = tasks[0].batch
        self._tasks = {task.name: task for task in tasks}
        self._waiting = deque(tasks)
        self._handed: list[_Handed] = []
        self._deaths: Counter[str] = Counter()
        self._asked = time.monotonic()
        self._stopping = False

    def carry_out(self) -> bool:
        """Work until no series is left.

        Ctrl-C ends the running ones such that each keeps its checkpoint, and again Ctrl-C without waiting for that.

        Returns:
            False if it was stopped.

        Raises:
            OSError: if the scheduler was lost.
        """
        self.workers.client.subscribe_topic(self._batch, self._heard)
        try:
            self._until(lambda: not (self._waiting or self._handed))
            return True
        except KeyboardInterrupt:
            self._stop()
            return False

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            there: Mapping[str, int] = self.workers.client.nthreads()
            self._collect(there)
            self._hand_out(there)
            self._refill(there)
            time.sleep(POLL_SECONDS)

    def _hand_out(self, there: Mapping[str, int]) -> None:
        """Give the next series to the workers that have none."""
        busy = {handed.worker for handed in self._handed}
        for worker in there:
            if worker not in busy and self._waiting:
                task = self._waiting.popleft()
                future = self.workers.client.submit(
                    run_task, task, workers=[worker], allow_other_workers=False, pure=False, retries=0
                )
                self._handed.append(_Handed(task, worker, future))
                self.watcher.now(task, task.row("running"))

    def _collect(self, there: Mapping[str, int]) -> None:
        """Take back what is done, and what a worker had that is gone."""
        for handed in list(self._handed):
            if handed.future.done():
                self._handed.remove(handed)
                self._close(handed)
            elif handed.worker not in there:
                self._handed.remove(handed)
                handed.future.cancel()
                self._died(handed.task, "its worker died")

    def _close(self, handed: _Handed) -> None:
        try:
            row = handed.future.result()
        except DiedError as error:
            self._died(handed.task, str(error))
        except Exception as error:
            if handed.future.cancelled() or handed.future.status == "lost":
                self._died(handed.task, "its worker died")
            else:  # a worker that cannot even begin, as one without tiltfield
                row = handed.task.row("failed", f"on {handed.worker}: {type(error).__name__}: {error}")
                self.watcher.now(handed.task, row)
        else:
            self.watcher.now(handed.task, self._remembering(handed.task, row))

    def _died(self, task: Task, how: str) -> None:
        self._deaths[task.name] += 1
        if self._stopping:
            self.watcher.now(task, task.row("stopped"))
        elif self._deaths[task.name] < DEATHS:
            self.watcher.say(f"{task.name}: {how}; another attempt goes on from its last checkpoint")
            self.watcher.now(task, task.row("waiting"))
            self._waiting.appendleft(task)
        else:
            advice = "if memory was short, try --bin 2 or fewer workers; the same command tries again"
            self.watcher.now(task, task.row("failed", f"given up after {DEATHS} attempts, the last: {how}; {advice}"))

    def _remembering(self, task: Task, row: Row) -> Row:
        """Return the row with a word on the attempts that came to nothing."""
        deaths = self._deaths[task.name]
        return replace(row, message=f"attempt {deaths + 1}, as workers died") if deaths and not row.message else row

    def _refill(self, there: Mapping[str, int]) -> None:
        """Ask for workers that are missing, and let go those that are not needed any more, now and then."""
        if time.monotonic() - self._asked < REFILL_SECONDS:
            return
        self._asked = time.monotonic()
        idle = set(there) - {handed.worker for handed in self._handed}
        self.workers.adjust(len(self._waiting) + len(self._handed), [] if self._waiting else sorted(idle))

    def _heard(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Pass on what a worker tells, in the thread of Dask."""
        name = event[1]["name"]
        if any(handed.task.name == name and handed.worker == event[1]["worker"] for handed in tuple(self._handed)):
            self.watcher.heard(self._tasks[name], event[1])

    def _stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        self.watcher.say("stopping: each running series keeps its checkpoint (Ctrl-C again: without waiting for that)")
        with contextlib.suppress(KeyboardInterrupt):
            self.workers.client.run(stop, self._batch, on_error="ignore")
            self._until(lambda: not self._handed)
        for handed in self._handed:
            self.watcher.now(handed.task, handed.task.row("stopped"))
