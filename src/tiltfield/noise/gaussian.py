"""Gaussian noise, of one variance or of a variance linear in the intensity; and the plain L2 and L1 losses."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from tiltfield.noise.base import NoiseModel, Recording


class Gaussian(NoiseModel):
    """n = σ ε."""

    def __init__(self, deviation: float, recording: Recording | None = None) -> None:
        """Start from a standard deviation.

        Args:
            deviation: σ, > 0.
            recording: saturation and quantisation.
        """
        super().__init__(recording)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(deviation)))

    def moments(self) -> Gaussian:
        """Return the Gaussian of equal variance at every clean intensity, taken as given."""
        return copy.deepcopy(self).requires_grad_(False)

    def log_deviation(self, clean: Tensor) -> Tensor:
        """Return log σ at clean intensities, broadcastable with them."""
        return self.log_sigma

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.log_sigma.add_(math.log(factor))

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = n / σ and -log σ."""
        log_sigma = self.log_deviation(clean)
        return noise * torch.exp(-log_sigma), (-log_sigma).expand_as(noise)

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n = σ z."""
        return z * torch.exp(self.log_deviation(clean))


class PoissonGaussian(Gaussian):
    """n = sqrt(m² + b + a·max(c - c₀, 0)) ε: readout noise b, shot noise that grows with the counts (Foi et al., 2008).

    m is not learned: however little noise the dark pixels have, the model of the image is not better than that.
    """

    def __init__(
        self, slope: float, floor: float, dark: float = 0.0, recording: Recording | None = None, misfit: float = 0.0
    ) -> None:
        """Start from a line of variance against intensity.

        Args:
            slope: a, variance per intensity, > 0.
            floor: b, variance at the dark level, > 0.
            dark: c₀, intensity without electrons.
            recording: saturation and quantisation.
            misfit: m, standard deviation of what the image model leaves unexplained, ≥ 0.
        """
        NoiseModel.__init__(self, recording)
        self.log_slope = nn.Parameter(torch.tensor(math.log(slope)))
        self.log_floor = nn.Parameter(torch.tensor(math.log(floor)))
        self.dark, self.misfit = dark, misfit

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        NoiseModel.rescale_(self, factor, shift)
        self.log_slope.add_(math.log(factor))
        self.log_floor.add_(2 * math.log(factor))
        self.dark, self.misfit = factor * self.dark + shift, factor * self.misfit

    def log_deviation(self, clean: Tensor) -> Tensor:
        """Return log σ = ½ log(m² + b + a·max(c - c₀, 0))."""
        shot = self.log_slope.exp() * (clean - self.dark).clamp_min(0)
        return 0.5 * torch.log(self.misfit**2 + self.log_floor.exp() + shot)


class L2(NoiseModel):
    """The plain squared error, -(n/σ)²/2 with a fixed σ that only sets its scale; knows no saturation."""

    sigma: Tensor

    def __init__(self, deviation: float) -> None:
        """Fix the scale.

        Args:
            deviation: standard deviation, > 0.
        """
        super().__init__()
        self.register_buffer("sigma", torch.tensor(float(deviation)))

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.sigma *= factor

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = n / σ and -log σ."""
        return noise / self.sigma, -torch.log(self.sigma).expand_as(noise)

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n = σ z."""
        return z * self.sigma


class L1(NoiseModel):
    """The plain absolute error, a Laplace density of fixed scale; knows no saturation."""

    scale: Tensor

    def __init__(self, deviation: float) -> None:
        """Fix the scale.

        Args:
            deviation: standard deviation, > 0.
        """
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(deviation) / math.sqrt(2)))

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.scale *= factor

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return -|n|/s - log 2s."""
        return -(observed - clean).abs() / self.scale - torch.log(2 * self.scale)

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = Φ⁻¹(F(n)) of the Laplace distribution F, and log |dz/dn|."""
        tail = 0.5 * torch.exp(-noise.abs() / self.scale)
        z = -torch.sign(noise) * torch.special.ndtri(tail)
        log_det = self.log_prob(noise, torch.zeros_like(noise)) + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return z, log_det

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n = F⁻¹(Φ(z)) of the Laplace distribution F."""
        return -torch.sign(z) * self.scale * (torch.special.log_ndtr(-z.abs()) + math.log(2))
