"""Threads: how many torch takes, and images of a stack several at a time, as NumPy and SciPy let them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

MOST = 4  # more would wait for memory, and need more of it


def by_image(function: Callable[..., Any], *stacks: Iterable[Any]) -> list[Any]:
    """Return what a function gives for each image, in their order; by as many threads as cores, or OMP_NUM_THREADS.

    Args:
        function: of one entry of each of the stacks.
        stacks: equally many entries in each.
    """
    with ThreadPoolExecutor(shared_by()) as pool:
        return list(pool.map(function, *stacks))


def shared_by() -> int:
    """Return how many threads share out work on images: as many as cores, or OMP_NUM_THREADS, but few."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, int(asked) if asked.isdecimal() and int(asked) else cores)


@contextmanager
def as_many_as(threads: int | None) -> Iterator[None]:
    """Let torch take so many threads, and as many as before afterwards.

    Args:
        threads: ≥ 1; None: as many as it takes.
    """
    import torch  # which takes a second: not for the help

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
