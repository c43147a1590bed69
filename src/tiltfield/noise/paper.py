"""The noise flow of Kniesel et al., as the supplement has it, with the log-determinant at a layer's input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiltfield.noise.base import NoiseModel
from tiltfield.noise.flow import radial, radial_inverse
from tiltfield.noise.quadrature import gauss_hermite

REACH = 10.0  # the MLP's tanh is stretched to ±10
_START_CONDITIONED = 0.001  # of the last layers' weights, so that conditioned layers start all but the identity


class PaperFlow(NoiseModel):
    """Noise to normal by free, then conditioned radial layers; mean and scale are free, saturation is not known.

    Every conditioned layer has its own MLP 1 → 16 (ReLU) → 3 (Tanh, times 10) of the clean intensity; images are
    taken as scaled to [0, 1], as published. The likelihood is differentiated through everything: location and shape.

    Kniesel et al., CVPR 2022, supplement, section 1.2. The published code evaluates the log-determinant at a layer's
    output; such a density does not integrate to 1.
    """

    def __init__(
        self,
        deviation: float,
        *,
        low: float = 0.0,
        high: float = 1.0,
        n_layers: int = 8,
        width: int = 16,
        generator: torch.Generator,
    ) -> None:
        """Start near the normal law of a given deviation.

        Args:
            deviation: standard deviation to start from, > 0.
            low: intensity that the flow sees as 0.
            high: intensity that it sees as 1; > low.
            n_layers: radial layers, half free, half conditioned; even.
            width: hidden width of the MLPs.
            generator: source of the initial values.
        """
        super().__init__()
        self.low, self.high = low, high
        n = n_layers // 2
        identity = torch.tensor([0.0, 0.0, math.log(math.expm1(1))])  # centre, a, b
        self.free = nn.Parameter(identity.repeat(n, 1) + 0.01 * torch.randn(n, 3, generator=generator))
        self.inner = nn.Parameter(torch.randn(2, n, width, generator=generator))  # weight and bias
        self.outer = nn.Parameter(_START_CONDITIONED * torch.randn(n, 3, width, generator=generator))
        self.bias = nn.Parameter(torch.atanh(identity / REACH).repeat(n, 1))
        with torch.no_grad():  # the first layer, nearly linear over the noise, brings it to unit variance
            wide = 20 * deviation / (high - low)
            self.free[0] = torch.tensor([0.0, math.log(wide), wide * (high - low) / deviation])

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.low, self.high = factor * self.low + shift, factor * self.high + shift

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(observed | clean), differentiable through location and shape alike."""
        z, log_det = self.to_normal(observed - clean, clean)
        return log_det - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def _conditioned(self, clean: Tensor) -> list[Tensor]:
        """Return centre, a and b of every conditioned layer, each of shape (3, ...)."""
        unit = ((clean - self.low) / (self.high - self.low))[..., None]
        layers = []
        for weight, bias, outer, last in zip(self.inner[0], self.inner[1], self.outer, self.bias, strict=True):
            hidden = torch.relu(unit * weight + bias)
            layers.append((REACH * torch.tanh(hidden @ outer.T + last)).movedim(-1, 0))
        return layers

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |dz/dn| after free and conditioned layers."""
        span = self.high - self.low
        value, log_det = noise / span, torch.full_like(noise, -math.log(span))
        for layer in (*self.free, *self._conditioned(clean)):
            value, term = radial(value, *layer)
            log_det = log_det + term
        return value, log_det

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return the noise at standard-normal z."""
        value = z
        for layer in reversed((*self.free, *self._conditioned(clean))):
            value = radial_inverse(value, *layer)
        return value * (self.high - self.low)

    def mean(self, clean: Tensor) -> Tensor:
        """Return E[noise | clean], which nothing keeps at zero.

        Args:
            clean: intensities, shape (n,).
        """
        z, weight = gauss_hermite(32, clean.dtype, clean.device)
        with torch.no_grad():
            return self.from_normal(z.expand(len(clean), -1), clean[:, None].expand(-1, len(z))) @ weight
