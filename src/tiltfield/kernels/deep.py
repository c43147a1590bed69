"""A deep network of points in bfloat16, as autocast has it, in the tiles of AMX where a processor has them.

Products are of numbers rounded to bfloat16 and are summed in float32; what a layer gives is rounded. Unlike under
autocast, biases and the last layer stay in float32, as do the gradients. On the way back every gradient with respect to
what a layer gives is rounded.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield.kernels import native

GROUP = 32  # points, and units, at a time, as in native_deep.c
_spare: collections.deque[Tensor] = collections.deque(maxlen=4)  # see _room


def usable(encoded: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> bool:
    """Return whether the kernel takes a network: float32 on a CPU with AMX, under autocast to bfloat16.

    Hidden layers are equally wide, a multiple of 32; and no gradient is wanted in what goes in.

    Args:
        encoded: what goes in.
        weights: of the layers.
        biases: of the layers.
    """
    width = len(weights[0])
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and all(native.usable(tensor) for tensor in (encoded, *weights, *biases))
        and not (torch.is_grad_enabled() and encoded.requires_grad)
        and encoded.numel() > 0
        and width % GROUP == 0
        and [len(weight) for weight in weights[1:]] == [width] * (len(weights) - 2) + [1]
        and native.tiles()
    )


def deep(encoded: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], skip: int) -> Tensor:
    """Return v · x + c of the last hidden layer x, where x ← relu(W x + b) for every layer, at first of what goes in.

    Args:
        encoded: what goes in, shape (..., inputs).
        weights: of the hidden layers, at least one, and of the output, shapes (width, inputs), (width, width) and
            (1, width); of layer `skip`, (width, width + inputs).
        biases: shapes (width,) and (1,).
        skip: layer that takes what goes in beside the output of the layer before, ≥ 1, if there are as many.

    Returns:
        shape (...).
    """
    if not usable(encoded, weights, biases):
        return deep_plainly(encoded, weights, biases, skip)
    points = encoded.reshape(-1, encoded.shape[-1])
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*weights, *biases)):
        out = _Deep.apply(points, skip, *weights, *biases)
    else:
        out = _forward(points, weights, biases, skip, None)
    return out.view(encoded.shape[:-1])


def deep_plainly(encoded: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], skip: int) -> Tensor:
    """Return the same by plain products.

    Args:
        encoded: as there.
        weights: as there.
        biases: as there.
        skip: as there.
    """
    hidden, last = encoded, len(weights) - 1
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if layer == skip < last:
            hidden = torch.cat([hidden, encoded], dim=-1)
        hidden = torch.nn.functional.linear(hidden, weight, bias)
        if layer < last:
            hidden = torch.relu(hidden)
    return hidden.squeeze(-1)


class _Deep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, skip: int, *layers: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        sizes = (*points.shape, len(weights[0]), len(weights) - 1, skip)
        kept = _room(_up(sizes[0]) * (_up(sizes[1]) + sizes[2] * sizes[3]))
        ctx.save_for_backward(kept, *weights)
        ctx.sizes = sizes
        return _forward(points, weights, biases, skip, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        kept, *weights = ctx.saved_tensors
        n, _, width, depth, _ = ctx.sizes
        packed = gradient.new_empty(max(1, depth - 1), width * width, dtype=torch.bfloat16)
        for weight, tiles in zip(weights[1:-1], packed, strict=False):
            native.call("deep_pack_back", weight.contiguous(), tiles, *weight.shape, width)
        parts = [*(width * _up(weight.shape[1]) for weight in weights[:-1]), depth * width, width]
        sums = gradient.new_empty(min(torch.get_num_threads(), _up(n) // GROUP), sum(parts))
        last = weights[-1].contiguous()
        native.call("deep_backward", gradient.contiguous(), packed, last, kept, sums, *sums.shape, *ctx.sizes)
        *inner, bias, outer = (sums.sum(0) if len(sums) > 1 else sums[0]).split(parts)
        d_weights = [d.view(width, -1)[:, : w.shape[1]] for d, w in zip(inner, weights, strict=False)]
        return None, None, *d_weights, outer[None], *bias.split(width), gradient.sum()[None]


def _forward(
    points: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], skip: int, kept: Tensor | None
) -> Tensor:
    """Return the output; what the way back needs of the layers goes to `kept`."""
    (n, n_encoded), width, depth = points.shape, len(weights[0]), len(weights) - 1
    sizes = [width * _up(weight.shape[1]) for weight in weights[:-1]]
    packed, out = points.new_empty(sum(sizes), dtype=torch.bfloat16), points.new_empty(n)
    for weight, tiles in zip(weights, packed.split(sizes), strict=False):
        native.call("deep_pack", weight.contiguous(), tiles, *weight.shape)
    keep, kept = int(kept is not None), packed if kept is None else kept
    given, last = (points.contiguous(), packed, torch.cat(list(biases))), weights[-1].contiguous()
    native.call("deep_forward", *given, last, out, kept, keep, n, n_encoded, width, depth, skip)
    return out


def _room(numbers: int) -> Tensor:
    """Return room that is used again once nothing holds it: fresh pages cost as much as a tenth of a step."""
    place = next((place for place, spare in enumerate(_spare) if len(spare) == numbers), None)
    room = torch.empty(numbers, dtype=torch.bfloat16) if place is None else _spare[place]
    if place is not None:
        del _spare[place]
    lent = room[:]
    weakref.finalize(lent, _spare.append, room)
    return lent


def _up(n: int) -> int:
    return -(-n // GROUP) * GROUP
