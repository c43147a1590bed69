"""What every noise model is: a conditional distribution of the observed intensity given the clean one."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from tiltfield.noise.quadrature import gauss_hermite

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_TAIL, _TERMS = -5.0, 12  # where the continued fraction of φ/Φ takes over, and how long it is


@dataclass(frozen=True)
class Recording:
    """How the detector wrote the intensities down, in the units the model works in.

    Attributes:
        low: value at which dark pixels saturate, or None.
        high: value at which bright pixels saturate, or None.
        quantum: spacing of the grey values if it is not small against the noise, else None. Grey values are counted
            from `low`, else from `high`, else from 0; `low` and `high` lie a whole number of quanta apart.
        slack: how near to `low` or `high` a value counts as saturated: single precision moves values a little.
    """

    low: float | None = None
    high: float | None = None
    quantum: float | None = None
    slack: float = 0.0

    def rescaled(self, factor: float, shift: float) -> Recording:
        """Return the same in units where an intensity i reads factor · i + shift."""
        low, high = (None if end is None else factor * end + shift for end in (self.low, self.high))
        return Recording(low, high, None if self.quantum is None else factor * self.quantum, factor * self.slack)


@dataclass(frozen=True, eq=False)
class Given:
    """What the neighbours tell of a pixel's z before it is seen: normal with this mean and deviation.

    Attributes:
        mean: shape of the pixels.
        deviation: likewise, > 0.
    """

    mean: Tensor
    deviation: Tensor

    def __getitem__(self, which: Tensor) -> Given:
        """Return it for some of the pixels."""
        return Given(self.mean[which], self.deviation[which])


class NoiseModel(nn.Module):
    """Distribution of observed = clean + n, with n a monotone map of a standard normal ε, given the clean intensity.

    Subclasses define the map's inverse, :meth:`to_normal`, and the map, :meth:`from_normal`. With z = to_normal(n):

    - between the saturation values, p(observed | clean) = φ(z) |dz/dn|;
    - at them, the mass beyond: Φ(z(low)) and Φ(-z(high)), so that no density diverges on the atoms;
    - for quantised data the mass of the bin, Φ(z(n + q/2)) - Φ(z(n - q/2)).

    Where noise is correlated (`axis` is not None) z is standard normal for every pixel by itself, and normal with
    another mean and a smaller deviation given the pixels before it along the scan.
    """

    fast: ClassVar[frozenset[str]] = frozenset({"log_sigma", "log_slope", "log_floor"})
    """Parameters that may be orders of magnitude off at the start, and so learn `faster`."""
    faster: ClassVar[float] = 10.0
    """Factor on their learning rate."""
    axis: int | None = None
    """Dimension of the images along which noise is correlated, or None."""
    quasi: ClassVar[bool] = False
    """Whether the gradient of log p in the clean intensity is that of :meth:`pull`, which is cheaper than log p."""
    trust: float = 1.0
    """Share of the correlation, 0 to 1, that the gradient in the clean intensity knows of; likelihoods know all."""

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

    def moments(self) -> NoiseModel:
        """Return the Gaussian of equal mean and variance at every clean intensity, taken as given.

        Needed of models that may be correlated along the scan.
        """
        raise NotImplementedError

    def from_normal(self, z: Tensor, clean: Tensor) -> Tensor:
        """Return the noise n at standard-normal z, the inverse of :meth:`to_normal`.

        Args:
            z: any shape.
            clean: same shape.
        """
        raise NotImplementedError

    def log_prob(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(observed | clean): a density, or a mass at saturation and for quantised data.

        Its gradient with respect to `clean` takes the shape of the noise at `clean` as given: a field must not explain
        a misfit by growing brighter where brighter pixels are noisier.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            labels: integers, same shape: neighbours along the scan know of each other only if they have the same label,
                not 0. None: all do. Without meaning where noise is not correlated.

        Returns:
            natural logarithm, same shape; the sum over a run of pixels is their joint one.
        """
        return self.log_law(observed, clean)

    def pull(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the function of `clean` that the field follows in place of log p. Needed of models that are `quasi`.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            labels: as in :meth:`log_prob`.

        Returns:
            same shape; only its gradient in `clean` has a meaning.
        """
        raise NotImplementedError

    def log_law(
        self,
        observed: Tensor,
        clean: Tensor,
        given: Given | None = None,
        mapped: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return log p(observed | clean, neighbours).

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            given: what the neighbours tell, or None for nothing.
            mapped: to_normal(observed - clean, clean) if it is known already.
        """
        with self.settled():
            rec = self.recording
            if rec.quantum is not None:
                result = self._log_bin(observed, clean, rec.quantum, given)
            else:
                mapped = mapped or self.to_normal(observed - clean, clean.detach())
                z, log_det = _standardised(*mapped, given)
                result = log_det - 0.5 * z.square() - _LOG_SQRT_2PI
            for saturated, bound, side in self._atoms(observed):
                there, known = clean[saturated], None if given is None else given[saturated]
                z, _ = _standardised(*self.to_normal(bound - there, there.detach()), known)
                result = result.masked_scatter(saturated, torch.special.log_ndtr(side * z).to(result.dtype))
            return result

    def settled(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the parameters do not change, so that what depends on them is computed once."""
        return contextlib.nullcontext()

    def _atoms(self, observed: Tensor) -> list[tuple[Tensor, float, int]]:
        """Return, per end that saturates: which pixels do, the bound of their noise, on which side (1 below)."""
        rec, atoms = self.recording, []
        half = (rec.quantum or 0.0) / 2
        near = max(half, rec.slack)
        if rec.low is not None:
            atoms.append((observed <= rec.low + near, rec.low + half, 1))
        if rec.high is not None:
            atoms.append((observed >= rec.high - near, rec.high - half, -1))
        return atoms

    def _log_bin(self, observed: Tensor, clean: Tensor, quantum: float, given: Given | None) -> Tensor:
        upper, _ = _standardised(*self.to_normal(observed + quantum / 2 - clean, clean.detach()), given)
        lower, _ = _standardised(*self.to_normal(observed - quantum / 2 - clean, clean.detach()), given)
        # By symmetry work in the lower tail, where differences of Φ keep their digits.
        flip = lower + upper > 0
        a = torch.where(flip, -upper, lower)
        b = torch.where(flip, -lower, upper)
        log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
        return log_b + torch.log(-torch.expm1((log_a - log_b).clamp_max(-1e-6)))

    def scores(self, observed: Tensor, clean: Tensor, mapped: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return z of every pixel by itself; of saturated pixels its mean beyond the bound, -φ(b)/Φ(b) below b.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            mapped: to_normal(observed - clean, clean) if it is known already.
        """
        z, _ = mapped or self.to_normal(observed - clean, clean.detach())
        for saturated, bound, side in self._atoms(observed):
            there = clean[saturated]
            b, _ = self.to_normal(bound - there, there.detach())
            z = z.masked_scatter(saturated, (-side * _mean_excess(side * b)).to(z.dtype))
        return z

    def given(self, scores: Tensor, labels: Tensor | None = None) -> Given | None:
        """Return what the pixels before each one along the scan tell of its z; None where noise is not correlated.

        Args:
            scores: z of every pixel by itself.
            labels: as in :meth:`log_prob`.
        """
        return None

    def whiten(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return residuals that are independent standard normals if the model is right and nothing is saturated.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            labels: as in :meth:`log_prob`.
        """
        scores = self.scores(observed, clean)
        given = self.given(scores, labels)
        return scores if given is None else (scores - given.mean) / given.deviation

    def bounds(self, observed: Tensor, clean: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the whitened residual's lower and upper end: equal for a density, apart for an atom or a bin.

        Φ of a uniform draw between Φ(lower) and Φ(upper) is uniform if the model is right.

        Args:
            observed: recorded intensity, any shape.
            clean: clean intensity, same shape.
            labels: as in :meth:`log_prob`.
        """
        half = (self.recording.quantum or 0.0) / 2
        given = self.given(self.scores(observed, clean), labels)
        lower, _ = _standardised(*self.to_normal(observed - half - clean, clean), given)
        upper, _ = _standardised(*self.to_normal(observed + half - clean, clean), given)
        for saturated, bound, side in self._atoms(observed):
            end, _ = _standardised(*self.to_normal(bound - clean, clean), given)
            lower = torch.where(saturated, end if side < 0 else -math.inf, lower)
            upper = torch.where(saturated, end if side > 0 else math.inf, upper)
        return lower, upper

    def rescaled(self, factor: float, shift: float) -> Self:
        """Return the same noise in units where an intensity i reads factor · i + shift.

        Args:
            factor: > 0.
            shift: of the zero.
        """
        model = copy.deepcopy(self)
        with torch.no_grad():
            model.rescale_(factor, shift)
        return model

    def rescale_(self, factor: float, shift: float) -> None:
        """Change the units in place, as in :meth:`rescaled`; subclasses add their parameters."""
        self.recording = self.recording.rescaled(factor, shift)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw observed intensities, saturated and quantised as recorded.

        Args:
            clean: clean intensity, any shape.
            generator: source of randomness.

        Returns:
            same shape.
        """
        with torch.no_grad():
            observed = clean + self.from_normal(self.draw(clean, generator), clean)
        rec = self.recording
        if rec.quantum is not None:
            origin = next(value for value in (rec.low, rec.high, 0.0) if value is not None)
            observed = origin + torch.round((observed - origin) / rec.quantum) * rec.quantum
        return observed.clamp(rec.low, rec.high) if (rec.low, rec.high) != (None, None) else observed

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a draw of z for every pixel.

        Args:
            like: gives shape, type and device.
            generator: source of randomness.
        """
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

    def deviation(self, clean: Tensor) -> Tensor:
        """Return the standard deviation of the unsaturated noise, by :meth:`quadrature`.

        Args:
            clean: intensities, shape (n,).

        Returns:
            shape (n,).
        """
        z, weight = self.quadrature(clean.dtype, clean.device)
        with torch.no_grad():
            noise = self.from_normal(z.expand(len(clean), -1), clean[:, None].expand(-1, len(z)))
            mean = (noise * weight).sum(-1, keepdim=True)
            return ((noise - mean).square() * weight).sum(-1).sqrt()

    def quadrature(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return nodes and weights for expectations over z: those of Gauss and Hermite."""
        return gauss_hermite(32, dtype, device)

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups.

        Args:
            learning_rate: the rate to scale.
        """
        free = [(name.rpartition(".")[2], p) for name, p in self.named_parameters() if p.requires_grad]
        fast = [p for name, p in free if name in self.fast]
        slow = [p for name, p in free if name not in self.fast]
        groups = [{"params": fast, "lr": self.faster * learning_rate}, {"params": slow, "lr": learning_rate}]
        return [group for group in groups if group["params"]]


def _standardised(z: Tensor, log_det: Tensor, given: Given | None) -> tuple[Tensor, Tensor]:
    """Return z and log |dz/dn| relative to what the neighbours tell."""
    if given is None:
        return z, log_det
    return (z - given.mean) / given.deviation, log_det - given.deviation.log()


def _mean_excess(b: Tensor) -> Tensor:
    """Return φ(b)/Φ(b), in the tail by its continued fraction t + 1/(t + 2/(t + 3/…)), t = -b, which keeps digits."""
    near, t = b.clamp_min(_TAIL), -b.clamp_max(_TAIL)
    fraction = t
    for k in range(_TERMS, 0, -1):
        fraction = t + k / fraction
    quotient = torch.exp(-0.5 * near.square() - _LOG_SQRT_2PI - torch.special.log_ndtr(near))
    return torch.where(b < _TAIL, fraction, quotient)
