"""A batch from its request to its table."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltfield.batch.board import Board
from tiltfield.batch.clusters import LOCAL, opened
from tiltfield.batch.names import find_series, folder_names, shared_names
from tiltfield.batch.shares import Share, shares_for
from tiltfield.batch.supervise import Supervisor
from tiltfield.batch.table import SUMMARY, Row, write_summary
from tiltfield.batch.work import Task
from tiltfield.config import NOISE_NAMES, ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.run import agreed
from tiltfield.runfolder import RunFolder


@dataclass(frozen=True)
class BatchRequest:
    """What is asked of a batch.

    Attributes:
        out: folder for the table and the folders of the runs.
        series: as :func:`tiltfield.batch.names.find_series` takes them.
        settings: those given, by name, for every series.
        scheduler: "local", the address of a Dask scheduler, or "slurm:" and a file.
        workers: of this machine; None: as many as there are GPUs, or else cores.
    """

    out: Path
    series: Sequence[Path]
    settings: Mapping[str, Any]
    scheduler: str = LOCAL
    workers: int | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        rows: how each series fared.
        stopped: whether Ctrl-C ended it.
    """

    rows: Sequence[Row]
    stopped: bool

    @property
    def unfinished(self) -> list[Row]:
        """Return the rows of the series that are not finished."""
        return [row for row in self.rows if row.outcome != "finished"]


class Record:
    """Keeps the table of a batch, and shows what changes.

    Args:
        out: folder for the table.
        tasks: of the batch.
        board: shows it.
    """

    def __init__(self, out: Path, tasks: Sequence[Task], board: Board) -> None:
        self.out, self.board = out, board
        self.rows = {task.name: task.row("waiting") for task in tasks}

    def say(self, message: str) -> None:
        """Show a message."""
        self.board.say(message)

    def heard(self, task: Task, event: Mapping[str, Any]) -> None:
        """Show where a series is."""
        if "stage" in event:
            self.board.show(task.name, event["stage"], event["done"], event["left"])

    def now(self, task: Task, row: Row) -> None:
        """Take how a series stands, and write the table."""
        self.rows[task.name] = row
        self.write()
        if row.outcome == "running":
            self.board.show(task.name, "starting", 0.0, None)
        elif row.outcome != "waiting":
            self.board.clear(task.name)
            done = sum(r.outcome not in ("waiting", "running") for r in self.rows.values())
            words = f"{task.name}: {row.outcome}" + (f", {row.message}" if row.message else "")
            self.board.say(f"[{done}/{len(self.rows)}] {words}")

    def write(self) -> None:
        """Write the table."""
        write_summary(self.out / SUMMARY, self.rows.values())


def run_batch(request: BatchRequest, board: Board) -> BatchResult:
    """Reconstruct every series that is not finished yet.

    Args:
        request: what is asked.
        board: shows how it goes.

    Raises:
        InputError: if the request cannot be carried out at all; what is wrong with single series stands in their rows.
        OSError: if the scheduler was lost.
    """
    config = ReconstructConfig.parse(dict(request.settings), "settings")
    if request.workers is not None:
        if request.scheduler != LOCAL:
            raise InputError("--workers is for --scheduler local; another scheduler has the workers it has")
        if request.workers < 1:
            raise InputError(f"--workers: expected at least 1, got {request.workers}")
    tasks = _tasks(request, board)
    for task in tasks:
        RunFolder(task.out, resume=True)  # refuses what cannot be written
    with _alone_in(request.out):
        record = Record(request.out, tasks, board)
        left = [task for task in tasks if not _settled(task, record)]
        done = True
        if left:
            shares: list[Share] = []
            where = f"the workers of {request.scheduler}, one series each"
            if request.scheduler == LOCAL:
                shares, where = shares_for([Path(task.series) for task in left], config, request.workers)
            board.say(f"{len(left)} of {len(tasks)} series to do; {where}")
            with opened(request.scheduler, shares, len(left)) as workers:
                done = Supervisor(workers, left, record).carry_out()
        record.write()
        return BatchResult(list(record.rows.values()), stopped=not done)


def _tasks(request: BatchRequest, board: Board) -> list[Task]:
    paths = find_series(request.series)
    names = folder_names(paths)
    for line in shared_names(paths, names):
        board.say(line)
    batch, out, settings = uuid.uuid4().hex, request.out.absolute(), _portable(request.settings)
    return [Task(batch, name, str(path), str(out / name), settings) for path, name in zip(paths, names, strict=True)]


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as JSON takes them, with paths that hold wherever a worker was started."""
    config = ReconstructConfig.parse(dict(settings), "settings")
    values = config.model_dump(mode="json", include=set(settings))
    for name in values:
        value = getattr(config, name)
        if isinstance(value, Path) or (name == "noise" and value not in NOISE_NAMES):
            values[name] = str(Path(value).absolute())
    return values


def _settled(task: Task, record: Record) -> bool:
    """Return whether nothing is left to do for a series, and note it: it is finished, or another's folder is there."""
    try:
        folder = RunFolder(task.out, resume=True)
        if not folder.finished:
            return False
        series, recorded = folder.recorded()
        if series != Path(task.series).resolve():
            raise InputError(f"{task.out} holds the finished run of {series}: choose another --out")
        found_out = {name: value for name, value in task.settings.items() if value != "auto"}
        agreed(recorded, found_out, folder.path)
    except InputError as error:
        record.rows[task.name] = task.row("refused", str(error))
        record.say(f"{task.name}: refused, {error}")
    else:
        record.rows[task.name] = task.row("finished")
    return True


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Make the folder, which goes again if nothing is written, and refuse it while another batch writes there."""
    was_there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another batch is writing to {out}: wait for it, or choose another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
        if not was_there:
            with suppress(OSError):  # it is not empty
                out.rmdir()
