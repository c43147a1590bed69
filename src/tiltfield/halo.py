"""The slice behind a share of a block, which another process evaluates, and the gradient that it is sent in return.

Both go off as soon as they are there and are waited for only where they are needed: nobody stands still for a process
that is a little behind.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield import ranks


class Halo:
    """The slices of a process, whose first goes to the process before, if that has any.

    All processes make one, ask for what is behind their slices, and go back through both, in the same step.

    Attributes:
        own: the slices, to be used from now on, shape (y, z, x).
    """

    def __init__(self, own: Tensor) -> None:
        """Send off the first slice.

        Args:
            own: slices of this process, shape (y, z, x); the first processes may have none.
        """
        self._rows = _Rows()
        self.own: Tensor = _Offer.apply(own, self._rows)

    def with_next(self) -> Tensor:
        """Return the slices and, below them, the first of the next process, shape (y + 1, z, x); of the last, y."""
        own, following = _Take.apply(self.own, self._rows)
        return own if ranks.index() == ranks.count() - 1 else torch.cat([own, following[None]])


class _Rows:
    """A row of each process, on its way to all of them."""

    def send(self, row: Tensor, index: int) -> None:
        """Send off a row, as that of the process of this index."""
        self._rows = row.new_zeros(ranks.count(), *row.shape)
        self._rows[index] = row
        self._end = ranks.adding([self._rows])

    def received(self, index: int) -> Tensor:
        """Return the row of the process of this index, when all have sent theirs."""
        self._end()
        return self._rows[index]


class _Offer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, rows: _Rows) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.rows = rows
        rows.send(own[:1].sum(0), ranks.index())  # nothing where there is none
        return own.view_as(own)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        gradient = gradient.clone()
        gradient[:1] += ctx.rows.received(ranks.index())
        return gradient, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, rows: _Rows) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.rows, ctx.next = rows, (ranks.index() + 1) % ranks.count()  # of the last nothing comes of it
        return own.view_as(own), rows.received(ctx.next)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_own: Tensor, of_following: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.rows.send(of_following, ctx.next)
        return of_own, None
