"""The radial layers of a noise model's flow on the CPU: all of them in one pass over the pixels, in C."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield.kernels import native

MOST_PAIRS = 16  # as in native_radial.c


def radial_layers(noise: Tensor, base: Tensor, position: Tensor, table: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and log dz/dn of noise n, with gradients in all but the noise and the position.

    The same as :meth:`tiltfield.noise.flow.RadialFlow.to_normal` does by plain torch.

    Args:
        noise: observed - clean, any shape.
        base: log σ without its change, same shape.
        position: of the clean intensities among the nodes, same shape, 0 to nodes - 1.
        table: change of log σ, centres, a and b of the conditioned layers, mean, shape (3 pairs + 2, nodes).
        free: centre, a and b of the free layers, shape (3, pairs).
    """
    return _Layers.apply(noise, base, position, table, free)


def mean_and_square(layers: Tensor, free: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ w g(z) at every node, g the inverse of all layers, and Σ w g(z)², with gradients of the first alone.

    Args:
        layers: centre, a and b of the conditioned layers at the nodes, shape (3 pairs, nodes).
        free: of the free layers, shape (3, pairs).
        z: nodes of a quadrature for the standard normal, shape (n,).
        weight: likewise.
    """
    rest = -len(z) % native.LANES
    z, weight = (torch.nn.functional.pad(tensor, (0, rest)) for tensor in (z, weight))
    mean, square = _Moments.apply(layers, free, z, weight)
    return mean, square


def gaussian_law(observed: Tensor, clean: Tensor, table: Tensor, low: float, high: float) -> Tensor:
    """Return log p(observed | clean) of a Gaussian, with the gradient in `clean` that takes σ as given.

    Args:
        observed: recorded intensity, any shape.
        clean: clean intensity, same shape.
        table: log σ at nodes evenly spaced from `low` to `high`, linear in between and constant beyond, shape (nodes,).
        low: clean intensity of the first node.
        high: of the last one.
    """
    return _Law.apply(observed, clean, table, low, (len(table) - 1) / (high - low))


class _Law(torch.autograd.Function):
    @staticmethod
    def forward(ctx, observed: Tensor, clean: Tensor, table: Tensor, low: float, unit: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        inputs = [tensor.contiguous() for tensor in (observed, clean, table)]
        law, slope = torch.empty_like(inputs[1]), torch.empty_like(inputs[1])
        native.call("gaussian_law", *inputs, law, slope, low, unit, clean.numel(), len(table))
        ctx.save_for_backward(slope)
        return law

    @staticmethod
    @once_differentiable
    def backward(ctx, given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (slope,) = ctx.saved_tensors
        return None, given * slope, None, None, None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layers: Tensor, free: Tensor, z: Tensor, weight: Tensor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        inputs = [tensor.contiguous() for tensor in (layers, free, z, weight)]
        ctx.save_for_backward(*inputs)
        mean, square = (layers.new_empty(layers.shape[1]) for _ in range(2))
        native.call("radial_moments", *inputs, mean, square, len(z), free.shape[1], layers.shape[1])
        ctx.mark_non_differentiable(square)
        return mean, square

    @staticmethod
    @once_differentiable
    def backward(ctx, d_mean: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        layers, free, z, _ = ctx.saved_tensors
        parts = torch.get_num_threads()
        d_layers, d_free = torch.empty_like(layers), free.new_zeros(parts, *free.shape)
        sizes = (len(z), free.shape[1], layers.shape[1], parts)
        native.call("radial_moments_backward", *ctx.saved_tensors, d_mean.contiguous(), d_layers, d_free, *sizes)
        return d_layers, d_free.sum(0), None, None


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, noise: Tensor, base: Tensor, position: Tensor, table: Tensor, free: Tensor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        inputs = [tensor.contiguous() for tensor in (noise, base, position, table, free)]
        ctx.save_for_backward(*inputs)
        z, log_det = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
        native.call("radial_forward", *inputs, z, log_det, noise.numel(), free.shape[1], table.shape[1])
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx, d_z: Tensor, d_log: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        noise, base, _, table, free = ctx.saved_tensors
        parts = torch.get_num_threads()
        d_base, d_table = torch.empty_like(base), table.new_zeros(parts, *table.shape)
        d_free = free.new_zeros(parts, *free.shape)
        given = [d_z.contiguous(), d_log.contiguous()]
        sizes = (noise.numel(), free.shape[1], table.shape[1], parts)
        native.call("radial_backward", *ctx.saved_tensors, *given, d_base, d_table, d_free, *sizes)
        return None, d_base, None, d_table.sum(0), d_free.sum(0)
