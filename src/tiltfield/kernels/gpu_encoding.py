"""Features of all grid levels on a block of slices, on a GPU: bilinear along z and x, written where the network reads.

The plain way multiplies by matrices of which all but two entries a row are 0. Here a pixel gathers from its four nodes;
on the way back a node gathers from the pixels of its two cells, along z first, then along x over the few rows left, so
that no two programs add to one number. Where nodes share entries through a hash, the second part adds by atomics, in
any order. Positions are float32, so features differ from exact ones by up to 3e-5 of what they change by over a node
spacing, in slices of 1000 pixels; those of the plain way (:mod:`tiltfield.fields.hashgrid`) do as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDTH, WARPS = 256, 4  # pixels or nodes of a row that a program takes


@dataclass(frozen=True)
class Axis:
    """Pixels along an axis among the nodes of a level, in node spacings from the first node.

    Attributes:
        pixels: number of pixels.
        nodes: number of nodes, ≥ 2.
        start: position of the first pixel.
        step: distance of pixels, > 0.
        low: least position; pixels before it count as there. ≥ 0.
        high: greatest position, likewise; ≥ low, ≤ nodes - 1.
    """

    pixels: int
    nodes: int
    start: float
    step: float
    low: float
    high: float

    @property
    def line(self) -> tuple[float, float, float, float]:
        """Return start, step, low and high."""
        return self.start, self.step, self.low, self.high


@dataclass(frozen=True)
class Lattice:
    """The nodes of a level in a plane, and the pixels among them.

    Attributes:
        z: along z.
        x: along x.
        prime: of the hash by which nodes share entries; 0 if each has its own.
    """

    z: Axis
    x: Axis
    prime: int


def encode(tables: Sequence[Tensor], lattices: Sequence[Lattice]) -> Tensor:
    """Return the features of all levels on a grid, with gradient in the tables.

    Args:
        tables: of each level, mixed along y, shape (n_y, features, entries), float32.
        lattices: as many, of the same pixels.

    Returns:
        shape (n_y, all features, n_z, n_x).
    """
    return _Encode.apply(lattices, *tables)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lattices: Sequence[Lattice], *tables: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.lattices, ctx.shapes = lattices, [table.shape for table in tables]
        pixels = lattices[0].z.pixels, lattices[0].x.pixels
        features = tables[0].new_empty(len(tables[0]), sum(table.shape[1] for table in tables), *pixels)
        for lattice, table, part in zip(lattices, tables, _parts(features, ctx.shapes), strict=True):
            z, x = lattice.z, lattice.x
            grid = (triton.cdiv(x.pixels, WIDTH), z.pixels, len(table))
            _interpolate[grid](
                table.contiguous(), part, z.pixels, x.pixels, z.nodes, x.nodes, table.shape[2], *z.line, *x.line,
                features.stride(0), FEATURES=table.shape[1], PRIME=lattice.prime, LOW=_low(lattice),
                WIDTH=WIDTH, num_warps=WARPS, enable_fp_fusion=True,
            )  # fmt: skip
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        parts = _parts(gradient.contiguous(), ctx.shapes)
        tables = [_gathered(*level) for level in zip(parts, ctx.shapes, ctx.lattices, strict=True)]
        return (None, *tables)


def _parts(features: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """Return the channels of each level."""
    return features.split([shape[1] for shape in shapes], dim=1)


def _low(lattice: Lattice) -> int:
    """Return the binary digits that number the nodes of a row; 0 where nothing needs them."""
    return (lattice.x.nodes - 1).bit_length() if lattice.prime else 0


def _gathered(gradient: Tensor, shape: torch.Size, lattice: Lattice) -> Tensor:
    """Return the gradient in the table of a level, given that in its features, (n_y, features, n_z, n_x)."""
    (n_y, n_features, n_entries), z, x = shape, lattice.z, lattice.x
    rows = gradient.new_empty(n_y * n_features, z.nodes, x.pixels)
    _gather_z[(triton.cdiv(x.pixels, WIDTH), z.nodes, len(rows))](
        gradient, rows, z.pixels, x.pixels, z.nodes, *z.line, gradient.stride(0),
        FEATURES=n_features, WIDTH=WIDTH, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    table = gradient.new_zeros(shape) if lattice.prime else gradient.new_empty(shape)
    _gather_x[(triton.cdiv(x.nodes, WIDTH), z.nodes, len(rows))](
        rows, table, x.pixels, z.nodes, x.nodes, n_entries, *x.line,
        PRIME=lattice.prime, LOW=_low(lattice), WIDTH=WIDTH, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return table


@triton.jit
def _position(pixel: tl.tensor, start: tl.tensor, step: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(pixel * step + start, low), high)


@triton.jit
def _entry(
    z: tl.tensor, x: tl.tensor, nodes_x: tl.tensor, entries: tl.tensor, PRIME: tl.constexpr, LOW: tl.constexpr
) -> tl.tensor:
    """Return the entries of nodes of a row: only what stands above the LOW binary digits needs a 64-bit remainder."""
    if PRIME == 0:
        entry = z * nodes_x + x
    else:
        scattered = z.to(tl.int64) * PRIME
        high = ((scattered >> LOW << LOW) % entries).to(tl.int32)
        low = (scattered & ((1 << LOW) - 1)).to(tl.int32)
        entry = (high + (low ^ x)) % entries
    return entry


@triton.jit(do_not_specialize=["n_z", "nodes_z", "nodes_x", "entries"])  # one kernel serves all levels
def _interpolate(
    table: tl.tensor,
    features: tl.tensor,
    n_z: tl.tensor,
    n_x: tl.tensor,
    nodes_z: tl.tensor,
    nodes_x: tl.tensor,
    entries: tl.tensor,
    z_start: tl.tensor,
    z_step: tl.tensor,
    z_low: tl.tensor,
    z_high: tl.tensor,
    x_start: tl.tensor,
    x_step: tl.tensor,
    x_low: tl.tensor,
    x_high: tl.tensor,
    stride: tl.tensor,
    FEATURES: tl.constexpr,
    PRIME: tl.constexpr,
    LOW: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Interpolate the features of some pixels of a row."""
    row, member = tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    at_z = _position(row, z_start, z_step, z_low, z_high)
    at_x = _position(pixel, x_start, x_step, x_low, x_high)
    node_z = tl.minimum(at_z.to(tl.int32), nodes_z - 2)
    node_x = tl.minimum(at_x.to(tl.int32), nodes_x - 2)
    share_z, share_x = at_z - node_z, at_x - node_x
    upper_left = _entry(node_z, node_x, nodes_x, entries, PRIME, LOW)
    upper_right = _entry(node_z, node_x + 1, nodes_x, entries, PRIME, LOW)
    lower_left = _entry(node_z + 1, node_x, nodes_x, entries, PRIME, LOW)
    lower_right = _entry(node_z + 1, node_x + 1, nodes_x, entries, PRIME, LOW)
    source = table + member * FEATURES * entries
    target = features + member * stride + row * n_x + pixel
    for _ in tl.static_range(FEATURES):
        upper = tl.load(source + upper_left) * (1 - share_x) + tl.load(source + upper_right) * share_x
        lower = tl.load(source + lower_left) * (1 - share_x) + tl.load(source + lower_right) * share_x
        tl.store(target, upper * (1 - share_z) + lower * share_z, mask=pixel < n_x)
        source += entries
        target += n_z * n_x


@triton.jit
def _support(
    node: tl.tensor, n: tl.tensor, start: tl.tensor, step: tl.tensor, low: tl.tensor, high: tl.tensor
) -> tl.tensor:
    """Return the first and the last pixel within a spacing of a node, and perhaps some whose weight is 0."""
    slack = 0.01  # for rounding
    first = tl.ceil((node - 1 - start) / step - slack).to(tl.int32)
    last = tl.floor((node + 1 - start) / step + slack).to(tl.int32)
    first = tl.where(node - 1 < low + slack, 0, tl.maximum(first, 0))  # all pixels before `low` are there
    last = tl.where(node + 1 > high - slack, n - 1, tl.minimum(last, n - 1))
    return first, last


@triton.jit(do_not_specialize=["n_z", "nodes"])
def _gather_z(
    gradient: tl.tensor,
    rows: tl.tensor,
    n_z: tl.tensor,
    n_x: tl.tensor,
    nodes: tl.tensor,
    start: tl.tensor,
    step: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    stride: tl.tensor,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Sum the rows of pixels near a row of nodes."""
    node, plane = tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    source = gradient + plane // FEATURES * stride + plane % FEATURES * n_z * n_x + pixel
    first, last = _support(node, n_z, start, step, low, high)
    total = tl.zeros((WIDTH,), tl.float32)
    for row in range(first, last + 1):
        weight = tl.maximum(1.0 - tl.abs(_position(row, start, step, low, high) - node), 0.0)
        total += weight * tl.load(source + row * n_x, mask=pixel < n_x, other=0.0)
    tl.store(rows + (plane * nodes + node) * n_x + pixel, total, mask=pixel < n_x)


@triton.jit(do_not_specialize=["nodes_z", "nodes_x", "entries"])
def _gather_x(
    rows: tl.tensor,
    table: tl.tensor,
    n_x: tl.tensor,
    nodes_z: tl.tensor,
    nodes_x: tl.tensor,
    entries: tl.tensor,
    start: tl.tensor,
    step: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    PRIME: tl.constexpr,
    LOW: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Sum the pixels near each of some nodes of a row."""
    row, plane = tl.program_id(1), tl.program_id(2).to(tl.int64)
    node = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    source = rows + (plane * nodes_z + row) * n_x
    first, last = _support(node, n_x, start, step, low, high)
    last = tl.where(node < nodes_x, last, -1)
    total = tl.zeros((WIDTH,), tl.float32)
    for count in range(tl.max(last - first, axis=0) + 1):
        pixel = first + count
        weight = tl.maximum(1.0 - tl.abs(_position(pixel, start, step, low, high) - node), 0.0)
        total += weight * tl.load(source + pixel, mask=pixel <= last, other=0.0)
    target = table + plane * entries + _entry(row, node, nodes_x, entries, PRIME, LOW)
    if PRIME == 0:
        tl.store(target, total, mask=node < nodes_x)
    else:
        tl.atomic_add(target, total, mask=node < nodes_x, sem="relaxed")
