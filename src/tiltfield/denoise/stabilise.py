"""Noise of constant variance, for denoisers that expect it: the generalised Anscombe transform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve, uniform_filter
from torch import Tensor

from tiltfield.noise.estimate import NoiseLine, estimate_noise, scaled

__all__ = ["Stabiliser", "deviation", "stabiliser"]

_WINDOW = 5
_ENOUGH = 2**23  # pixels to estimate the noise from
_LEAST = 2 * (3 / 8) ** 0.5  # the stabilised value of no counts


@dataclass(frozen=True)
class Stabiliser:
    """The generalised Anscombe transform of counts n = (I - dark) / slope with readout variance r = floor / slope².

    Forward D = 2 √(n + 3/8 + r), noise of deviation about 1; back by the closed form of the unbiased inverse,
    n = D²/4 + √(3/2)/(4 D) - 11/(8 D²) + 5 √(3/2)/(8 D³) - 1/8 - r, which makes up for E √n < √(E n).

    Mäkitalo, Foi: Optimal inversion of the generalized Anscombe transformation, IEEE Trans. Image Process. 22 (2013).
    """

    line: NoiseLine

    def forward(self, images: Tensor) -> Tensor:
        """Return stabilised values.

        Args:
            images: intensities in the units of the line, any shape.
        """
        counts = (images - self.line.dark) / self.line.slope
        return 2 * (counts + 3 / 8 + self._readout).clamp_min(0).sqrt()

    def back(self, stable: Tensor) -> Tensor:
        """Return the intensities of means of stabilised values.

        Args:
            stable: what `forward` gave, without noise, any shape.
        """
        d, root = stable.clamp_min(_LEAST), 1.5**0.5
        counts = d.square() / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8 - self._readout
        return self.line.dark + self.line.slope * counts

    @property
    def _readout(self) -> float:
        return self.line.floor / self.line.slope**2


def stabiliser(images: np.ndarray) -> tuple[Stabiliser, float, float]:
    """Return the transform for the variance-mean line of a series, and the intensities that are 0 and 1 in its units.

    Args:
        images: shape (tilt, row, col).
    """
    few = _some(images)
    low, high = (float(q) for q in np.quantile(few, [0.001, 0.999]))
    high = high if high > low else float(images.max())
    return Stabiliser(estimate_noise(scaled(few, low, high))), low, high


def deviation(images: np.ndarray) -> float:
    """Return the standard deviation of white noise, from each pixel against the mean of its four neighbours.

    The residual has 5/4 of the variance of the noise; the median over places keeps structure from counting. Places
    without any noise, saturated or empty, are left out.

    Args:
        images: shape (tilt, row, col).
    """
    return float(np.sqrt(np.median([_variance(image) for image in _some(images)])))


def _variance(image: np.ndarray) -> float:
    kernel = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]], np.float32)
    local = uniform_filter(convolve(image, kernel, mode="mirror") ** 2 / 1.25, _WINDOW)
    most = float(local.max())
    return float(np.median(local[local > 1e-6 * most])) if most > 0 else 0.0


def _some(images: np.ndarray) -> np.ndarray:
    """Return images enough to estimate noise from, spread over the tilts."""
    return images[:: -(-images.size // _ENOUGH)]
