"""The slice behind a share of a block, which another process evaluates, and the gradient that it is sent in return."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield import ranks


def with_next(own: Tensor) -> Tensor:
    """Return slices and, below them, the first of the next process; those of the last as they are.

    All processes call this, and go back through it, in the same step.

    Args:
        own: slices of this process, shape (y, z, x); the first processes may have none.

    Returns:
        shape (y + 1, z, x), (y, z, x) for the last.
    """
    own, following = _Halo.apply(own)
    return own if ranks.index() == ranks.count() - 1 else torch.cat([own, following[None]])


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        first = own.new_zeros(ranks.count(), *own.shape[1:])
        first[ranks.index()] = own[:1].sum(0)  # nothing where there is none
        ranks.add([first])
        return own.view_as(own), first[min(ranks.index() + 1, ranks.count() - 1)]

    @staticmethod
    @once_differentiable
    def backward(ctx, of_own: Tensor, of_following: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        returned = of_own.new_zeros(ranks.count(), *of_own.shape[1:])
        if ranks.index() + 1 < ranks.count():
            returned[ranks.index() + 1] = of_following
        ranks.add([returned])
        of_own = of_own.clone()
        of_own[:1] += returned[ranks.index()]
        return of_own
