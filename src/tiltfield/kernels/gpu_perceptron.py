"""A network of one hidden layer and one output, on a GPU: hidden units stay in registers, forwards and backwards.

With y = v · relu(W x), the constant 1 among x and the bias within W, and m the units that are on, the gradients follow
from one sum over the points, S = Σ g m xᵀ, g the gradient in y: that in W is diag(v) S, that in v the sums of the rows
of W ∘ S. Every program sums S over its own points, and torch adds those sums, always in the same order: results repeat
to the bit. The hidden units are made anew on the way back.

Products run on tensor cores. W x takes three of tf32 and keeps 21 of 24 digits, for it says which units are on: errors
of 1e-7, and one unit in 10⁷ wrongly on or off. In the others m is exact in bfloat16, and what it is multiplied with is
the sum of two bfloat16: errors of some 3e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

POINTS, WARPS, STAGES = 64, 4, 2  # points that a program takes at a time, and what the registers allow for them
PROGRAMS = 512  # that share the way back
_LEAST = 16  # least side of a product on tensor cores


def perceptron(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return W₂ relu(W₁ x + b₁) + b₂.

    Args:
        features: x, shape (batch, channels, n), float32.
        weights: of two layers, shapes (hidden, channels) and (1, hidden).
        biases: shapes (hidden, 1) and (1, 1).

    Returns:
        shape (batch, 1, n).
    """
    return _Perceptron.apply(features, *weights, *biases)


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        features, inner, outer, inner_bias, outer_bias = (t.contiguous() for t in (features, *parameters))
        ctx.save_for_backward(features, inner, outer, inner_bias)
        batch, channels, n = features.shape
        out = features.new_empty(batch, 1, n)
        _forward[(min(2 * PROGRAMS, _tiles(features)),)](
            features, inner, outer, inner_bias, outer_bias, out, batch, n, channels, len(inner),
            **_sides(channels, len(inner)),
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        features, inner, outer, inner_bias = ctx.saved_tensors
        (batch, channels, n), hidden = features.shape, len(inner)
        programs = min(PROGRAMS, _tiles(features))
        d_features = torch.empty_like(features)
        sums = features.new_empty(programs, hidden, channels + 1)
        _backward[(programs,)](
            features, inner, outer, inner_bias, gradient.contiguous(), d_features, sums, batch, n, channels, hidden,
            SHORT=_short(features), **_sides(channels, hidden),
        )  # fmt: skip
        total = sums.sum(0)
        d_outer = (torch.cat([inner, inner_bias], dim=1) * total).sum(1)[None]
        d_inner, d_inner_bias = (outer.T * total).split([channels, 1], dim=1)
        return d_features, d_inner, d_outer, d_inner_bias, gradient.sum().view(1, 1)


def _short(features: Tensor) -> tl.dtype:
    """Return the type of the halves of numbers: Triton's interpreter has no products of bfloat16."""
    return tl.bfloat16 if features.is_cuda else tl.float32


def _tiles(features: Tensor) -> int:
    """Return how many times a program's points there are."""
    return len(features) * triton.cdiv(features.shape[2], POINTS)


def _sides(channels: int, hidden: int) -> dict[str, object]:
    """Return sizes of blocks and other options of both kernels."""
    return {
        "CHANNELS": max(_LEAST, triton.next_power_of_2(channels + 1)),
        "HIDDEN": max(_LEAST, triton.next_power_of_2(hidden)),
        "POINTS": POINTS,
        "num_warps": WARPS,
        "num_stages": STAGES,
        "enable_fp_fusion": True,
    }


@triton.jit
def _inputs(x: tl.tensor, point: tl.tensor, channel: tl.tensor, n: tl.tensor, channels: tl.tensor) -> tl.tensor:
    """Return the channels of some points, and behind them 1."""
    inside = (point < n)[:, None] & (channel < channels)[None, :]
    values = tl.load(x + channel[None, :] * n + point[:, None], mask=inside, other=0.0)
    return tl.where((channel == channels)[None, :], 1.0, values)


@triton.jit
def _weights(
    inner: tl.tensor,
    inner_bias: tl.tensor,
    channel: tl.tensor,
    unit: tl.tensor,
    channels: tl.tensor,
    hidden: tl.tensor,
) -> tl.tensor:
    """Return the weights of the hidden units by channel, and behind them their biases."""
    present = (unit < hidden)[None, :]
    inside = (channel < channels)[:, None] & present
    values = tl.load(inner + unit[None, :] * channels + channel[:, None], mask=inside, other=0.0)
    last = (channel == channels)[:, None] & present
    return values + tl.load(inner_bias + unit[None, :] + channel[:, None] * 0, mask=last, other=0.0)


@triton.jit
def _halves(values: tl.tensor, SHORT: tl.constexpr) -> tl.tensor:
    """Return two numbers of a short type that add up to about the values."""
    high = values.to(SHORT)
    return high, (values - high.to(tl.float32)).to(SHORT)


@triton.jit(do_not_specialize=["batch", "channels", "hidden"])
def _forward(
    features: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    inner_bias: tl.tensor,
    outer_bias: tl.tensor,
    out: tl.tensor,
    batch: tl.tensor,
    n: tl.tensor,
    channels: tl.tensor,
    hidden: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    POINTS: tl.constexpr,
) -> None:
    channel, unit = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN)
    weight = _weights(inner, inner_bias, channel, unit, channels, hidden)
    outwards = tl.load(outer + unit, mask=unit < hidden, other=0.0)[None, :]
    last = tl.load(outer_bias)
    across = tl.cdiv(n, POINTS)
    for tile in range(tl.program_id(0), batch * across, tl.num_programs(0)):
        member = (tile // across).to(tl.int64)
        point = tile % across * POINTS + tl.arange(0, POINTS)
        x = _inputs(features + member * channels * n, point, channel, n, channels)
        units = tl.dot(x, weight, input_precision="tf32x3")
        units = tl.maximum(units, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(out + member * n + point, tl.sum(units * outwards, axis=1) + last, mask=point < n)


@triton.jit(do_not_specialize=["batch", "channels", "hidden"])
def _backward(
    features: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    inner_bias: tl.tensor,
    gradient: tl.tensor,
    d_features: tl.tensor,
    sums: tl.tensor,
    batch: tl.tensor,
    n: tl.tensor,
    channels: tl.tensor,
    hidden: tl.tensor,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    POINTS: tl.constexpr,
    SHORT: tl.constexpr,
) -> None:
    channel, unit = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN)
    weight = _weights(inner, inner_bias, channel, unit, channels, hidden)
    through = tl.load(outer + unit, mask=unit < hidden, other=0.0)[None, :] * weight
    through_high, through_low = _halves(tl.trans(through), SHORT)
    total = tl.zeros((HIDDEN, CHANNELS), tl.float32)
    across = tl.cdiv(n, POINTS)
    for tile in range(tl.program_id(0), batch * across, tl.num_programs(0)):
        member = (tile // across).to(tl.int64)
        point = tile % across * POINTS + tl.arange(0, POINTS)
        x = _inputs(features + member * channels * n, point, channel, n, channels)
        given = tl.load(gradient + member * n + point, mask=point < n, other=0.0)[:, None]
        on = tl.where(tl.dot(x, weight, input_precision="tf32x3") <= 0, 0.0, 1.0).to(SHORT)
        d_x = (tl.dot(on, through_high) + tl.dot(on, through_low)) * given
        inside = (point < n)[:, None] & (channel < channels)[None, :]
        tl.store(d_features + (member * channels + channel[None, :]) * n + point[:, None], d_x, mask=inside)
        high, low = _halves(x * given, SHORT)
        total = tl.dot(tl.trans(on), high, acc=total)
        total = tl.dot(tl.trans(on), low, acc=total)
    target = sums + (tl.program_id(0) * hidden + unit[:, None]) * (channels + 1) + channel[None, :]
    tl.store(target, total, mask=(unit < hidden)[:, None] & (channel <= channels)[None, :])
