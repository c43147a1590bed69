"""A conditional normalizing flow of radial layers whose mean is zero by construction.

Kniesel et al. (CVPR 2022) map observed - clean to a normal by one-dimensional radial layers (Rezende and Mohamed,
2015), half of them conditioned on the clean intensity. Nothing in that keeps E[n | c] at zero, so the flow may take
signal from the field. Here noise = σ(c)·(g(ε; c) - E[g(ε; c)]), with the expectation by quadrature, differentiable.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tiltfield.kernels import native
from tiltfield.kernels.radial import MOST_PAIRS, gaussian_law, mean_and_square, radial_layers
from tiltfield.noise.base import NoiseModel, Recording
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian

T = TypeVar("T")

_NODES = 129  # clean intensities at which conditioned quantities are computed; linear in between
# Trapezoidal rule for E[g] and E[g²]: g is kinked at its layers' centres, where Gauss-Hermite nodes lie too far apart.
_REACH = 5.0
_SPACING = 0.125


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

    The scale starts as Poisson-Gaussian and every layer as the identity: the flow starts equal to the analytic model.
    With σ in front, and the mean tabulated in its units, E[n | c] stays at zero between the nodes too.
    """

    quasi = True
    faster = 30.0  # it learns now and then, and must keep up with residuals that fall all through a fit

    def __init__(
        self,
        scale: PoissonGaussian,
        *,
        low: float = 0.0,
        high: float = 1.0,
        n_layers: int = 4,
        width: int = 16,
        recording: Recording | None = None,
        generator: torch.Generator,
    ) -> None:
        """Start from a line of variance against intensity.

        Args:
            scale: starting model; becomes part of this one.
            low: clean intensities below are treated as `low` in the conditioning.
            high: likewise above; > low.
            n_layers: radial layers, half free, half conditioned; even.
            width: hidden width of the conditioning MLP.
            recording: saturation and quantisation.
            generator: source of the initial values.
        """
        super().__init__(recording)
        self.scale = scale
        self.low, self.high = low, high
        self.n_pairs = n = n_layers // 2
        self._table: Tensor | None = None
        self._kept: dict[str, tuple[list, Any]] = {}
        identity = math.log(math.expm1(1))  # softplus(b) = α = 1 gives β = 0
        layers = torch.stack([torch.linspace(-1.0, 1.0, n), torch.zeros(n), torch.full((n,), identity)])
        self.free = nn.Parameter(layers.clone())  # centre, a, b: (3, pairs)
        self.inner = nn.Linear(1, width)
        self.outer = nn.Linear(width, 3 * n + 1)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(width, 1, generator=generator) * 2)
            self.inner.bias.copy_(torch.randn(width, generator=generator))
            self.outer.weight.zero_()
            self.outer.bias.copy_(torch.cat([layers.flatten(), torch.zeros(1)]))

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.scale.rescale_(factor, shift)
        self._kept.clear()
        self.low, self.high = factor * self.low + shift, factor * self.high + shift

    def moments(self) -> _Moments:
        """Return the Gaussian of equal mean and variance at every clean intensity, taken as given."""
        return self._keep("moments", lambda: _Moments(self))

    def _keep(self, name: str, make: Callable[[], T]) -> T:
        """Return what was made before, if the parameters are still those."""
        state = [(id(p), p._version, p.device) for p in self.parameters()]
        if name not in self._kept or self._kept[name][0] != state:
            self._kept[name] = (state, make())
        return self._kept[name][1]

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(observed | clean), with the gradient in `clean` of the Gaussian of equal mean and variance.

        The flow learns from its own likelihood. The field follows the quasi-score (observed - clean)/σ(c)², zero on
        average whatever the shape of the noise as long as the mean is right. The slope of a skewed or many-peaked
        density is so only where the density is right too, and pulls astray while the fit is not done.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            labels: without meaning here.

        Returns:
            natural logarithm, same shape.

        Wedderburn, Biometrika 61 (1974) 439.
        """
        value = self.log_law(observed, clean.detach())
        if not clean.requires_grad:
            return value
        pull = self.pull(observed, clean, labels)
        return value + (pull - pull.detach())

    def pull(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p of the Gaussian of equal mean and variance, which the field follows."""
        return self.moments().pull(observed, clean)

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Compute what depends on the parameters alone once, for all that is asked inside."""
        if self._table is not None:  # it is already
            yield
            return
        self._table = self._at_nodes() if torch.is_grad_enabled() else self._keep("table", self._at_nodes)
        try:
            yield
        finally:
            self._table = None

    def _at_nodes(self) -> Tensor:
        """Return log of the change of σ, layer parameters and mean over σ at the nodes, shape (3 pairs + 2, nodes)."""
        change, layers = self._conditioned()
        mean, _ = self._mean_and_square(layers)
        return torch.cat([change, layers, mean[None]])

    def _conditioned(self) -> tuple[Tensor, Tensor]:
        """Return the change of log σ, (1, nodes), and the layer parameters, (3 pairs, nodes), at the nodes."""
        unit = torch.linspace(-1.0, 1.0, _NODES, dtype=self.free.dtype, device=self.free.device)
        out = self.outer(torch.tanh(self.inner(unit[:, None]))).T
        return 0.5 * torch.tanh(out[-1:]), out[:-1]

    def _mean_and_square(self, layers: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[g] and E[g²] of the inverse of all layers, given the parameters at the nodes."""
        z, weight = self.quadrature(layers.dtype, layers.device)
        if self._native(layers):
            return mean_and_square(layers, self.free, z, weight)
        g = self._unflow(z, layers[:, :, None])
        return g @ weight, g.square() @ weight

    def quadrature(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return nodes and weights of the trapezoidal rule for expectations over a standard normal."""
        half = round(_REACH / _SPACING)
        z = torch.arange(-half, half + 1, dtype=dtype, device=device) * _SPACING
        return z, torch.softmax(-0.5 * z.square(), dim=0)

    def _native(self, tensor: Tensor) -> bool:
        return native.usable(tensor) and self.n_pairs <= MOST_PAIRS

    def _position(self, clean: Tensor) -> Tensor:
        """Return where clean intensities lie among the nodes."""
        return ((clean - self.low) / (self.high - self.low) * (_NODES - 1)).clamp(0, _NODES - 1)

    def _interpolate(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log σ (...), the conditioned layers (3 pairs, ...) and the mean over σ (...) at clean intensities."""
        position = self._position(clean)
        node = position.detach().long().clamp(0, _NODES - 2)  # clamped once more for NaN, which has no integer
        weight = (position - node)[None]
        table = self._at_nodes() if self._table is None else self._table
        q = table[:, node] * (1 - weight) + table[:, node + 1] * weight
        return self.scale.log_deviation(clean) + q[0], q[1:-1], q[-1]

    def _layer(self, layers: Tensor, index: int) -> Tensor:
        """Return centre, a and b of one conditioned layer, shape (3, ...)."""
        return layers[index :: self.n_pairs]

    def _unflow(self, z: Tensor, layers: Tensor) -> Tensor:
        """Return g, the inverse of all layers; `layers` has the conditioned parameters along its first axis."""
        value = z
        for index in reversed(range(self.n_pairs)):
            value = radial_inverse(value, *self._layer(layers, index))
        for index in reversed(range(self.n_pairs)):
            value = radial_inverse(value, *self.free[:, index])
        return value

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |dz/dn| after scale, mean, free and conditioned layers."""
        if self._native(noise) and not (noise.requires_grad or clean.requires_grad):
            table = self._at_nodes() if self._table is None else self._table
            base = self.scale.log_deviation(clean)
            return radial_layers(noise, base, self._position(clean), table, self.free)
        log_sigma, layers, mean = self._interpolate(clean)
        value = noise * torch.exp(-log_sigma) + mean
        log_det = -log_sigma
        for index in range(self.n_pairs):
            value, term = radial(value, *self.free[:, index])
            log_det = log_det + term
        for index in range(self.n_pairs):
            value, term = radial(value, *self._layer(layers, index))
            log_det = log_det + term
        return value, log_det

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n = σ(c)·(g(z; c) - E[g(ε; c)])."""
        log_sigma, layers, mean = self._interpolate(clean)
        return (self._unflow(z, layers) - mean) * torch.exp(log_sigma)


class _Moments(Gaussian):
    """The Gaussian with the mean and the variance that a flow has at each clean intensity, taken as given."""

    def __init__(self, flow: RadialFlow) -> None:
        NoiseModel.__init__(self, flow.recording)
        self.low, self.high = flow.low, flow.high
        nodes = torch.linspace(flow.low, flow.high, _NODES, dtype=flow.free.dtype, device=flow.free.device)
        with torch.no_grad():
            change, layers = flow._conditioned()
            mean, square = flow._mean_and_square(layers)
            deviation = (square - mean.square()).sqrt()
            self.table = flow.scale.log_deviation(nodes) + change[0] + deviation.log()

    def pull(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(observed | clean), in one pass where every value is a density."""
        rec = self.recording
        if rec.low is rec.high is rec.quantum is None and native.usable(clean):
            return gaussian_law(observed, clean, self.table, self.low, self.high)
        return self.log_law(observed, clean)

    def log_deviation(self, clean: Tensor) -> Tensor:
        """Return log σ, linear between the nodes."""
        last = _NODES - 1
        position = ((clean - self.low) / (self.high - self.low) * last).clamp(0, last)
        node = position.long().clamp(0, last - 1)
        low, high = (self.table.index_select(0, (node + k).flatten()).view_as(clean) for k in (0, 1))
        return torch.lerp(low, high, position - node)
