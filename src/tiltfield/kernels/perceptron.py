"""A network of one hidden layer and one output, in pieces that fit the cache, without keeping the hidden layer.

With y = v · relu(W x), the constant 1 among x and the bias within W, and m the units that are on, the gradients follow
from one sum over the points, S = Σ g m xᵀ, g the gradient in y: that in W is diag(v) S, that in v the sums of the rows
of W ∘ S. So the way back needs to know which units are on, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield import kernels
from tiltfield.kernels import native

ROOM = 64  # channels with the constant, and hidden units, that fit the shared memory of any GPU
CHUNK = 4096  # points at a time and thread: their hidden layer stays in the cache


def perceptron(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return W₂ relu(W₁ x + b₁) + b₂.

    The same as :func:`perceptron_plainly`, several times as fast: the hidden layer is made anew on the way back.

    Args:
        features: x, shape (batch, channels, n) or (channels, n).
        weights: shapes (hidden, channels) and (1, hidden).
        biases: shapes (hidden, 1) and (1, 1).

    Returns:
        shape (batch, 1, n) or (1, n).
    """
    batch = features if features.ndim == 3 else features[None]
    if kernels.usable(features.device, features.dtype) and max(len(weights[0]), batch.shape[1] + 1) <= ROOM:
        from tiltfield.kernels import gpu_perceptron

        out = gpu_perceptron.perceptron(batch, weights, biases)
    elif native.usable(features):
        out = _Native.apply(batch, *weights, *biases)
    elif features.device.type == "cpu":
        out = _Perceptron.apply(batch, *weights, *biases)
    else:
        out = perceptron_plainly(batch, weights, biases)
    return out if features.ndim == 3 else out[0]


def perceptron_plainly(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return the same by plain products, all at once.

    Args:
        features: as there.
        weights: as there.
        biases: as there.
    """
    return weights[1] @ torch.relu(weights[0] @ features + biases[0]) + biases[1]


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, inner: Tensor, outer: Tensor, bias: Tensor, last: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        affine = torch.cat([inner, bias], dim=1)
        ctx.save_for_backward(features, affine, outer)
        out = features.new_empty(len(features), 1, features.shape[2])
        for points, y in _pieces(features, out):
            torch.addmm(last, outer, torch.mm(affine, points).relu_(), out=y)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        features, affine, outer = ctx.saved_tensors
        total, d_features = torch.zeros_like(affine), torch.empty_like(features)
        back = (outer.T * affine[:, :-1]).T.contiguous()
        for points, dx, g in _pieces(features, d_features, gradient):
            on = torch.mm(affine, points).gt_(0)
            total.addmm_(on, points.mul_(g).T)
            torch.mm(back, on, out=dx).mul_(g)
        return d_features, *_of_weights(affine, outer, total), gradient.sum()[None, None]


def _of_weights(affine: Tensor, outer: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in W without bias, v and bias, of S."""
    d_affine = outer.T * total
    return d_affine[:, :-1], (affine * total).sum(1)[None], d_affine[:, -1:]


def _pieces(features: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield points of like number: a copy of their features with the constant 1 below, and views of the others."""
    n = features.shape[2]
    size = math.ceil(n / math.ceil(n / (CHUNK * torch.get_num_threads())))
    points = features.new_ones(features.shape[1] + 1, size)
    for row, *rest in zip(features, *others, strict=True):
        for first in range(0, n, size):
            stop = min(first + size, n)
            part = points[:, : stop - first]
            part[:-1], part[-1] = row[:, first:stop], 1
            yield part, *(other[:, first:stop] for other in rest)


_TILE, _BITS = 32, 32  # points and units whose marks lie together, as in native_perceptron.c


def _kernel() -> str:
    """Return the name of the kernel: by the processor's tiles if it has them, else by vectors."""
    return "tiles" if native.tiles() else "perceptron"


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, inner: Tensor, outer: Tensor, bias: Tensor, last: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        batch, channels, n = features.shape
        features, affine = features.contiguous(), torch.cat([inner, bias], dim=1)
        marks = (math.ceil(n / _TILE), math.ceil(len(inner) / _BITS), _TILE)
        on = torch.empty(batch, *marks, dtype=torch.int32)
        out = features.new_empty(batch, 1, n)
        for x, y, m in zip(features, out, on, strict=True):
            native.call(f"{_kernel()}_forward", x, affine, outer, last.item(), y, m, n, channels, len(inner))
        ctx.save_for_backward(features, affine, outer, on)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        features, affine, outer, on = ctx.saved_tensors
        gradient, d_features = gradient.contiguous(), torch.empty_like(features)
        back = outer.T * affine[:, :-1]
        total = features.new_zeros(torch.get_num_threads(), *affine.shape)
        sums = torch.zeros_like(affine)
        for x, g, m, dx in zip(features, gradient, on, d_features, strict=True):
            sizes = (x.shape[1], len(x), len(affine), len(total))
            native.call(f"{_kernel()}_backward", x, g, m, back, dx, total, *sizes)
            sums += total.sum(0)
        return d_features, *_of_weights(affine, outer, sums), gradient.sum()[None, None]
