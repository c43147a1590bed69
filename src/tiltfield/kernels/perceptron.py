"""A small network evaluated in pieces that fit the cache, forwards and backwards, without keeping what lies between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2048  # points at a time and thread: their hidden layer stays in the cache


def perceptron(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return W_k relu(… relu(W_1 x + b_1) …) + b_k.

    The same as :func:`perceptron_plainly`, several times as fast: hidden layers are made anew on the way back.

    Args:
        features: x, shape (batch, channels, n) or (channels, n).
        weights: of the layers, shapes (out, in).
        biases: shapes (out, 1).

    Returns:
        shape (batch, out, n) or (out, n).
    """
    if features.device.type != "cpu":
        return perceptron_plainly(features, weights, biases)
    batch = features if features.ndim == 3 else features[None]
    out = _Perceptron.apply(batch, len(weights), *weights, *biases)
    return out if features.ndim == 3 else out[0]


def perceptron_plainly(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return the same by plain products, all at once.

    Args:
        features: as there.
        weights: as there.
        biases: as there.
    """
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        features = torch.relu(weight @ features + bias)
    return weights[-1] @ features + biases[-1]


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, depth: int, *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.depth = depth
        ctx.save_for_backward(features, *parameters)
        weights, biases = parameters[:depth], parameters[depth:]
        out = features.new_empty(len(features), len(weights[-1]), features.shape[2])
        for x, y in _pieces(features, out):
            torch.addmm(biases[-1], weights[-1], _hidden(x, weights, biases)[-1], out=y)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        features, *parameters = ctx.saved_tensors
        weights, biases = parameters[: ctx.depth], parameters[ctx.depth :]
        d_weights, d_biases = [torch.zeros_like(w) for w in weights], [torch.zeros_like(b) for b in biases]
        d_features = torch.empty_like(features)
        for x, dx, g in _pieces(features, d_features, gradient):
            layers = _hidden(x, weights, biases)
            scale = torch.ones_like(g[:, :1])  # the gradient is scale · g: behind a single output, g has no hidden copy
            for k in reversed(range(ctx.depth)):
                d_weights[k].addcmul_(scale, g @ layers[k].T)
                d_biases[k].addcmul_(scale, g.sum(1, keepdim=True))
                back = (scale * weights[k]).T
                if k == 0:
                    torch.mm(back, g, out=dx)
                elif len(g) == 1:
                    scale, g = back, _through_relu(g.expand_as(layers[k]), layers[k])
                else:
                    scale, g = torch.ones_like(back[:, :1]), _through_relu(back @ g, layers[k])
        return (d_features, None, *d_weights, *d_biases)


def _through_relu(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, output, 0)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = CHUNK * torch.get_num_threads()
    for rows in zip(*tensors, strict=True):
        for first in range(0, rows[0].shape[1], size):
            yield tuple(row[:, first : first + size] for row in rows)


def _hidden(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return the input and the hidden layers."""
    layers = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(torch.addmm(bias, weight, layers[-1]).relu_())
    return layers
