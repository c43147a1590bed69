"""What every field is: a module from points to densities, with a faster road on grids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALL = slice(None)


@dataclass(frozen=True)
class Box:
    """The region a field describes, centred at the origin.

    Attributes:
        n_z: extent along z, pixels.
        n_y: extent along y, pixels.
        n_x: extent along x, pixels.
    """

    n_z: int
    n_y: int
    n_x: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (n_z, n_y, n_x)."""
        return self.n_z, self.n_y, self.n_x


class Field(nn.Module):
    """A density ρ(z, y, x) ≥ 0 in a box. Subclasses define :meth:`forward`; :meth:`slices` if they can be faster."""

    box: Box

    def forward(self, points: Tensor) -> Tensor:
        """Return the density at points.

        Args:
            points: (z, y, x), centred, pixels, shape (..., 3).

        Returns:
            density, ≥ 0, shape (...).
        """
        raise NotImplementedError

    def slices(self, z: Tensor, y: Tensor, x: Tensor, only: slice = ALL) -> Tensor:
        """Return the density on the grid spanned by three axes; the same as `forward` on its points.

        Args:
            z: centred coordinates, pixels, shape (n_z,).
            y: shape (n_y,).
            x: shape (n_x,).
            only: which of y are wanted. The others are those of processes with which gradients are summed: what is read
                of large tables is the same for all of them.

        Returns:
            density, shape (n_y, n_z, n_x): one (z, x) slice for each y that is wanted.
        """
        grid = torch.meshgrid(y[only], z, x, indexing="ij")
        return self(torch.stack([grid[1], grid[0], grid[2]], dim=-1))

    @property
    def axes_device(self) -> torch.device:
        """Where :meth:`slices` takes its axes from."""
        return next(self.parameters()).device

    def project_(self) -> None:
        """Bring parameters that a step has led outside their range back into it."""

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups.

        Args:
            learning_rate: the rate to scale.
        """
        return [{"params": list(self.parameters()), "lr": learning_rate}]


def linear_weights(position: Tensor, n: int) -> Tensor:
    """Return the matrix of linear interpolation from n nodes at 0, 1, …, n - 1.

    Args:
        position: in units of the node spacing, shape (m,); clamped to the nodes.
        n: number of nodes, ≥ 2.

    Returns:
        shape (m, n), rows summing to 1, at most two entries in each.
    """
    node = torch.arange(n, dtype=position.dtype, device=position.device)
    return (1 - (position.clamp(0, n - 1)[:, None] - node).abs()).clamp_min(0)
