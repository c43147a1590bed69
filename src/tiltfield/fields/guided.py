"""A fine field and the coarse one that tells where along a ray to sample it, as in NeRF."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tiltfield.fields.base import Box, Field
from tiltfield.fields.mlp import MLP

COARSE_DEPTH = 3  # hidden layers of the coarse network


class Guided(Field):
    """The two coordinate networks of Kniesel et al.: the fine one is the density, the coarse one guides the samples.

    Mildenhall et al., NeRF, 2020, section 5.2.
    """

    def __init__(
        self,
        box: Box,
        *,
        scale: float,
        mean: float,
        width: int,
        octaves: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        """Make both networks.

        Args:
            box: region described.
            scale: largest density, > 0.
            mean: initial density, in units of `scale`, within (0, 1).
            width: of the hidden layers of both.
            octaves: of the encoding of the coarse and of the fine one.
            generator: source of the initial values.
        """
        super().__init__()
        self.box = box
        network = functools.partial(MLP, box, width=width, scale=scale, mean=mean, generator=generator)
        self.coarse = network(depth=COARSE_DEPTH, n_frequencies=octaves[0])
        self.fine = network(n_frequencies=octaves[1])

    def forward(self, points: Tensor) -> Tensor:
        """Return the density of the fine network at points (z, y, x), shape (..., 3) to (...)."""
        return self.fine.forward(points)
