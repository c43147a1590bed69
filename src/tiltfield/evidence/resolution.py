"""What two volumes from two halves of the data share, and which Fourier components the tilts have measured at all.

Pure functions of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from tiltfield.metrics import curve_resolution, fsc, half_shells

HALVES = 0.143  # where FSC of half sets falls to what FSC = 0.5 is between all data and the truth
STRICT = 0.5
MEASURED_SHARE = 0.5  # of the components of a shell, from which on it counts as measured
EDGE = 3.0  # pixels over which the mask falls off
LEVEL = 0.1  # of the brightest density, above which smoothed density counts as specimen
_SMOOTHING = 2.0  # pixels
_ONCE_IN_1000 = 3.09  # standard deviations


@dataclass(frozen=True)
class Shells:
    """Fourier shell correlation of two halves.

    Attributes:
        frequency: cycles per pixel, shape (shell,).
        correlation: over the components that both halves measured; 0 where a shell has none.
        everywhere: over all components.
        unmeasured: over those that neither half measured: what the regulariser and the field made alike.
        share: of each shell's components, measured by both halves.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    everywhere: np.ndarray
    unmeasured: np.ndarray
    share: np.ndarray

    @property
    def limit(self) -> float:
        """Return the frequency up to which both halves have measured at least half of each shell, cycles per pixel."""
        return _last(self.frequency, self.share >= MEASURED_SHARE)

    def resolution(self, threshold: float) -> float:
        """Return the period at which the measured correlation falls below a threshold, pixels."""
        return curve_resolution(self.frequency, self.correlation, threshold)


def compare_halves(halves: tuple[np.ndarray, np.ndarray], angles_deg: tuple[np.ndarray, np.ndarray]) -> Shells:
    """Correlate two volumes shell by shell inside a soft mask.

    Args:
        halves: densities of one shape (z, y, x).
        angles_deg: tilts that each was made from.
    """
    mask = soft_mask((halves[0] + halves[1]) / 2)
    a, b = (masked(half, mask) for half in halves)
    seen = [measured(a.shape, angles) for angles in angles_deg]
    both, neither = seen[0] & seen[1], ~(seen[0] | seen[1])
    frequency, correlation = fsc(a, b, both)
    return Shells(frequency, correlation, fsc(a, b)[1], fsc(a, b, neither)[1], shell_share(a.shape, both))


@dataclass(frozen=True)
class Rings:
    """Fourier ring correlation of predictions with images that the fit has not seen.

    Attributes:
        frequency: cycles per pixel, shape (ring,).
        correlation: over the rings of all images.
        chance: what independent noise exceeds once in a thousand times.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    chance: np.ndarray

    @property
    def limit(self) -> float:
        """Return the frequency up to which every ring that can tell correlates beyond chance, cycles per pixel."""
        return _last(self.frequency, (self.correlation > self.chance) | (self.chance >= 1))


def ring_correlation(predicted: np.ndarray, observed: np.ndarray) -> Rings:
    """Correlate predicted and observed images ring by ring, Σ Re(P O*) / sqrt(Σ|P|² Σ|O|²) over all images.

    The noise of an image that was left out is independent of the prediction, and no regulariser has touched it. So
    what correlates is in the data, unlike in half sets, which a regulariser makes alike.

    Args:
        predicted: shape (tilt, row, col).
        observed: same shape.

    Saxton & Baumeister, J. Microsc. 127 (1982) 127.
    """
    rows, cols = observed.shape[1:]
    window = np.outer(_taper(rows), _taper(cols))
    spectra = []
    for images in (predicted, observed):
        mean = (images * window).sum(axis=(1, 2), keepdims=True) / window.sum()
        spectra.append(np.fft.rfft2((images - mean) * window))
    ring, weight = half_shells((rows, cols))
    edge = max(rows, cols)
    n_rings = edge // 2

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, (values.sum(axis=0) * weight).ravel(), n_rings + 1)[1 : n_rings + 1]

    p, o = spectra
    power = np.sqrt(summed(np.abs(p) ** 2) * summed(np.abs(o) ** 2))
    cross = summed((p * o.conj()).real)
    correlation = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
    count = summed(np.full(p.shape, 1.0))  # k and -k are one, and of a complex number only the real part counts
    alike = float(np.mean(window**4) / np.mean(window**2) ** 2)  # a window makes neighbours alike
    return Rings(np.arange(1, n_rings + 1) / edge, correlation, _ONCE_IN_1000 * np.sqrt(alike / np.maximum(count, 1)))


def _last(frequency: np.ndarray, good: np.ndarray) -> float:
    """Return the last frequency before the first that is not good, or 0."""
    n = int(np.cumprod(good).sum())
    return float(frequency[n - 1]) if n else 0.0


def soft_mask(density: np.ndarray) -> np.ndarray:
    """Return 1 in the specimen, 0 far from it, with a soft edge between, also at the sides of the box.

    The box cuts through a specimen that is wider than the images. Cut hard, both volumes get the same edges, which
    correlate at every frequency.

    Args:
        density: shape (z, y, x).

    Returns:
        0 to 1, same shape.
    """
    smooth = gaussian_filter(np.asarray(density, np.float32), _SMOOTHING, mode="nearest")
    inside = smooth > LEVEL * np.quantile(smooth, 0.995)
    wide = maximum_filter(inside.astype(np.float32), size=2 * round(EDGE) + 1)
    mask = gaussian_filter(wide, EDGE / 2, mode="nearest")
    for axis, n in enumerate(mask.shape):
        mask *= _taper(n).reshape([-1 if k == axis else 1 for k in range(3)])
    return mask


def _taper(n: int) -> np.ndarray:
    """Return a window of n samples that rises at both ends as a raised cosine over 2 × EDGE, or a quarter of n."""
    width = min(2 * EDGE, n / 4)
    depth = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / width, 1))).astype(np.float32)


def masked(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return (volume - its mean under the mask) × mask: a mean that stays would correlate as the mask does.

    Args:
        volume: shape (z, y, x).
        mask: 0 to 1, same shape.
    """
    mean = float((volume * mask).sum(dtype=np.float64) / max(float(mask.sum(dtype=np.float64)), 1e-12))
    return (volume - mean) * mask


def measured(shape: tuple[int, ...], angles_deg: np.ndarray) -> np.ndarray:
    """Return which Fourier components of a slab some image of a series has measured.

    An image at tilt θ holds the components on the plane k_z = k_x tan θ. A slab of thickness T and width D smears each
    component over 1/T along k_z and 1/D along k_x, so the image tells of those with
    |k_z - k_x tan θ| ≤ 1/(2T) + |tan θ|/(2D). Between tilts Δθ apart that leaves gaps from k = cos θ/(T Δθ) on
    (Crowther's limit, of a slab), and all beyond the steepest tilt is the missing wedge.

    Args:
        shape: (z, y, x) of the volume; its z is taken as T and its x as D.
        angles_deg: tilts, degrees.

    Returns:
        bool, shape of ``numpy.fft.rfftn`` of such a volume.

    Crowther, DeRosier & Klug, Proc. R. Soc. Lond. A 317 (1970) 319; Radermacher, in Electron Tomography (1992).
    """
    n_z, n_y, n_x = shape
    k_z, k_x = np.fft.fftfreq(n_z)[:, None], np.fft.rfftfreq(n_x)[None]
    seen = np.zeros((n_z, k_x.shape[1]), bool)
    for slope in np.tan(np.deg2rad(np.asarray(angles_deg, float))):
        seen |= np.abs(k_z - k_x * slope) <= 0.5 / n_z + 0.5 * abs(slope) / n_x
    return np.repeat(seen[:, None], n_y, axis=1)


def shell_share(shape: tuple[int, ...], where: np.ndarray) -> np.ndarray:
    """Return the share of each shell's components that are in a set, shells as of :func:`tiltfield.metrics.fsc`.

    Args:
        shape: (z, y, x) of the volume.
        where: bool, shape of its half spectrum.
    """
    shell, weight = half_shells(shape)
    last = max(shape) // 2
    count, found = (np.bincount(shell, (part * weight).ravel(), last + 1) for part in (np.ones(where.shape), where))
    shells = slice(1, last + 1)
    return found[shells] / np.maximum(count[shells], 1)
