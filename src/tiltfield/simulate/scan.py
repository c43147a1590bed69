"""Noise along the scan: what a detector that answers slowly makes of white noise.

Electrons arrive independently, and the detector answers each with a decaying exponential (first order, RC); a pixel is
the mean of that over its dwell. With x the dwell over the time constant, pixels k apart correlate as

    ρ(1) = (1 - e⁻ˣ)² / (2 (x - 1 + e⁻ˣ)),   ρ(k) = ρ(1) e^(-(k-1) x),

which is the law of an ARMA(1, 1) process, y[i] = φ y[i-1] + e[i] + θ e[i-1], with φ = e⁻ˣ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.signal import lfilter

from tiltfield.errors import InputError

FORGOTTEN = 1e-4  # share of the state before a line that the run-in leaves


@dataclass(frozen=True)
class ScanLaw:
    """The recursion that correlates noise along the scan.

    Attributes:
        phi: weight of the pixel before, 0 to 1.
        theta: weight of the draw before.
        gain: factor that keeps the variance of white noise.
    """

    phi: float
    theta: float
    gain: float

    @property
    def run_in(self) -> int:
        """Pixels until the start of a line is forgotten."""
        return 2 + (math.ceil(math.log(FORGOTTEN) / math.log(self.phi)) if self.phi > FORGOTTEN else 0)

    def correlation(self, lag: int) -> float:
        """Return the correlation of pixels that are `lag` apart along the scan.

        Args:
            lag: pixels, ≥ 0.
        """
        if lag == 0:
            return 1.0
        first = (1 + self.phi * self.theta) * (self.phi + self.theta) * self.gain**2 / (1 - self.phi**2)
        return first * self.phi ** (lag - 1)

    def smear(self, white: np.ndarray, axis: int) -> np.ndarray:
        """Return the noise as the detector passes it on.

        Args:
            white: independent noise of zero mean, whose lines begin with `run_in` pixels to be dropped.
            axis: along the scan.

        Returns:
            float64, the same shape without the run-in, and of the same variance where that is constant.
        """
        slow = lfilter([self.gain, self.gain * self.theta], [1.0, -self.phi], white, axis=axis)
        return np.take(slow, np.arange(self.run_in, slow.shape[axis]), axis=axis)


def scan_law(correlation: float) -> ScanLaw:
    """Return the law with this correlation of neighbours.

    Args:
        correlation: of pixels that are next to each other along the scan, > 0 and < 1.

    Raises:
        InputError: if it is out of range.
    """
    if not 0 < correlation < 1:
        raise InputError(f"the correlation along the scan must be between 0 and 1, got {correlation:g}")
    dwell = _dwell(correlation)
    phi = math.exp(-dwell)
    # ρ(1) of an ARMA(1, 1) gives a quadratic in θ with the roots θ and 1/θ: θ + 1/θ = sum_of_roots
    sum_of_roots = (1 + phi**2 - 2 * correlation * phi) / (correlation - phi)
    theta = 2 / (sum_of_roots + math.sqrt(max(sum_of_roots**2 - 4, 0.0)))
    gain = math.sqrt((1 - phi**2) / (1 + 2 * phi * theta + theta**2))
    return ScanLaw(phi, theta, gain)


def _dwell(correlation: float) -> float:
    """Return the dwell over the time constant that gives neighbours this correlation."""

    def excess(x: float) -> float:
        # 2 (x - 1 + e⁻ˣ), whose terms cancel for small x
        twice = x * x * (1 - x / 3 + x * x / 12) if x < 1e-3 else 2 * (x + math.expm1(-x))
        return math.expm1(-x) ** 2 / twice - correlation

    # for long dwells ρ(1) = 1 / (2 (x - 1)): beyond the upper end it is smaller by more than rounding
    return float(brentq(excess, 1e-9, 2 + 1 / (2 * correlation), xtol=1e-12))
