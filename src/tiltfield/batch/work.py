"""What a worker does: carry out one series in a process of its own, tell how it goes, and say how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiltfield.apart import Apart, apart
from tiltfield.batch.table import Outcome, Row
from tiltfield.replacing import atomic

LOG = "error.log"
CHILD = "tiltfield.batch.child"
_running: dict[str, Apart] = {}  # batch to what this worker runs for it
_stopped: set[str] = set()  # batches that are to run nothing more


class DiedError(Exception):
    """A series whose process was killed; its message says how. Another attempt goes on from its checkpoint."""


@dataclass(frozen=True)
class Task:
    """One series of a batch.

    Attributes:
        batch: a name that no other batch has.
        name: of the series in this batch.
        series: its absolute path.
        out: folder of the run, absolute.
        settings: those given, by name, JSON-ready.
    """

    batch: str
    name: str
    series: str
    out: str
    settings: Mapping[str, Any]

    def row(self, outcome: Outcome, message: str = "") -> Row:
        """Return how the series fared, with what is known of it.

        Args:
            outcome: in a word.
            message: more of it.
        """
        return Row(series=self.series, outcome=outcome, folder=self.out, message=message).with_figures()


def run_task(task: Task) -> Row:
    """Carry out a task on this worker of Dask, with as many threads as the worker has.

    Args:
        task: what to do.
    """
    from distributed import get_worker

    worker = get_worker()
    told = {"name": task.name, "worker": worker.address}
    return carry_out(task, worker.state.nthreads, lambda event: worker.log_event(task.batch, {**told, **event}))


def carry_out(task: Task, threads: int, tell: Callable[[Mapping[str, Any]], None]) -> Row:
    """Reconstruct a series in a process of its own.

    Args:
        task: what to do.
        threads: of the processor, unless the settings say.
        tell: called with what there is to see: "said", or "stage", "done" and "left".

    Returns:
        how it ended.

    Raises:
        DiedError: if the process was killed.
    """
    settings = {"threads": threads, **task.settings}
    request = {**asdict(task), "settings": settings}
    environment = {"OMP_NUM_THREADS": str(settings["threads"])}
    end: dict[str, Any] = {}
    with apart(CHILD, environment=environment) as child:
        _running[task.batch] = child
        try:
            if task.batch in _stopped:
                return task.row("stopped")
            child.tell(json.dumps(request))
            for event in map(_event, child.lines()):
                end = event if "outcome" in event else end
                tell(event)
        finally:
            del _running[task.batch]
        return _ended(task, child, end)


def _event(line: str) -> dict[str, Any]:
    """Return what a line tells; nothing if it is about something else."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _ended(task: Task, child: Apart, end: Mapping[str, Any]) -> Row:
    """Return how a child ended that is no more."""
    log = Path(task.out) / LOG
    if end:
        log.unlink(missing_ok=True)
        return task.row(end["outcome"], end.get("message", ""))
    if task.batch in _stopped:
        return task.row("stopped")
    if child.killed:
        raise DiedError(child.reason)
    log.parent.mkdir(parents=True, exist_ok=True)
    with atomic(log) as part:
        part.write_text(child.errors)
    return task.row("failed", f"{child.reason.removeprefix('failed: ')}; see {log}")


def stop(batch: str) -> None:
    """End what this worker runs for a batch as Ctrl-C does, so that it keeps a checkpoint; nothing more begins.

    Args:
        batch: its name.
    """
    _stopped.add(batch)
    if batch in _running:
        _running[batch].interrupt()
