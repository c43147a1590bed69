"""Counted electrons with a gain and an offset."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tiltfield.noise.base import NoiseModel


class Poisson(NoiseModel):
    """observed = o + a·(k + u), k ~ Poisson((c - o)/a), u uniform on ±½: counts of gain a over an offset o.

    The uniform spreads every count over its interval, so that there is a density; the mean is the clean intensity.
    Nothing lies below o - a/2. `a` and `o` are estimated (:mod:`tiltfield.noise.learn`), not learned by descent: the
    density is piecewise constant.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: float, offset: float) -> None:
        """Fix the law.

        Args:
            gain: a, intensity per count, > 0.
            offset: o, intensity without electrons.
        """
        super().__init__()
        self.register_buffer("gain", torch.tensor(float(gain), dtype=torch.float64))
        self.register_buffer("offset", torch.tensor(float(offset), dtype=torch.float64))

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        super().rescale_(factor, shift)
        self.gain *= factor
        self.offset.mul_(factor).add_(shift)

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log pmf(k) - log a; -∞ below o - a/2."""
        count, rate = self._counts(observed, clean)
        k = torch.floor(count + 0.5)
        value = torch.where(k >= 0, log_pmf(k.clamp_min(0), rate), -math.inf)
        return (value - self.gain.log()).to(observed.dtype)

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = Φ⁻¹(F(n)) and log |dz/dn|."""
        count, rate = self._counts(noise + clean, clean)
        k = torch.floor(count.detach() + 0.5).clamp_min(0)
        part = (count - k + 0.5).clamp(0, 1)
        mass = log_pmf(k, rate).exp()
        below = torch.where(k > 0, torch.special.gammaincc(k.clamp_min(1), rate), 0) + part * mass  # P(X < k) + …
        above = torch.special.gammainc(k + 1, rate) + (1 - part) * mass
        tiny = torch.finfo(torch.float64).tiny
        z = torch.where(
            below < above, torch.special.ndtri(below.clamp(tiny, 0.75)), -torch.special.ndtri(above.clamp(tiny, 0.75))
        )
        log_det = self.log_prob(noise + clean, clean).double() + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return z.to(noise.dtype), log_det.to(noise.dtype)

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return n with F(n) = Φ(z), by bisection over the counts."""
        _, rate = self._counts(clean, clean)
        z, rate = torch.broadcast_tensors(z.double(), rate)
        lower, upper = torch.special.ndtr(z), torch.special.ndtr(-z)
        first, last = torch.zeros_like(rate), torch.ceil(rate + 12 * rate.sqrt() + 40)  # k lies in [first, last]
        for _ in range(int(math.log2(float(last.max()) + 1)) + 2):
            middle = torch.floor((first + last) / 2)
            # P(X ≤ middle) ≥ Φ(z), told in the smaller tail
            enough = torch.where(
                z < 0,
                torch.special.gammaincc(middle + 1, rate) >= lower,
                torch.special.gammainc(middle + 1, rate) <= upper,
            )
            first, last = torch.where(enough, first, middle + 1), torch.where(enough, middle, last)
        mass = log_pmf(last, rate).exp().clamp_min(torch.finfo(torch.float64).tiny)
        from_below = (lower - torch.where(last > 0, torch.special.gammaincc(last.clamp_min(1), rate), 0)) / mass
        from_above = 1 - (upper - torch.special.gammainc(last + 1, rate)) / mass
        count = last - 0.5 + torch.where(z < 0, from_below, from_above).clamp(0, 1)
        return (count * self.gain + self.offset - clean).to(clean.dtype)

    def _counts(self, observed: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the observed intensity and the clean one in counts."""
        rate = ((clean.double() - self.offset) / self.gain).clamp_min(1e-6)
        return (observed.double() - self.offset) / self.gain, rate


def log_pmf(k: Tensor, rate: Tensor) -> Tensor:
    """Return log of the Poisson probability of k at a rate, k log λ - λ - log k!.

    Args:
        k: whole numbers ≥ 0.
        rate: λ > 0, broadcastable.
    """
    return torch.xlogy(k, rate) - rate - torch.lgamma(k + 1)
