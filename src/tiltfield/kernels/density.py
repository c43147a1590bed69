"""From what the network puts out to the density, in one pass, in C on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield.kernels import native


def density(values: Tensor, scale: float, growth: float) -> Tensor:
    """Return s (p + G p²) with p = log(1 + e^y): near zero an exponential, then linear, then a square.

    Args:
        values: y, any shape.
        scale: s, > 0.
        growth: G, ≥ 0.

    Returns:
        same shape.
    """
    return _Native.apply(values, scale, growth) if native.usable(values) else density_plainly(values, scale, growth)


def density_plainly(values: Tensor, scale: float, growth: float) -> Tensor:
    """Return the same by torch's operators.

    Args:
        values: as there.
        scale: as there.
        growth: as there.
    """
    p = torch.nn.functional.softplus(values)
    return scale * (p + growth * p.square())


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, scale: float, growth: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        values = values.contiguous()
        ctx.save_for_backward(values)
        ctx.law = scale, growth
        out = torch.empty_like(values)
        native.call("density_forward", values, out, *ctx.law, values.numel())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, given: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (values,) = ctx.saved_tensors
        gradient = torch.empty_like(values)
        native.call("density_backward", values, given.contiguous(), gradient, *ctx.law, values.numel())
        return gradient, None, None
