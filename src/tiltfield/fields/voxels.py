"""Explicit voxels: the density itself, one number a voxel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiltfield.fields.base import ALL, Box, Field, linear_weights


class Voxels(Field):
    """Density softplus(v) at voxel centres, trilinear in between."""

    def __init__(self, box: Box, *, scale: float = 1.0, mean: float = 0.5) -> None:
        """Make a constant field.

        Args:
            box: region described.
            scale: typical density, > 0: the unit of the output.
            mean: initial density, in units of `scale`, > 0.
        """
        super().__init__()
        self.box, self.scale = box, scale
        start = math.log(math.expm1(mean))
        self.values = nn.Parameter(torch.full((box.n_y, box.n_z, box.n_x), start))

    def forward(self, points: Tensor) -> Tensor:
        """Return the density at points (z, y, x), shape (..., 3) to (...)."""
        size = torch.tensor(self.box.shape, dtype=points.dtype, device=points.device)
        unit = (points / (size - 1).clamp_min(1) * 2)[
            ..., [2, 0, 1]
        ]  # grid_sample takes (x, z, y) for a (y, z, x) array
        sampled = nn.functional.grid_sample(
            self._nodes()[None, None], unit.reshape(1, 1, 1, -1, 3), padding_mode="border", align_corners=True
        )
        return self.scale * sampled.reshape(points.shape[:-1])

    def slices(self, z: Tensor, y: Tensor, x: Tensor, only: slice = ALL) -> Tensor:
        """Return the density on a grid, shape (n_y, n_z, n_x)."""
        position = (y[only] + (self.box.n_y - 1) / 2).clamp(0, self.box.n_y - 1)
        first = int(position.min().floor())
        count = min(int(position.max().floor()) + 2, self.box.n_y) - first
        planes = self.scale * self._nodes(slice(first, first + count))
        along_y = linear_weights(position - first, count)
        mixed = torch.einsum("yp,pzx->yzx", along_y, planes)
        along_z = linear_weights(z + (self.box.n_z - 1) / 2, self.box.n_z)
        along_x = linear_weights(x + (self.box.n_x - 1) / 2, self.box.n_x)
        return along_z @ mixed @ along_x.T

    def _nodes(self, planes: slice = slice(None)) -> Tensor:
        """Return the density at voxel centres over its scale, shape (y, z, x)."""
        return nn.functional.softplus(self.values[planes])

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups."""
        return [{"params": [self.values], "lr": learning_rate}]


class Explicit(Voxels):
    """The paper's explicit representation: density scale · v with v kept in [0, 1], from zeros.

    Kniesel et al., CVPR 2022, supplement, section 8, which says nothing of a range; [0, 1] is that of the network.
    """

    def __init__(self, box: Box, *, scale: float) -> None:
        """Make an empty field.

        Args:
            box: region described.
            scale: largest density, > 0.
        """
        super().__init__(box, scale=scale)
        with torch.no_grad():
            self.values.zero_()

    def project_(self) -> None:
        """Bring the voxels back into [0, 1]."""
        with torch.no_grad():
            self.values.clamp_(0, 1)

    def _nodes(self, planes: slice = slice(None)) -> Tensor:
        return self.values[planes]
