"""Which part of the program the time of real training steps goes to, forwards and backwards.

Every moment belongs to one part, so that the shares add up. Forwards it is the innermost part that was entered;
backwards the part whose result's gradient was reached last. On a CPU gradients are computed in the thread that asks for
them, one after the other.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torch import Tensor

PARTS = ("encoding", "network", "projector", "variation", "noise", "optimiser", "rest")


class Clock:
    """Keeps the seconds of every part.

    Attributes:
        seconds: by part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = "rest", time.perf_counter()

    def turn(self, part: str) -> str:
        """Give what comes to a part, and return the part that had it."""
        now, before = time.perf_counter(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def read(self) -> dict[str, float]:
        """Return the seconds since the last reading, and begin anew."""
        self.turn("rest")
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def of(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose time, and that of the gradient through it, is a part's."""

        def timed(*args: Any, **named: Any) -> Any:
            before = self.turn(part)
            for given in _with_gradient(args):
                given.register_hook(lambda _: _nothing(self.turn(before)))
            try:
                made = call(*args, **named)
            finally:
                self.turn(before)
            for result in _with_gradient(made if isinstance(made, tuple) else (made,)):
                # after the hooks of the tensor, which say that whoever takes it has done with it
                result.grad_fn.register_prehook(lambda _: _nothing(self.turn(part)))
            return made

        return timed


def _with_gradient(values: tuple[Any, ...]) -> list[Any]:
    return [value for value in values if isinstance(value, Tensor) and value.grad_fn is not None]


def _nothing(_: object) -> None:
    """Return nothing, so that a hook leaves the gradient as it is."""


@contextlib.contextmanager
def parts_timed(state: Any) -> Iterator[Clock]:
    """Return a clock of the steps that are made inside.

    Args:
        state: of the fit by slices.
    """
    from tiltfield import fit
    from tiltfield.problem import Problem

    clock = Clock()
    field = state.field
    timed = [
        (field, "slices", "encoding"),
        (field, "decode", "network"),
        (Problem, "image", "projector"),
        (fit, "total_variation", "variation"),
        (fit, "margin_density", "variation"),
        (fit, "_likelihood", "noise"),
        (Tensor, "backward", "rest"),
        *((optimiser, name, "optimiser") for optimiser in state.optimisers for name in ("zero_grad", "step")),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, part in timed:
            stack.enter_context(mock.patch.object(owner, name, clock.of(part, getattr(owner, name))))
        yield clock
