"""The slice behind a share of a block, which another process evaluates, and the gradient that it is sent in return.

Both go off as soon as they are there and are waited for only where they are needed: nobody stands still for a process
that is a little behind.
"""

from __future__ import annotations

from collections.abc import Callable

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
        self.end: Callable[[], None]
        self.rows: Tensor
        self.own: Tensor = _Offer.apply(own, self)

    def with_next(self) -> Tensor:
        """Return the slices and, below them, the first of the next process, shape (y + 1, z, x); of the last, y."""
        own, following = _Take.apply(self.own, self)
        return own if ranks.index() == ranks.count() - 1 else torch.cat([own, following[None]])

    def begin(self, row: Tensor, index: int) -> None:
        """Send off a row, as that of the process of this index.

        Args:
            row: shape (z, x).
            index: of a process.
        """
        self.rows = row.new_zeros(ranks.count(), *row.shape)
        self.rows[index] = row
        self.end = ranks.adding([self.rows])


class _Offer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, halo: Halo) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.halo = halo
        halo.begin(own[:1].sum(0), ranks.index())  # nothing where there is none
        return own.view_as(own)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.halo.end()
        gradient = gradient.clone()
        gradient[:1] += ctx.halo.rows[ranks.index()]
        return gradient, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, halo: Halo) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.halo, ctx.next = halo, (ranks.index() + 1) % ranks.count()  # of the last nothing comes of it
        halo.end()
        return own.view_as(own), halo.rows[ctx.next]

    @staticmethod
    @once_differentiable
    def backward(ctx, of_own: Tensor, of_following: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.halo.begin(of_following, ctx.next)
        return of_own, None
