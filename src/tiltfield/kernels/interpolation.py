"""Features of all grid levels on a block of slices, on the CPU, axis by axis, written into one array.

By a kernel in C, or by plain torch: where nodes are as dense as pixels, a pixel takes of its two nodes; elsewhere
products of small matrices are faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiltfield.kernels import native


@dataclass(frozen=True, eq=False)
class Between:
    """Pixels along an axis, each between two adjacent nodes of every level.

    Attributes:
        low: the node before each pixel, shape (levels, n), int32, from 0 to nodes - 2.
        after: what the node behind gives to it, shape (levels, n), from 0 to 1; that before gives the rest.
        nodes: of each level.
    """

    low: Tensor
    after: Tensor
    nodes: Sequence[int]

    def matrix(self, level: int) -> Tensor:
        """Return what every node of a level gives, shape (n, nodes), with gradient in `after`."""
        node = torch.arange(self.nodes[level], dtype=self.after.dtype, device=self.after.device)
        return (1 - ((self.low[level] + self.after[level])[:, None] - node).abs()).clamp_min(0)


def between(position: Tensor, nodes: Sequence[int]) -> Between:
    """Return where pixels lie.

    Pixel k at node k + 1 counts as between that and node k: so do its neighbours where nodes are as dense as pixels.

    Args:
        position: in units of each level's node spacing, shape (levels, n), from 0 to nodes - 1.
        nodes: of each level, ≥ 2.
    """
    pixel = torch.arange(position.shape[1], dtype=position.dtype, device=position.device)
    floor = torch.where(position == pixel + 1, pixel, position.detach().floor()).int()
    low = floor.clamp_min(0).minimum(torch.tensor(nodes, dtype=torch.int32, device=floor.device)[:, None] - 2)
    return Between(low, position - low, nodes)


@dataclass(frozen=True, eq=False)
class Places:
    """Where the pixels of a block of slices lie.

    Attributes:
        y: slices between planes.
        z: rows of pixels.
        x: columns of pixels.
    """

    y: Between
    z: Between
    x: Between


def interpolate(tables: Sequence[Tensor], places: Places) -> Tensor:
    """Return the features of all levels on a grid, Σ_ijk y_ai z_bj x_ck table_i(j, k), with gradient in the tables.

    The weights y, z, x of nodes fall linearly from 1 at the node to 0 at its neighbours. The same as
    :func:`interpolate_plainly`, without copies.

    Args:
        tables: planes of each level, shape (planes, features, nodes_z · nodes_x), as many features in all.
        places: of the pixels.

    Returns:
        shape (all features, n_y, n_z, n_x).
    """
    return (_Native if native.usable(tables[0]) else _Interpolate).apply(places, *tables)


def interpolate_plainly(tables: Sequence[Tensor], places: Places) -> Tensor:
    """Return the same, level by level, with gradient in the places too.

    Args:
        tables: as there.
        places: as there.
    """
    parts = []
    for level, table in enumerate(tables):
        y, z, x = (axis.matrix(level) for axis in (places.y, places.z, places.x))
        nodes = table.unflatten(-1, (z.shape[1], x.shape[1]))
        parts.append(torch.einsum("ap,pfjk,bj,ck->fabc", y, nodes, z, x))
    return torch.cat(parts)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx, places: Places, *tables: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.places, tables = places, tuple(table.contiguous() for table in tables)
        out = _space(places, tables)
        native.call("interpolation_forward", _addresses(tables), *_for_c(places), out, *out.shape)
        return out.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        y, z, x = ctx.places.y.nodes, ctx.places.z.nodes, ctx.places.x.nodes
        parts = gradient.contiguous().unflatten(0, (len(y), -1))
        shapes = [(planes, parts.shape[1], rows * columns) for planes, rows, columns in zip(y, z, x, strict=True)]
        d_tables = [gradient.new_empty(shape) for shape in shapes]
        native.call("interpolation_backward", _addresses(d_tables), *_for_c(ctx.places), parts, *parts.shape)
        return (None, *d_tables)


def _addresses(tensors: Sequence[Tensor]) -> Tensor:
    """Return an array of pointers."""
    return native.whole([native.address(tensor) for tensor in tensors])


def _for_c(places: Places) -> list[Tensor]:
    axes = (places.y, places.z, places.x)
    return [part for a in axes for part in (a.low, a.after, torch.tensor(a.nodes, dtype=torch.int32))]


def _space(places: Places, tables: Sequence[Tensor]) -> Tensor:
    """Return room for the features, shape (levels, features, n_y, n_z, n_x)."""
    pixels = (axis.low.shape[1] for axis in (places.y, places.z, places.x))
    return tables[0].new_empty(len(tables), tables[0].shape[1], *pixels)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, places: Places, *tables: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        levels = range(len(tables))
        ctx.weights = [(places.y.matrix(i), _weights(places.z, i), _weights(places.x, i)) for i in levels]
        out = _space(places, tables)
        for (y, z, x), nodes, table, part in zip(ctx.weights, places.x.nodes, tables, out, strict=True):
            mixed = y @ table.transpose(0, 1)
            _along_z(_along_x(mixed.view(len(part) * len(y), -1, nodes), x), z, part.flatten(0, 1))
        return out.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        parts = gradient.contiguous().unflatten(0, (len(ctx.weights), -1))
        d_tables = []
        for (y, z, x), part in zip(ctx.weights, parts, strict=True):
            mixed = _back_x(_back_z(part.flatten(0, 1), z), x).view(*part.shape[:2], -1)
            d_table = gradient.new_empty(y.shape[1], len(mixed), mixed.shape[2])
            torch.bmm(y.T.expand(len(mixed), -1, -1), mixed, out=d_table.transpose(0, 1))
            d_tables.append(d_table)
        return (None, *d_tables)


def _weights(places: Between, level: int) -> Tensor:
    """Return the matrix of a level; or, if its pixels k lie between nodes k and k + 1, what those behind give, (n,)."""
    low, n = places.low[level], places.low.shape[1]
    if places.nodes[level] == n + 1 and bool((low == torch.arange(n, device=low.device)).all()):
        return places.after[level]
    return places.matrix(level)


def _along_x(nodes: Tensor, weights: Tensor) -> Tensor:
    """Return values at pixels, (batch, z, n_x), of those at nodes, (batch, z, nodes_x)."""
    if weights.ndim == 2:
        return nodes @ weights.T
    return torch.lerp(nodes[..., :-1], nodes[..., 1:], weights)


def _back_x(pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the adjoint of :func:`_along_x`."""
    return pixels @ weights if weights.ndim == 2 else _spread(pixels, weights, 2)


def _along_z(nodes: Tensor, weights: Tensor, out: Tensor) -> None:
    """Write values at pixels, (batch, n_z, x), of those at nodes, (batch, nodes_z, x)."""
    if weights.ndim == 2:
        torch.bmm(weights.expand(len(nodes), -1, -1), nodes, out=out)
    else:
        torch.lerp(nodes[:, :-1], nodes[:, 1:], weights[:, None], out=out)


def _back_z(pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the adjoint of :func:`_along_z`."""
    if weights.ndim == 2:
        return torch.bmm(weights.T.expand(len(pixels), -1, -1), pixels)
    return _spread(pixels, weights[:, None], 1)


def _spread(pixels: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Return what nodes get from pixels that lie each between the node of its number and the next."""
    n = pixels.shape[dim]
    nodes = pixels.new_empty([*pixels.shape[:dim], n + 1, *pixels.shape[dim + 1 :]])
    torch.mul(pixels, 1 - weights, out=nodes.narrow(dim, 0, n))
    nodes.select(dim, n).zero_()
    nodes.narrow(dim, 1, n).addcmul_(pixels, weights)
    return nodes
