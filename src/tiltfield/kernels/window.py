"""Large tables of which a step touches a few adjacent planes: their gradient and Adam's update are of those alone.

A step of the fit renders a block of slices, and so reads a window of planes of every grid. Dense gradients and a dense
Adam would pass over the whole table a step, which takes longer than everything else together on large volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def window(table: Tensor, first: int, count: int) -> Tensor:
    """Return planes of a table, with a gradient that waits at the table for :class:`WindowAdam` if that optimises it.

    Args:
        table: planes along its first dimension.
        first: the first plane.
        count: how many.
    """
    if getattr(table, "windows", None) is None or not torch.is_grad_enabled():
        return table[first : first + count]
    return _Window.apply(table, first, count)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, first: int, count: int) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.table, ctx.first = table, first
        return table[first : first + count]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.table.windows.append((ctx.first, gradient))
        return None, None, None


class WindowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015) that leaves planes alone while no step touches them, with their moments.

    Every plane counts its own steps. What :func:`window` read has its gradient here, anything else in `grad`.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-15
    ) -> None:
        """Take over the parameters.

        Args:
            params: tables, or groups of them.
            lr: learning rate.
            betas: decay of the first and of the second moment, a touch.
            eps: added to the deviation.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        for group in self.param_groups:
            for table in group["params"]:
                table.windows = []
                self.state[table] = {
                    "first": torch.zeros_like(table),
                    "second": torch.zeros_like(table),
                    "touched": torch.zeros(len(table), device=table.device),
                }

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        super().zero_grad(set_to_none)
        for table in self.tables:
            table.windows.clear()

    @property
    def tables(self) -> list[Any]:
        """Return all of them."""
        return [table for group in self.param_groups for table in group["params"]]

    def spans(self) -> list[tuple[int, int]]:
        """Return, for each table, the first plane that has a gradient and the one behind the last; (len, 0) if none."""
        ends = [[(first, first + len(g)) for first, g in _gradients(table)] for table in self.tables]
        return [
            (min((first for first, _ in e), default=len(table)), max((stop for _, stop in e), default=0))
            for table, e in zip(self.tables, ends, strict=True)
        ]

    def widen(self, spans: Iterable[tuple[int, int]]) -> list[Tensor]:
        """Return the gradients, which wait for :meth:`step`, of wider windows, zero where there was none.

        Args:
            spans: for each table, as :meth:`spans` gives them, these at least.
        """
        wide = []
        for table, (first, stop) in zip(self.tables, spans, strict=True):
            total = table.new_zeros(max(0, stop - first), *table.shape[1:])
            for start, gradient in _gradients(table):
                total[start - first : start - first + len(gradient)] += gradient
            table.grad, table.windows = None, [(first, total)]
            wide.append(total)
        return wide

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Descend on the planes that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                for first, gradient in _gradients(table):
                    planes = slice(first, first + len(gradient))
                    self._descend(table[planes], gradient, planes, self.state[table], group)

    @staticmethod
    def _descend(values: Tensor, gradient: Tensor, planes: slice, state: dict[str, Tensor], group: dict) -> None:
        decay, decay2 = group["betas"]
        first, second, touched = (state[name][planes] for name in ("first", "second", "touched"))
        touched += 1
        shape = (-1, *[1] * (values.ndim - 1))
        scale = (group["lr"] / (1 - decay**touched)).view(shape)
        first.lerp_(gradient, 1 - decay)
        second.mul_(decay2).addcmul_(gradient, gradient, value=1 - decay2)
        root = (second / (1 - decay2**touched).view(shape)).sqrt_().add_(group["eps"])
        values.sub_(root.reciprocal_().mul_(first).mul_(scale))


def _gradients(table: Any) -> list[tuple[int, Tensor]]:
    """Return the windows of a table that have a gradient: first plane, gradient."""
    return [*table.windows, *([] if table.grad is None else [(0, table.grad)])]
