"""Total variation and its gradient in one pass over the density, by a kernel in C or on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield import kernels
from tiltfield.kernels import native

Maker = Callable[[Tensor, int, tuple[float, ...], float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Law:
    """What gradients cost, lengths in units of the typical density: κ·log(1 + g/κ) + ψ·h.

    Attributes:
        sharpness: ε, > 0.
        edge: κ, > 0; infinity gives g alone, without the h below.
        dense: δ, of which h is the g of what exceeds it.
        top: ψ, ≥ 0.
    """

    sharpness: float
    edge: float
    dense: float
    top: float


def variation(slices: Tensor, scale: float, law: Law, closed: bool) -> Tensor:
    """Return the mean of κ·log(1 + g/κ) + ψ·h over voxels, see :func:`tiltfield.regularise.total_variation`.

    The same as :func:`variation_plainly`, many times as fast: the gradient is made with the value.

    Args:
        slices: density of adjacent slices, shape (y, z, x).
        scale: s, typical density, > 0.
        law: the cost.
        closed: whether the last slice is its own neighbour, else it is but the neighbour of the one before; one alone
            always is.

    Returns:
        scalar ≥ 0.
    """
    make = _maker(slices) if slices.numel() else None
    if make is None:
        return variation_plainly(slices, scale, law, closed)
    return _Made.apply(make, slices, scale, law, closed or len(slices) == 1)


def _maker(slices: Tensor) -> Maker | None:
    """Return what makes value and gradient of such slices, None if only torch can."""
    if kernels.usable(slices.device, slices.dtype):
        from tiltfield.kernels import gpu_variation

        return gpu_variation.variation_and_gradient
    return _natively if native.usable(slices) else None


def variation_plainly(slices: Tensor, scale: float, law: Law, closed: bool) -> Tensor:
    """Return the same by torch's operators.

    Args:
        slices: as there.
        scale: as there.
        law: as there.
        closed: as there.
    """
    if closed or len(slices) == 1:
        slices = torch.cat([slices, slices[-1:]])
    r = torch.nn.functional.pad(slices / scale, (0, 0, 1, 1))
    r = torch.cat([r, r[..., -1:]], dim=-1)  # or the last column would have no variation within it
    gradient = _gradient(r, law.sharpness)
    if math.isinf(law.edge):
        return gradient.mean()
    top = _gradient((r - law.dense).clamp_min(0), law.sharpness)
    return (law.edge * torch.log1p(gradient / law.edge) + law.top * top).mean()


def _gradient(r: Tensor, sharpness: float) -> Tensor:
    inner = r[:-1, :-1, :-1]
    square = (r[1:, :-1, :-1] - inner).square()
    square = square + (r[:-1, 1:, :-1] - inner).square() + (r[:-1, :-1, 1:] - inner).square()
    return torch.sqrt(square + sharpness**2) - sharpness


class _Made(torch.autograd.Function):
    @staticmethod
    def forward(ctx, make: Maker, slices: Tensor, scale: float, law: Law, closed: bool) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        n_y, n_z, n_x = slices.shape
        counted = n_y if closed else n_y - 1
        lengths = (scale * law.sharpness, scale * law.edge, scale * law.dense, law.top)
        value, gradient = make(slices.contiguous(), counted, lengths, 1 / (scale * counted * (n_z + 1) * n_x))
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return None, gradient * given, None, None, None


def _natively(slices: Tensor, counted: int, lengths: tuple[float, ...], unit: float) -> tuple[Tensor, Tensor]:
    gradient, value = torch.empty_like(slices), slices.new_empty(())
    parts = torch.get_num_threads()
    native.call("variation_and_gradient", slices, gradient, value, *slices.shape, counted, *lengths, unit, parts)
    return value, gradient
