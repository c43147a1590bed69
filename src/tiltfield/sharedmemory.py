"""Sums over the processes of one machine through memory that they share.

A socket wakes a waiting process after a millisecond or so, several times in a step of a few. Here every process writes
its numbers into a slot, counts its turns, and watches the counters of the others.
"""

from __future__ import annotations

import itertools
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

LINE = 64  # bytes of a cache line, of which each process has one to itself
ROOM = 2**23  # bytes of the slots of one turn
LOOKS = 5000  # at a counter, before others get the processor between looks
NAP_AFTER, NAP = 0.02, 5e-4  # seconds of waiting from which on it sleeps between looks, and how long
ALIVE_EVERY = 1.0  # seconds between looks whether who is waited for still lives


class LostError(RuntimeError):
    """Another process has ended, and knows why."""


class SharedMemory:
    """Slots for the numbers of several processes, and how far each of them is.

    There are two sets of slots, used in turns: who has come to turn t has read all that turn t - 1 brought, whose
    slots are written again at t + 1.
    """

    def __init__(self, path: Path, index: int, pids: Sequence[int]) -> None:
        """Map the file.

        Args:
            path: a file of :func:`bytes_for` so many processes, of zeros, the same for all.
            index: which of the processes this is, from 0.
            pids: of all of them, two or more.
        """
        n = len(pids)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), bytes_for(n))
        self._index, self._pids, self._turn = index, pids, 0
        heads = memoryview(self._memory)[: n * LINE].cast("q")
        self._turns, self._left, *self._sizes = (heads[k :: LINE // 8] for k in range(4))
        self._slots = np.frombuffer(self._memory, np.uint8, offset=n * LINE).reshape(2, n, -1)

    def combining(self, arrays: Sequence[np.ndarray], *, largest: bool = False) -> Callable[[], None]:
        """Begin to replace numbers by their sums over all processes, the same to the bit in each.

        Args:
            arrays: of one type; as many in every process, of the same shapes.
            largest: by the largest instead.

        Returns:
            what ends it, and is called before the next begins. It raises LostError if another process has ended, and
            ValueError if another has not as many numbers.
        """
        flat = [array.reshape(-1) for array in arrays]  # a view, if its numbers lie side by side
        size, by = sum(len(array) for array in flat), np.maximum if largest else np.add
        batches = _batches(flat, self._slots.shape[2] // arrays[0].itemsize)
        first = next(batches, None)
        if first is not None:
            self._give(first, size)

        def end() -> None:
            if first is not None:
                self._take(first, by)
            for parts in batches:
                self._give(parts, size)
                self._take(parts, by)
            for array, values in zip(arrays, flat, strict=True):
                if not np.may_share_memory(array, values):
                    array[...] = values.reshape(array.shape)

        return end

    def _give(self, parts: Sequence[np.ndarray], size: int) -> None:
        """Go on to the next turn, and write what this process brings to it, of so many numbers in all."""
        self._turn += 1
        for part, mine in zip(parts, self._places(self._index, parts), strict=True):
            mine[...] = part
        self._sizes[self._turn % 2][self._index] = size
        self._turns[self._index] = self._turn

    def _take(self, parts: Sequence[np.ndarray], by: np.ufunc) -> None:
        """Wait until all have come to this turn, and combine what they have brought."""
        for other in range(len(self._pids)):
            self._wait(other)
        sizes = list(self._sizes[self._turn % 2])
        if len(set(sizes)) > 1:
            raise ValueError(f"expected as many numbers of each process, got {sizes}: please report this")
        if len(sizes) == 2:  # a + b is b + a to the bit, and what is this process's own lies nearer than its slot
            for part, theirs in zip(parts, self._places(1 - self._index, parts), strict=True):
                by(part, theirs, out=part)
            return
        all_places = (self._places(index, parts) for index in range(len(self._pids)))
        for part, first, second, *more in zip(parts, *all_places, strict=True):
            by(first, second, out=part)
            for values in more:
                by(part, values, out=part)

    def _places(self, index: int, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return where the parts of a process lie in this turn."""
        slot = self._slots[self._turn % 2][index].view(parts[0].dtype)
        ends = list(itertools.accumulate((len(part) for part in parts), initial=0))
        return [slot[start:stop] for start, stop in itertools.pairwise(ends)]

    def leave(self) -> None:
        """Let the others know that this process takes no further part."""
        self._left[self._index] = 1

    def _wait(self, other: int) -> None:
        """Wait until another process has come to the turn of this one."""
        turns, turn = self._turns, self._turn
        for _ in range(LOOKS):
            if turns[other] >= turn:
                return
        began = asked = time.monotonic()
        while turns[other] < turn:
            now = time.monotonic()
            if self._left[other] or (now - asked > ALIVE_EVERY and not _alive(self._pids[other])):
                if turns[other] >= turn:  # it was its last
                    return
                raise LostError(f"process {other} has ended")
            asked = now if now - asked > ALIVE_EVERY else asked
            if now - began < NAP_AFTER:
                os.sched_yield()
            else:
                time.sleep(NAP)


def _batches(arrays: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """Yield parts of flat arrays in their order, together at most so many numbers at a time."""
    batch: list[np.ndarray] = []
    left = most
    for array in arrays:
        rest = array
        while len(rest):
            part, rest = rest[:left], rest[left:]
            batch.append(part)
            left -= len(part)
            if not left:
                yield batch
                batch, left = [], most
    if batch:
        yield batch


def bytes_for(n: int) -> int:
    """Return the bytes that so many processes share."""
    return n * LINE + 2 * n * (ROOM // n // LINE * LINE)


def new_file(n: int) -> Path | None:
    """Return a new file for so many processes to share, in memory if possible; None where that cannot be relied on.

    Args:
        n: processes.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(os, "posix_fallocate"):
        return None  # elsewhere numbers may be seen after the turn that they were written before
    folder = Path("/dev/shm")
    try:
        file, name = tempfile.mkstemp(prefix="tiltfield-", dir=folder if folder.is_dir() else None)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, bytes_for(n))  # else a full folder ends the process when it is first written to
    except OSError:
        Path(name).unlink()
        return None
    finally:
        os.close(file)
    return Path(name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
