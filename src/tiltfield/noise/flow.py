"""A conditional normalizing flow of radial layers whose mean is zero by construction.

Kniesel et al. (CVPR 2022) map observed - clean to a normal by one-dimensional radial layers (Rezende and Mohamed, 2015), half
of them conditioned on the clean intensity. Nothing in that keeps E[n | c] at zero, so the flow may take signal
from the field. Here noise = g(ε; c) - E[g(ε; c)], with the expectation by Gauss-Hermite quadrature, differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiltfield.noise.base import NoiseModel, Recording, gauss_hermite
from tiltfield.noise.gaussian import PoissonGaussian

_NODES = 33  # clean intensities at which conditioned quantities are computed; linear in between
_QUADRATURE = 24


def radial(n: Tensor, centre: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the radial map y = n + β w / (α + |w|), w = n - centre, and log dy/dn at the input.

    α = exp(a), β = softplus(b) - α > -α makes it monotone (Rezende and Mohamed, 2015, appendix A.2);
    dy/dn = 1 + α β / (α + |w|)².

    Args:
        n: input, any shape.
        centre: fixed point of the map, broadcastable.
        a: log α, broadcastable.
        b: softplus⁻¹(α + β), broadcastable.
    """
    alpha = torch.exp(a)
    beta = nn.functional.softplus(b) - alpha
    w = n - centre
    h = 1 / (alpha + w.abs())
    return n + beta * w * h, torch.log1p(alpha * beta * h.square())


def radial_inverse(y: Tensor, centre: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return n with radial(n) = y: |w| solves s² + (α + β - r) s - α r = 0 with r = |y - centre|.

    Args:
        y: output of :func:`radial`.
        centre: as there.
        a: as there.
        b: as there.
    """
    alpha = torch.exp(a)
    r = (y - centre).abs()
    p = nn.functional.softplus(b) - r
    root = torch.sqrt(p.square() + 4 * alpha * r)
    # Two forms of the same root; the one that does not cancel.
    s = torch.where(p > 0, 2 * alpha * r / (root + p).clamp_min(1e-30), (root - p) / 2)
    return centre + torch.sign(y - centre) * s


class RadialFlow(NoiseModel):
    """Zero-mean noise: a scale σ(c), then radial layers, half of them conditioned on the clean intensity.

    The scale starts as Poisson-Gaussian and every layer as the identity, so that the flow starts from the analytic model.
    """

    def __init__(self, scale: PoissonGaussian, *, low: float = 0.0, high: float = 1.0, n_layers: int = 8, width: int = 16,
                 recording: Recording | None = None, generator: torch.Generator) -> None:
        """Start from a line of variance against intensity.

        Args:
            scale: starting model; becomes part of this one.
            low: clean intensities below are treated as `low` in the conditioning.
            high: likewise above.
            n_layers: radial layers, half free, half conditioned; even.
            width: hidden width of the conditioning MLP.
            recording: saturation and quantisation.
            generator: source of the initial values.
        """
        super().__init__(recording)
        self.scale = scale
        self.low, self.high = low, high
        half = n_layers // 2
        spread = torch.linspace(-1.0, 1.0, half)
        identity = torch.log(torch.expm1(torch.ones(())))  # softplus(b) = α = 1 gives β = 0
        self.free = nn.Parameter(torch.stack([spread, torch.zeros(half), identity.expand(half)]))  # (3, half)
        self.inner = nn.Linear(1, width)
        self.outer = nn.Linear(width, 3 * half + 1)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(width, 1, generator=generator) * 2)
            self.inner.bias.copy_(torch.randn(width, generator=generator))
            self.outer.weight.mul_(0)
            self.outer.bias.copy_(torch.cat([torch.stack([spread, torch.zeros(half), identity.expand(half)]).flatten(),
                                             torch.zeros(1)]))
        self.half = half

    def _at_nodes(self) -> Tensor:
        """Return log σ, layer parameters and mean at the nodes, shape (nodes, 3 half + 2)."""
        like = self.free
        nodes = torch.linspace(self.low, self.high, _NODES, dtype=like.dtype, device=like.device)
        unit = (nodes - self.low) / (self.high - self.low) * 2 - 1
        out = self.outer(torch.tanh(self.inner(unit[:, None])))
        log_sigma = self.scale.log_deviation(nodes) + 0.5 * torch.tanh(out[:, -1])
        table = torch.cat([log_sigma[:, None], out[:, :-1]], dim=1)
        z, weight = gauss_hermite(_QUADRATURE, like.dtype, like.device)
        raw = self._unflow(z[None], table.T[:, :, None])
        return torch.cat([table, (raw * weight).sum(-1, keepdim=True)], dim=1)

    def _interpolate(self, clean: Tensor) -> Tensor:
        """Return the conditioned quantities at clean intensities, shape (3 half + 2, ...)."""
        table = self._at_nodes()
        position = ((clean - self.low) / (self.high - self.low) * (_NODES - 1)).clamp(0, _NODES - 1)
        low = position.detach().floor().clamp_max(_NODES - 2).long()
        weight = (position - low)[None]
        columns = table.T
        return columns[:, low] * (1 - weight) + columns[:, low + 1] * weight

    def _unflow(self, z: Tensor, table: Tensor) -> Tensor:
        """Invert the layers and the scale; `table` has the conditioned quantities along its first axis."""
        value = z
        for layer in reversed(range(self.half)):
            centre, a, b = (table[1 + k * self.half + layer] for k in range(3))
            value = radial_inverse(value, centre, a, b)
        for layer in reversed(range(self.half)):
            value = radial_inverse(value, *self.free[:, layer])
        return value * torch.exp(table[0])

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |dz/dn| after mean, scale, free and conditioned layers."""
        q = self._interpolate(clean)
        log_sigma, layers, mean = q[0], q[1:-1], q[-1]
        value = (noise + mean) * torch.exp(-log_sigma)
        log_det = -log_sigma
        for layer in range(self.half):
            value, term = radial(value, *self.free[:, layer])
            log_det = log_det + term
        for layer in range(self.half):
            value, term = radial(value, *(layers[k * self.half + layer] for k in range(3)))
            log_det = log_det + term
        return value, log_det

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n = g(z; c) - E[g(ε; c)]."""
        q = self._interpolate(clean)
        return self._unflow(z, q[:-1]) - q[-1]
