"""Processes that fit one series together, each with its share of the slices of every step.

All run the same program on the same data with the same random numbers, started by ``torchrun``, which tells each in the
environment who it is. Gradients and sums over pixels are added up, so every process takes the same step and comes to
the same decisions; what hangs on the clock, the first decides. A process alone has all the shares.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # torch takes a second to import: not for the help
    from torch import Tensor

    from tiltfield.sharedmemory import SharedMemory

_count, _index = 1, 0
_memory: SharedMemory | None = None  # of processes that are all on one machine
_asked_to_stop = False
_noted = float("-inf")  # when, on the clock of time.monotonic
SOON = 2.0  # seconds


def launched() -> int:
    """Return how many processes ``torchrun`` started, 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if {"WORLD_SIZE", "RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def index() -> int:
    """Return which of the processes this is, from 0: the first reads, shows and writes."""
    if _count > 1:
        return _index
    return int(os.environ["RANK"]) if launched() > 1 else 0


def local() -> int:
    """Return which of the processes of this machine this is, and so which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) if launched() > 1 else 0


def on_this_machine() -> int:
    """Return how many of the processes that ``torchrun`` started share the memory of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if launched() > 1 else 1


def have_gpus() -> bool:
    """Return whether torch sees a GPU for each of the processes of this machine."""
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() >= on_this_machine()


def count() -> int:
    """Return how many processes share the work at the moment."""
    return _count


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes that ``torchrun`` started share the work; for one alone, do nothing.

    Ctrl-C, and the signal by which ``torchrun`` passes it on, stop all of them at the same step.
    """
    global _count, _index, _memory, _asked_to_stop
    if launched() == 1:
        yield
        return
    import torch
    from torch import distributed

    with_gpus, failed = have_gpus(), True
    if with_gpus:
        torch.cuda.set_device(local())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")
    _count, _index = launched(), index()
    before = {number: signal.signal(number, _note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _memory = _shared()
        yield
        failed = False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _memory is not None:
            _memory.leave()
        _count, _memory, _asked_to_stop = 1, None, False
        if not (with_gpus and failed):  # the others may wait for this one on their GPUs, and it for them to take leave
            distributed.destroy_process_group()


def _shared() -> SharedMemory | None:
    """Return memory that all processes share, None where they are on several machines or have none to share."""
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return None
    from torch import distributed

    from tiltfield.sharedmemory import SharedMemory, new_file

    path = first_says(new_file(count()) if index() == 0 else None)
    if path is None:
        return None
    pids = [0] * count()
    distributed.all_gather_object(pids, os.getpid())
    try:
        memory = SharedMemory(path, index(), pids)
    except OSError:
        memory = None
    alike = not greatest([memory is None])[0]
    if index() == 0:
        path.unlink()
    return memory if alike else None


def _combining(tensors: Sequence[Tensor], *, largest: bool = False) -> Callable[[], None]:
    """Begin to replace numbers by their sums over all processes, or by the largest, in place; return what ends it."""
    if _memory is not None and tensors[0].device.type == "cpu":
        return _memory.combining([tensor.detach().numpy() for tensor in tensors], largest=largest)
    import torch
    from torch import distributed

    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    by = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    work = distributed.all_reduce(flat, by, async_op=True)

    def end() -> None:
        work.wait()
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    return end


@contextmanager
def between_steps() -> Iterator[None]:
    """Let Ctrl-C wait until :func:`heard` tells of it, or for the end of the context.

    A second one does not wait, unless it comes so soon that it means the first. Processes that share the work wait
    already. Where Ctrl-C does not raise KeyboardInterrupt here, all stays as it is.
    """
    global _asked_to_stop
    if not _raises_here():
        yield
        return
    try:
        with _answered_by(_note_the_first):
            yield
    finally:
        asked, _asked_to_stop = _asked_to_stop, False
    if asked:
        raise KeyboardInterrupt


def patient() -> AbstractContextManager[None]:
    """Take a Ctrl-C that comes soon after one that ended a fit for the same one: what is to be kept is yet to come."""
    return _answered_by(_stop_unless_soon)


def undisturbed() -> AbstractContextManager[None]:
    """Pass over Ctrl-C while what would be lost by it is written, if it raises KeyboardInterrupt here."""
    return _answered_by(signal.SIG_IGN)


@contextmanager
def _answered_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Let something else answer Ctrl-C where it raises KeyboardInterrupt."""
    if not _raises_here():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _raises_here() -> bool:
    """Return whether Ctrl-C raises KeyboardInterrupt in this thread."""
    here = threading.current_thread() is threading.main_thread()
    return count() == 1 and here and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _stop_unless_soon)


def _note(_number: int, _frame: object) -> None:
    global _asked_to_stop
    _asked_to_stop = True


def _note_the_first(number: int, frame: object) -> None:
    global _noted
    _note(number, frame)
    _noted = time.monotonic()
    signal.signal(number, _stop_unless_soon)


def _stop_unless_soon(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does, but for one that means the one before."""
    if time.monotonic() - _noted > SOON:
        signal.default_int_handler(number, frame)


def lost(error: BaseException) -> bool:
    """Return whether an error tells no more than that another process has gone, which knows why.

    Args:
        error: what ended this one.
    """
    if launched() == 1:
        return False
    from torch.distributed import DistError

    from tiltfield.sharedmemory import LostError

    return isinstance(error, DistError | LostError) or "gloo" in str(error)


def share(rows: slice) -> slice:
    """Return this process's part of adjacent rows; the first have the smaller parts.

    Args:
        rows: of all.
    """
    if count() == 1:
        return rows
    first, stop = (rows.start + (rows.stop - rows.start) * k // count() for k in (index(), index() + 1))
    return slice(first, stop)


def add(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over the processes, in place.

    Args:
        tensors: of one type and device, the same shapes in every process.
    """
    adding(tensors)()


def adding(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Begin to sum tensors over the processes, in place, and return what ends it; nothing else is summed between.

    Args:
        tensors: as :func:`add` takes them.
    """
    return (lambda: None) if count() == 1 else _combining(tensors)


def greatest(values: Sequence[int]) -> list[int]:
    """Return each value's maximum over the processes.

    Args:
        values: as many in every process.
    """
    if count() == 1:
        return list(values)
    import torch

    told = torch.tensor(values, dtype=torch.int64)
    _combining([told], largest=True)()
    return list(told.tolist())


def first_says(value: Any) -> Any:
    """Return what the first process gives.

    Args:
        value: can be pickled; what the others give counts for nothing.
    """
    if count() == 1:
        return value
    from torch import distributed

    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def clock(seconds: float) -> float:
    """Return the first process's time.

    Args:
        seconds: this one's.

    Raises:
        KeyboardInterrupt: in all of them, if any was asked to stop.
    """
    seconds, asked = heard(seconds)
    if asked:
        stop()
    return seconds


def news(seconds: float) -> tuple[float, float]:
    """Return two figures whose sums over the processes are the first one's time, and above 0 if any was asked to stop.

    Args:
        seconds: this one's.
    """
    return 0.0 if index() else seconds, float(_asked_to_stop)


def heard(seconds: float) -> tuple[float, bool]:
    """Return the first process's time, and whether any was asked to stop, which then is for :func:`stop` to do.

    Args:
        seconds: this one's.
    """
    if count() == 1:
        return seconds, _asked_to_stop
    import torch

    told = torch.tensor(news(seconds), dtype=torch.float64)
    _combining([told])()
    return float(told[0]), bool(told[1] > 0)


def stop() -> NoReturn:
    """Do as was asked.

    Raises:
        KeyboardInterrupt: always.
    """
    global _asked_to_stop
    _asked_to_stop = False
    raise KeyboardInterrupt
