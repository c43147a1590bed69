"""What every noise model is: a conditional distribution of the observed intensity given the clean one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Recording:
    """How the detector wrote the intensities down, in the units the model works in.

    Attributes:
        low: value at which dark pixels saturate, or None.
        high: value at which bright pixels saturate, or None.
        quantum: spacing of the grey values if it is not small against the noise, else None. Grey values are counted
            from `low`, else from `high`, else from 0; `low` and `high` lie a whole number of quanta apart.
    """

    low: float | None = None
    high: float | None = None
    quantum: float | None = None


class NoiseModel(nn.Module):
    """Distribution of observed = clean + n, with n a monotone map of a standard normal ε, given the clean intensity.

    Subclasses define the map's inverse, :meth:`to_normal`, and the map, :meth:`from_normal`. With z = to_normal(n):

    - between the saturation values, p(observed | clean) = φ(z) |dz/dn|;
    - at them, the mass beyond: Φ(z(low)) and Φ(-z(high)), so that no density diverges on the atoms;
    - for quantised data the mass of the bin, Φ(z(n + q/2)) - Φ(z(n - q/2)).
    """

    fast: ClassVar[frozenset[str]] = frozenset({"log_sigma", "log_slope", "log_floor"})
    """Parameters that may be orders of magnitude off at the start, and so learn ten times as fast."""

    def __init__(self, recording: Recording | None = None) -> None:
        super().__init__()
        self.recording = recording or Recording()

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |dz/dn|.

        Args:
            noise: observed - clean, any shape.
            clean: clean intensity, same shape.
        """
        raise NotImplementedError

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return the noise n at standard-normal z, the inverse of :meth:`to_normal`.

        Args:
            z: any shape.
            clean: same shape.
        """
        raise NotImplementedError

    def log_prob(self, observed: Tensor, clean: Tensor) -> Tensor:
        """Return log p(observed | clean): a density, or a mass at saturation and for quantised data.

        Its gradient with respect to `clean` takes the shape of the noise at `clean` as given: a field must not explain
        a misfit by growing brighter where brighter pixels are noisier.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.

        Returns:
            natural logarithm, same shape.
        """
        rec = self.recording
        if rec.quantum is not None:
            result = self._log_bin(observed, clean, rec.quantum)
        else:
            z, log_det = self.to_normal(observed - clean, clean.detach())
            result = log_det - 0.5 * z.square() - _LOG_SQRT_2PI
        half = (rec.quantum or 0.0) / 2
        if rec.low is not None:
            result = self._log_tail(result, observed <= rec.low, rec.low + half, clean, side=1)
        if rec.high is not None:
            result = self._log_tail(result, observed >= rec.high, rec.high - half, clean, side=-1)
        return result

    def _log_tail(self, result: Tensor, saturated: Tensor, bound: float, clean: Tensor, side: int) -> Tensor:
        """Put log Φ(side · z(bound)) where pixels are saturated, and compute it only there."""
        there = clean[saturated]
        z, _ = self.to_normal(bound - there, there.detach())
        return result.masked_scatter(saturated, torch.special.log_ndtr(side * z).to(result.dtype))

    def _log_bin(self, observed: Tensor, clean: Tensor, quantum: float) -> Tensor:
        upper, _ = self.to_normal(observed + quantum / 2 - clean, clean.detach())
        lower, _ = self.to_normal(observed - quantum / 2 - clean, clean.detach())
        # By symmetry work in the lower tail, where differences of Φ keep their digits.
        flip = lower + upper > 0
        a = torch.where(flip, -upper, lower)
        b = torch.where(flip, -lower, upper)
        log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
        return log_b + torch.log(-torch.expm1((log_a - log_b).clamp_max(-1e-6)))

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw observed intensities, saturated and quantised as recorded.

        Args:
            clean: clean intensity, any shape.
            generator: source of randomness.

        Returns:
            same shape.
        """
        z = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        with torch.no_grad():
            observed = clean + self.from_normal(z, clean)
        rec = self.recording
        if rec.quantum is not None:
            origin = next(value for value in (rec.low, rec.high, 0.0) if value is not None)
            observed = origin + torch.round((observed - origin) / rec.quantum) * rec.quantum
        return observed.clamp(rec.low, rec.high) if (rec.low, rec.high) != (None, None) else observed

    def deviation(self, clean: Tensor) -> Tensor:
        """Return the standard deviation of the unsaturated noise, by Gauss-Hermite quadrature.

        Args:
            clean: intensities, shape (n,).

        Returns:
            shape (n,).
        """
        z, weight = gauss_hermite(32, clean.dtype, clean.device)
        with torch.no_grad():
            noise = self.from_normal(z.expand(len(clean), -1), clean[:, None].expand(-1, len(z)))
            mean = (noise * weight).sum(-1, keepdim=True)
            return ((noise - mean).square() * weight).sum(-1).sqrt()

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups.

        Args:
            learning_rate: the rate to scale.
        """
        fast = [p for name, p in self.named_parameters() if name.rpartition(".")[2] in self.fast]
        slow = [p for name, p in self.named_parameters() if name.rpartition(".")[2] not in self.fast]
        groups = [{"params": fast, "lr": 10 * learning_rate}, {"params": slow, "lr": learning_rate}]
        return [group for group in groups if group["params"]]


def gauss_hermite(n: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return nodes and weights with Σ w f(z) ≈ E[f(ε)], ε standard normal.

    Args:
        n: number of nodes.
        dtype: type of the result.
        device: where it lives.
    """
    import numpy as np

    z, w = np.polynomial.hermite_e.hermegauss(n)
    return (torch.tensor(z, dtype=dtype, device=device), torch.tensor(w / w.sum(), dtype=dtype, device=device))
