"""The coordinate network of Kniesel et al. (CVPR 2022), after NeRF: positional encoding and a deep MLP."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from tiltfield.errors import InputError
from tiltfield.fields.base import Box, Field
from tiltfield.kernels.deep import deep

_SKIP = 5  # hidden layers after which the encoded point is given again (Mildenhall et al., 2020, appendix A)


class MLP(Field):
    """Density scale · sigmoid(MLP(encoding)): slow, and smooth where a grid would follow the noise.

    The encoding of a point is sin(π 2ᵏ p) and cos(π 2ᵏ p), k < n_frequencies, of its three coordinates p scaled to
    [-1, 1] by the half extents of the box; the point itself is left out. Hidden layers have ReLU; the sixth takes the
    encoded point beside the output of the fifth.
    """

    def __init__(
        self,
        box: Box,
        *,
        width: int = 256,
        depth: int = 9,
        n_frequencies: int = 10,
        scale: float = 1.0,
        mean: float = 0.5,
        generator: torch.Generator,
    ) -> None:
        """Make the field.

        Args:
            box: region described.
            width: width of the hidden layers.
            depth: number of hidden layers, ≥ 1.
            n_frequencies: octaves of the encoding, ≥ 1.
            scale: largest density the field can take, > 0.
            mean: initial density, in units of `scale`, within (0, 1).
            generator: source of the initial values.

        Raises:
            InputError: if `mean` is not within (0, 1).
        """
        super().__init__()
        if not 0 < mean < 1:
            raise InputError(
                f"the MLP's initial density lies within (0, 1) of its scale, got {mean}: give a larger scale"
            )
        self.box, self.scale, self.n_frequencies = box, scale, n_frequencies
        n_encoded = 6 * n_frequencies
        sizes = [n_encoded, *[width] * depth, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            n_in += n_encoded if layer == _SKIP < depth else 0
            bound = math.sqrt((6 if layer < depth else 1) / n_in)
            self.weights.append(nn.Parameter((torch.rand(n_out, n_in, generator=generator) * 2 - 1) * bound))
            self.biases.append(nn.Parameter(torch.zeros(n_out)))
        with torch.no_grad():
            self.biases[-1].fill_(math.log(mean / (1 - mean)))

    def encode(self, points: Tensor) -> Tensor:
        """Return sines, then cosines, of points (z, y, x) of shape (..., 3); shape (..., 6 n_frequencies)."""
        half = torch.tensor(self.box.shape, dtype=points.dtype, device=points.device) / 2
        octave = math.pi * 2.0 ** torch.arange(self.n_frequencies, dtype=points.dtype, device=points.device)
        phase = ((points / half)[..., None] * octave).flatten(-2)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def forward(self, points: Tensor) -> Tensor:
        """Return the density at points (z, y, x), shape (..., 3) to (...)."""
        output = deep(self.encode(points), [*self.weights], [*self.biases], _SKIP)
        return self.scale * torch.sigmoid(output.to(points.dtype))
