"""Mean concave total variation of slices and its gradient, on a GPU, see :mod:`tiltfield.regularise`.

A program takes a tile of a slice, the layer of vacuum above it among the others. Every voxel gathers its gradient: what
it loses by its own cost, and what the costs of the voxels before it along x, y and z send it ::

    flux = κ d / ((κ + g)(g + ε)) + ψ d' / (h + ε)

with d the difference of densities from one to the next, d' that of what exceeds the dense ones, the second part only
where the density to which or from which it goes does; with an infinite κ a voxel costs g alone, and its flux is
d / (g + ε). So every cost is made four times over, from densities in the
cache, and no two programs add to one number: results repeat to the bit.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LAYERS, WIDTH, WARPS = 8, 64, 8  # tile of a program, two voxels a thread: more would not fit the registers


def variation_and_gradient(
    slices: Tensor, counted: int, lengths: tuple[float, ...], unit: float
) -> tuple[Tensor, Tensor]:
    """Return the sum of κ·log(1 + g/κ) + ψ·h, times a unit, and its gradient.

    Args:
        slices: density, shape (y, z, x), contiguous, float32.
        counted: of the slices, the first have a cost: all, if the last is its own neighbour, else all but one.
        lengths: ε, κ, δ in the units of the density, ψ.
        unit: factor.

    Returns:
        a scalar, and as large as `slices`.
    """
    n_y, n_z, n_x = slices.shape
    grid = (triton.cdiv(n_x, WIDTH), triton.cdiv(n_z + 1, LAYERS), n_y)
    gradient, costs = torch.empty_like(slices), slices.new_empty(grid)
    _variation[grid](
        slices, gradient, costs, n_y, n_z, n_x, counted, *lengths, unit,
        BENDS=math.isfinite(lengths[1]), LAYERS=LAYERS, WIDTH=WIDTH, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return costs.sum() * unit, gradient


@triton.jit
def _log_1_plus(t: tl.tensor) -> tl.tensor:
    """Return log(1 + t), t ≥ 0, small ones too: e log 2 + log m, m within √½ and √2, by the series of artanh."""
    f = 1.0 + t
    bits = f.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    m = (bits - e * 0x800000).to(tl.float32, bitcast=True)
    u = tl.where(e == 0, t, m - 1.0)
    s = u / (2.0 + u)
    q = s * s
    series = 2.0 * s * (1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7))))
    return 0.69314718 * e.to(tl.float32) + series + (f - f)  # NaN stays NaN


@triton.jit
def _above(value: tl.tensor, dense: tl.tensor) -> tl.tensor:
    return tl.where(value > dense, value - dense, 0.0)


@triton.jit
def _voxel(
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    d: tl.tensor,
    sharpness: tl.tensor,
    edge: tl.tensor,
    dense: tl.tensor,
    top: tl.tensor,
    BENDS: tl.constexpr,
) -> tl.tensor:
    """Return the cost of voxels a, what they send to the next along x, y and z, which are b, c and d, and lose."""
    x, y, z = b - a, c - a, d - a
    square = x * x + y * y + z * z + sharpness * sharpness
    per_root = tl.rsqrt(square)
    g = square * per_root - sharpness
    weight = edge / (edge + g) * per_root if BENDS else per_root
    right, beside, below, lost = weight * x, weight * y, weight * z, weight * (x + y + z)
    cost = g
    if BENDS:  # else the edge is infinite
        own = _above(a, dense)
        top_x, top_y, top_z = _above(b, dense) - own, _above(c, dense) - own, _above(d, dense) - own
        square_top = top_x * top_x + top_y * top_y + top_z * top_z + sharpness * sharpness
        per_root_top = tl.rsqrt(square_top)
        more = top * per_root_top
        right += tl.where(b > dense, more * top_x, 0.0)
        beside += tl.where(c > dense, more * top_y, 0.0)
        below += tl.where(d > dense, more * top_z, 0.0)
        lost += tl.where(a > dense, more * (top_x + top_y + top_z), 0.0)
        h = square_top * per_root_top - sharpness
        cost = edge * _log_1_plus(g / edge) + top * h
    return cost, right, beside, below, lost


@triton.jit
def _at(plane: tl.tensor, z: tl.tensor, x: tl.tensor, n_z: tl.tensor, n_x: tl.tensor) -> tl.tensor:
    """Return densities of a slice: above and below it there is nothing, beside it all goes on as at its ends."""
    inside = tl.minimum(tl.maximum(x, 0), n_x - 1)
    return tl.load(plane + z * n_x + inside, mask=(z >= 0) & (z < n_z), other=0.0)


@triton.jit(do_not_specialize=["n_y", "n_z", "counted"])
def _variation(
    slices: tl.tensor,
    gradient: tl.tensor,
    costs: tl.tensor,
    n_y: tl.tensor,
    n_z: tl.tensor,
    n_x: tl.tensor,
    counted: tl.tensor,
    sharpness: tl.tensor,
    edge: tl.tensor,
    dense: tl.tensor,
    top: tl.tensor,
    unit: tl.tensor,
    BENDS: tl.constexpr,
    LAYERS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    y = tl.program_id(2).to(tl.int64)
    z = tl.program_id(1) * LAYERS - 1 + tl.arange(0, LAYERS)[:, None]  # from the vacuum on
    x = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    plane = slices + y * n_z * n_x
    before = slices + tl.maximum(y - 1, 0) * n_z * n_x
    after = slices + tl.minimum(y + 1, n_y - 1) * n_z * n_x
    here = _at(plane, z, x, n_z, n_x)
    cost, _, _, _, lost = _voxel(
        here, _at(plane, z, x + 1, n_z, n_x), _at(after, z, x, n_z, n_x), _at(plane, z + 1, x, n_z, n_x),
        sharpness, edge, dense, top, BENDS,
    )  # fmt: skip
    _, right, _, _, _ = _voxel(
        _at(plane, z, x - 1, n_z, n_x), here, _at(after, z, x - 1, n_z, n_x), _at(plane, z + 1, x - 1, n_z, n_x),
        sharpness, edge, dense, top, BENDS,
    )  # fmt: skip
    _, _, beside, _, _ = _voxel(
        _at(before, z, x, n_z, n_x), _at(before, z, x + 1, n_z, n_x), here, _at(before, z + 1, x, n_z, n_x),
        sharpness, edge, dense, top, BENDS,
    )  # fmt: skip
    _, _, _, below, _ = _voxel(
        _at(plane, z - 1, x, n_z, n_x), _at(plane, z - 1, x + 1, n_z, n_x), _at(after, z - 1, x, n_z, n_x), here,
        sharpness, edge, dense, top, BENDS,
    )  # fmt: skip
    inside, counts = (z < n_z) & (x < n_x), y < counted
    slope = beside + tl.where(counts, right + below - lost, 0.0)
    tl.store(gradient + y * n_z * n_x + z * n_x + x, unit * slope, mask=inside & (z >= 0))
    number = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(costs + number, tl.sum(tl.where(inside & counts, cost, 0.0)))
