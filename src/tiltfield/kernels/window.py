"""Large tables of which a step touches a few adjacent planes: their gradient and Adam's update are of those alone.

A step of the fit renders a block of slices, and so reads a window of planes of every grid. Dense gradients and a dense
Adam would pass over the whole table a step, which takes longer than everything else together on large volumes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer

from tiltfield.kernels import native

_MOMENTS = ("first", "second", "touched")


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


class Direct(Optimizer):
    """An optimiser whose methods are called directly.

    To keep its compiler out of them, torch would first import it, which takes one to two seconds of every process.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def parameters(self) -> list[Any]:
        """Return all of them."""
        return [parameter for group in self.param_groups for parameter in group["params"]]


class Adam(Direct, torch.optim.Adam):
    """Adam (Kingma and Ba, 2015) by torch, all tensors of a group in one call."""

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-15
    ) -> None:
        """Take over the parameters.

        Args:
            params: tensors, or groups of them.
            lr: learning rate.
            betas: decay of the first and of the second moment, a step.
            eps: added to the deviation.
        """
        super().__init__(params, lr=lr, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Descend on the parameters that have a gradient."""
        inspect.unwrap(torch.optim.Adam.step)(self)
        for parameter in self.parameters:
            if parameter.grad is not None:
                increment_version(parameter)  # torch does so itself, unless all are in one call


class WindowAdam(Direct):
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
        for table in self.parameters:
            table.windows = []
            self.state[table] = {
                "first": torch.zeros_like(table),
                "second": torch.zeros_like(table),
                "touched": torch.zeros(len(table), device=table.device),
            }

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        super().zero_grad()
        for table in self.parameters:
            table.windows.clear()

    def join(self) -> list[Tensor]:
        """Return the gradients, which wait for :meth:`step`, of one window of each table, around all that were read."""
        joint = []
        for table in self.parameters:
            if len(table.windows) != 1 or table.grad is not None:
                parts = _gradients(table)
                first = min((start for start, _ in parts), default=0)
                stop = max((start + len(gradient) for start, gradient in parts), default=0)
                total = table.new_zeros(stop - first, *table.shape[1:])
                for start, gradient in parts:
                    total[start - first : start - first + len(gradient)] += gradient
                table.grad, table.windows = None, [(first, total)]
            joint.append(table.windows[0][1])
        return joint

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Descend on the planes that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                for start, gradient in _gradients(table):
                    planes = slice(start, start + len(gradient))
                    first, second, touched = (self.state[table][name][planes] for name in _MOMENTS)
                    descend(table[planes], gradient, first, second, touched, group)


def descend(
    values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, touched: Tensor, group: dict[str, Any]
) -> None:
    """Take a step of Adam on planes, in place; the same as :func:`descend_plainly`, in one pass.

    Args:
        values: of the planes, along the first dimension.
        gradient: the same shape.
        first: mean of the gradients so far.
        second: mean of their squares.
        touched: steps so far, shape (planes,).
        group: lr, betas and eps.
    """
    if not native.usable(values):
        descend_plainly(values, gradient, first, second, touched, group)
    elif len(values):
        fresh, fresh2 = (1 - beta for beta in group["betas"])
        rates = (group["lr"], fresh, fresh2, group["eps"])
        sizes = (len(values), values[0].numel())
        native.call("adam_descend", values, gradient.contiguous(), first, second, touched, *sizes, *rates)
        increment_version(values)


def descend_plainly(
    values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, touched: Tensor, group: dict[str, Any]
) -> None:
    """Do the same by torch's operators.

    Args:
        values: as there.
        gradient: as there.
        first: as there.
        second: as there.
        touched: as there.
        group: as there.
    """
    decay, decay2 = group["betas"]
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
