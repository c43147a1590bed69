"""Features of all grid levels on a block of slices, on the CPU: products of small matrices, written into one array."""

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
        z: shape (n_z, nodes_z).
        x: shape (n_x, nodes_x).
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
    return torch.cat(
        [
            torch.einsum("ap,pfjk,bj,ck->fabc", w.y, table.unflatten(-1, (w.z.shape[1], w.x.shape[1])), w.z, w.x)
            for table, w in zip(tables, weights, strict=True)
        ]
    )


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Sequence[Weights], *tables: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.weights = weights
        n_y, n_z, n_x = (len(w) for w in (weights[0].y, weights[0].z, weights[0].x))
        features = tables[0].shape[1]
        out = tables[0].new_empty(len(tables), features * n_y, n_z, n_x)
        for w, table, part in zip(weights, tables, out, strict=True):
            mixed = w.y @ table.transpose(0, 1)
            wide = (mixed.view(-1, w.x.shape[1]) @ w.x.T).view(len(part), -1, n_x)
            torch.bmm(w.z.expand(len(part), -1, -1), wide, out=part)
        return out.view(-1, n_y, n_z, n_x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        n_y, n_z, n_x = gradient.shape[1:]
        parts = gradient.contiguous().view(len(ctx.weights), -1, n_z, n_x)
        d_tables = []
        for w, part in zip(ctx.weights, parts, strict=True):
            wide = torch.bmm(w.z.T.expand(len(part), -1, -1), part)
            mixed = (wide.view(-1, n_x) @ w.x).view(len(part) // n_y, n_y, -1)
            d_table = gradient.new_empty(w.y.shape[1], len(mixed), mixed.shape[2])
            torch.bmm(w.y.T.expand(len(mixed), -1, -1), mixed, out=d_table.transpose(0, 1))
            d_tables.append(d_table)
        return (None, *d_tables)
