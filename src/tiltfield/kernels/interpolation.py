"""Features of all grid levels on a block of slices, on the CPU, axis by axis, written into one array.

Where nodes are as dense as pixels, a pixel takes of its two nodes; elsewhere products of small matrices are faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class Weights:
    """What the nodes of a level give to the pixels along each axis.

    Attributes:
        y: shape (n_y, planes).
        z: shape (n_z, nodes_z); or (n_z,), what node k + 1 gives to pixel k, which lies between that and node k.
        x: shape (n_x, nodes_x), or (n_x,) likewise.
    """

    y: Tensor
    z: Tensor
    x: Tensor


def interpolate(tables: Sequence[Tensor], weights: Sequence[Weights]) -> Tensor:
    """Return the features of all levels on a grid, Σ_ijk y_ai z_bj x_ck table_i(j, k), with gradient in the tables.

    The same as :func:`interpolate_plainly`, without copies.

    Args:
        tables: planes of each level, shape (planes, features, nodes_z · nodes_x), as many features in all.
        weights: of each level, for the same pixels.

    Returns:
        shape (all features, n_y, n_z, n_x).
    """
    return _Interpolate.apply(weights, *tables)


def interpolate_plainly(tables: Sequence[Tensor], weights: Sequence[Weights]) -> Tensor:
    """Return the same, level by level, with gradient in the weights too.

    Args:
        tables: as there.
        weights: as there.
    """
    parts = []
    for table, w in zip(tables, weights, strict=True):
        z, x = _matrix(w.z), _matrix(w.x)
        parts.append(torch.einsum("ap,pfjk,bj,ck->fabc", w.y, table.unflatten(-1, (z.shape[1], x.shape[1])), z, x))
    return torch.cat(parts)


def _matrix(weights: Tensor) -> Tensor:
    """Return weights as a matrix (pixels, nodes)."""
    if weights.ndim == 2:
        return weights
    return torch.nn.functional.pad(torch.diag(1 - weights), (0, 1)) + torch.nn.functional.pad(
        torch.diag(weights), (1, 0)
    )


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Sequence[Weights], *tables: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.weights = weights
        n_y, n_z, n_x = (len(w) for w in (weights[0].y, weights[0].z, weights[0].x))
        out = tables[0].new_empty(len(tables), tables[0].shape[1] * n_y, n_z, n_x)
        for w, table, part in zip(weights, tables, out, strict=True):
            mixed = w.y @ table.transpose(0, 1)
            _along_z(_along_x(mixed.view(len(part), -1, _nodes(w.x)), w.x), w.z, part)
        return out.view(-1, n_y, n_z, n_x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        n_y, n_z, n_x = gradient.shape[1:]
        parts = gradient.contiguous().view(len(ctx.weights), -1, n_z, n_x)
        d_tables = []
        for w, part in zip(ctx.weights, parts, strict=True):
            mixed = _back_x(_back_z(part, w.z), w.x).view(len(part) // n_y, n_y, -1)
            d_table = gradient.new_empty(w.y.shape[1], len(mixed), mixed.shape[2])
            torch.bmm(w.y.T.expand(len(mixed), -1, -1), mixed, out=d_table.transpose(0, 1))
            d_tables.append(d_table)
        return (None, *d_tables)


def _nodes(weights: Tensor) -> int:
    return weights.shape[1] if weights.ndim == 2 else len(weights) + 1


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
