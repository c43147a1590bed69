"""Noise that is correlated along the fast scan direction: per-pixel noise whose normal scores follow an AR process.

A STEM writes pixels one after the other, and the detector's answer to an electron lasts longer than a pixel: the noise
of a pixel is still seen in the next ones. Here every pixel by itself has the noise of a per-pixel model, z ~ N(0, 1),
and along the scan z is a stationary autoregressive process, so that

    p(z_t | z_{t-1}, …) = N(m_t, s²),  m_t = Σ_k φ_k z_{t-k}.

The marginal law, with its zero mean and its variance, stays that of the per-pixel model exactly, whatever φ is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiltfield.noise.base import Given, NoiseModel, Recording

ORDER = 4  # of the AR process; a first-order detector response averaged over the dwell has lag 5 below 0.01


class Scan(NoiseModel):
    """A per-pixel noise model with normal scores that are autoregressive along one axis of the images.

    The process is parametrised by its partial autocorrelations κ = tanh(·), so that it is always stationary, and a
    pixel with few known predecessors is judged by the process of lower order (Durbin-Levinson).
    """

    quasi = True

    def __init__(self, marginal: NoiseModel, axis: int = -1, order: int = ORDER) -> None:
        """Start without correlation.

        Args:
            marginal: noise of a pixel by itself; becomes part of this one.
            axis: dimension of the images that is the fast scan direction.
            order: p, pixels that are looked back.
        """
        nn.Module.__init__(self)
        self.marginal = marginal
        self.axis: int = axis
        self.partial = nn.Parameter(torch.zeros(order))  # tanh⁻¹ κ

    @property
    def recording(self) -> Recording:  # type: ignore[override]
        """How the detector wrote the intensities down, which the per-pixel model knows."""
        return self.marginal.recording

    @property
    def order(self) -> int:
        """Number of pixels that are looked back."""
        return len(self.partial)

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups: those of a pixel by itself, and the correlation, which learns fast.

        Rates do not fall: at first the field leaves coarse structure, which looks like correlated noise, and when it no
        longer does, the model must come back from that.

        Args:
            learning_rate: the rate to scale.
        """
        own = [{"params": [self.partial], "lr": self.faster * learning_rate}] if self.partial.requires_grad else []
        return [{**group, "falls": False} for group in (*self.marginal.groups(learning_rate), *own)]

    def _dimension(self, like: Tensor) -> int:
        return self.axis % like.ndim

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place."""
        self.marginal.rescale_(factor, shift)

    def to_normal(self, noise: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return z of every pixel by itself, and log |dz/dn|."""
        return self.marginal.to_normal(noise, clean)

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return the noise of every pixel by itself at standard-normal z."""
        return self.marginal.from_normal(z, clean)

    def quadrature(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return nodes and weights for expectations over the z of a pixel by itself."""
        return self.marginal.quadrature(dtype, device)

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(observed | clean, the pixels before).

        The field follows the quasi-score of the Gaussian process of equal mean and variance, with `trust` of the
        correlation: residuals over σ(c), whitened along the scan. Whitened they say least of coarse structure, where
        correlated noise is strongest, and a fit that follows them from the start ends before coarse structure is there.

        Args:
            observed: recorded intensity, any shape with the scan along `axis`.
            clean: clean intensity, same shape.
            labels: as in :meth:`NoiseModel.log_prob`.

        Returns:
            natural logarithm, same shape; the sum over a line is its joint one.
        """
        value = self._joint(self.marginal, observed, clean.detach(), labels, self.table())
        if not clean.requires_grad:
            return value
        pull = self.pull(observed, clean, labels)
        return value + (pull - pull.detach())

    def pull(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p of the Gaussian process of equal mean and variance, which the field follows."""
        table = self.table(self.trust).detach()
        return self._joint(self.marginal.moments(), observed, clean, labels, table)

    def _joint(
        self, marginal: NoiseModel, observed: Tensor, clean: Tensor, labels: Tensor | None, table: Tensor
    ) -> Tensor:
        with marginal.settled():
            mapped = marginal.to_normal(observed - clean, clean.detach())
            scores = marginal.scores(observed, clean, mapped)
            return marginal.log_law(observed, clean, self._given(scores, labels, table), mapped)

    def given(self, scores: Tensor, labels: Tensor | None = None) -> Given:
        """Return mean and deviation of each pixel's z given those before it along the scan."""
        return self._given(scores, labels, self.table())

    def _given(self, scores: Tensor, labels: Tensor | None, table: Tensor) -> Given:
        known = runs(scores, labels, self._dimension(scores), self.order)
        rows = nn.functional.embedding(known, table)  # (..., order + 1)
        axis = self._dimension(scores)
        mean = sum(rows[..., k - 1] * lagged(scores, axis, k) for k in range(1, self.order + 1))
        return Given(torch.as_tensor(mean), rows[..., -1])

    def table(self, trust: float = 1.0) -> Tensor:
        """Return φ_1 … φ_p and s of the processes of order 0 to p, shape (p + 1, p + 1), by Durbin and Levinson.

        φ_k^(m) = φ_k^(m-1) - κ_m φ_{m-k}^(m-1), φ_m^(m) = κ_m, s_m² = Π_{j ≤ m} (1 - κ_j²).

        Args:
            trust: factor on the partial autocorrelations κ, 0 to 1.
        """
        kappa = trust * torch.tanh(self.partial)
        phi, rows = kappa[:0], []
        deviation = torch.ones_like(kappa[:1])
        for m in range(self.order + 1):
            if m:
                phi = torch.cat([phi - kappa[m - 1] * phi.flip(0), kappa[m - 1 : m]])
                deviation = deviation * torch.sqrt(1 - kappa[m - 1 : m].square())
            rows.append(torch.cat([phi, kappa.new_zeros(self.order - m), deviation]))
        return torch.stack(rows)

    def autocorrelation(self, lags: int) -> Tensor:
        """Return the correlation of z at lags 1 to `lags`, by Yule and Walker from the process."""
        with torch.no_grad():
            table = self.table()
            rho = [torch.ones_like(table[0, 0])]
            for k in range(1, lags + 1):
                phi = table[min(k - 1, self.order), :-1]
                past = sum((phi[j - 1] * rho[k - j] for j in range(1, min(k - 1, self.order) + 1)), rho[0] * 0)
                if k <= self.order:  # the k-th partial autocorrelation is what the order k - 1 leaves unexplained
                    past = past + torch.tanh(self.partial[k - 1]) * table[k - 1, -1].square()
                rho.append(past)
            return torch.stack(rho[1:])

    def correlate_(self, autocorrelation: Tensor) -> None:
        """Start from measured correlations at lags 1 to p (Durbin and Levinson); what is impossible is cut short.

        Args:
            autocorrelation: of the normal scores, shape (p,); of fewer lags, the process is of lower order.
        """
        rho = torch.cat([torch.ones(1), autocorrelation.detach().float().cpu()])
        phi, error, kappa = rho[:0], 1.0, [0.0] * self.order
        for m in range(1, min(self.order, len(rho) - 1) + 1):
            k = float((rho[m] - (phi * rho[1:m].flip(0)).sum()) / error)
            k = max(-0.95, min(0.95, k))
            phi = torch.cat([phi - k * phi.flip(0), torch.tensor([k])])
            error *= 1 - k * k
            kappa[m - 1] = math.atanh(k)
        with torch.no_grad():
            self.partial.copy_(torch.tensor(kappa))

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return z of every pixel, autoregressive along the scan and stationary from the first pixel on."""
        axis = self._dimension(like)
        white = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device).movedim(axis, 0)
        with torch.no_grad():
            table = self.table().to(like.dtype)
        line: list[Tensor] = []
        for fresh in white:  # the first pixels by the processes of lower order
            phi, deviation = table[min(len(line), self.order)].split([self.order, 1])
            past = [p * z for p, z in zip(phi, reversed(line[-self.order :]), strict=False)]
            line.append(sum(past, deviation * fresh))
        return torch.stack(line).movedim(0, axis)


def lagged(values: Tensor, axis: int, lag: int) -> Tensor:
    """Return the values `lag` places before each along an axis, 0 where there are none.

    Args:
        values: any shape.
        axis: ≥ 0.
        lag: ≥ 1.
    """
    lag = min(lag, values.shape[axis])
    missing = list(values.shape)
    missing[axis] = lag
    return torch.cat([values.new_zeros(missing), values.narrow(axis, 0, values.shape[axis] - lag)], dim=axis)


def runs(like: Tensor, labels: Tensor | None, axis: int, most: int) -> Tensor:
    """Return how many pixels directly before each have its label, 0 to `most`; int64.

    Args:
        like: gives shape and device.
        labels: integers, same shape; pixels of label 0 know nothing. None: all have the same.
        axis: along which, ≥ 0.
        most: where to stop counting.
    """
    if labels is None:
        labels = torch.ones(like.shape, dtype=torch.int8, device=like.device)
    unbroken, count = labels != 0, torch.zeros(like.shape, dtype=torch.int64, device=like.device)
    for lag in range(1, most + 1):
        unbroken = unbroken & (lagged(labels, axis, lag) == labels)
        count += unbroken
    return count
