"""Clean images from repeated noisy ones: filters that are fitted by their error against a frame they do not see.

The squared error of an estimate against an independent frame is that against the truth plus the variance of the noise
(Lehtinen et al., Noise2Noise, ICML 2018), so filters can be fitted and chosen without any clean image. Noise that is
correlated along the scan needs nothing special here: the spectra hold it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter

Denoiser = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Denoiser]
"""From images to see and images to explain, (frame, row, col), to what makes an image (row, col) clean."""

_WIDTHS = ((1.0, 1.0), (1.5, 1.5), (3.0, 3.0), (1.0, 2.0), (2.0, 1.0))  # Gaussians to mix, pixels (row, col)
_CLASSES = 8
_TINY_GAIN = 2.0  # standard errors below which a gain is taken for 0


def smooth_spectrum(power: np.ndarray) -> np.ndarray:
    """Return a cosine spectrum averaged over neighbouring frequencies, √N / 4 of them wide along an axis of N.

    Args:
        power: products of cosine transforms, shape (row, col).
    """
    return gaussian_filter(power, [np.sqrt(n) / 4 for n in power.shape], mode="reflect")


def cosine(images: np.ndarray) -> np.ndarray:
    """Return the orthonormal cosine transforms of images, which know no seam at the edges.

    Args:
        images: shape (..., row, col).
    """
    return dctn(images, axes=(-2, -1), norm="ortho")


def uncosine(spectra: np.ndarray) -> np.ndarray:
    """Return the images of cosine transforms.

    Args:
        spectra: shape (..., row, col).
    """
    return idctn(spectra, axes=(-2, -1), norm="ortho")


def wiener(seen: np.ndarray, wanted: np.ndarray) -> Denoiser:
    """Fit the linear filter with the smallest error, gain = S_wanted,seen / S_seen,seen with smoothed spectra.

    Args:
        seen: images to filter, shape (frame, row, col).
        wanted: images to come close to, with independent noise, same shape.

    Wiener (1949), with the spectra of the signal from the cross-spectrum of the repeats.
    """
    level = float(seen.mean())
    fs, fw = cosine(seen - level), cosine(wanted - level)
    cross, power = (smooth_spectrum((a * fs).mean(axis=0)) for a in (fw, fs))
    gain = np.clip(cross / np.maximum(power, 1e-30 + 1e-12 * power.max()), 0.0, 1.0)
    averaged = 4 * np.pi * np.prod([np.sqrt(n) / 4 for n in power.shape])
    gain[gain < _TINY_GAIN / np.sqrt(averaged)] = 0.0
    gain[0, 0] = 1.0
    return lambda image: uncosine(gain * cosine(image - level)) + level


def mixture(seen: np.ndarray, wanted: np.ndarray) -> Denoiser:
    """Fit mixtures of the Wiener filter and of Gaussians, one for each class of local intensity.

    Darker pixels have less noise and other structure than bright ones; least squares against the frame not seen finds
    how much smoothing each bears.

    Args:
        seen: as for :func:`wiener`.
        wanted: as there.
    """
    base = wiener(seen, wanted)
    features = [_features(image, base) for image in seen]
    edges = np.quantile([_pilot(f) for f in features], np.linspace(0, 1, _CLASSES + 1)[1:-1])
    classes = [np.digitize(_pilot(f), edges) for f in features]
    weights = []
    for k in range(_CLASSES):
        x = np.concatenate([f[:, c == k] for f, c in zip(features, classes, strict=True)], axis=1)
        y = np.concatenate([w[c == k] for w, c in zip(wanted, classes, strict=True)])
        centre = x.mean(axis=1, keepdims=True)
        slope = np.linalg.lstsq((x - centre).T, y - y.mean(), rcond=1e-6)[0]
        weights.append(np.append(slope, y.mean() - slope @ centre[:, 0]))
    return lambda image: _mix(_features(image, base), edges, np.array(weights))


def _features(image: np.ndarray, base: Denoiser) -> np.ndarray:
    return np.stack([base(image), *(gaussian_filter(image, width) for width in _WIDTHS)])


def _pilot(features: np.ndarray) -> np.ndarray:
    return gaussian_filter(features[0], 1.0)


def _mix(features: np.ndarray, edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Apply the mixture of each pixel's class, blended linearly between the middles of the classes."""
    pilot = _pilot(features)
    middles = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
    place = np.interp(pilot, middles, np.arange(len(middles)))
    low = np.minimum(place.astype(int), len(middles) - 2)
    share = place - low
    result = np.zeros_like(pilot)
    for k in range(len(features) + 1):
        column = weights[:, k]
        value = column[low] * (1 - share) + column[low + 1] * share
        result += value * features[k] if k < len(features) else value
    return result


def total_variation(strength: float) -> Fit:
    """Return the fit of a total-variation denoiser of a given strength; only the scale of the noise is fitted.

    Args:
        strength: weight of the total variation, in standard deviations of the noise, > 0.

    Chambolle, J. Math. Imaging Vis. 20 (2004) 89.
    """

    def fit(seen: np.ndarray, wanted: np.ndarray) -> Denoiser:
        from skimage.restoration import denoise_tv_chambolle

        scale = float((seen - wanted).std()) / np.sqrt(2)
        return lambda image: denoise_tv_chambolle(image / scale, weight=strength) * scale

    return fit


FITS: dict[str, Fit] = {
    "wiener": wiener,
    "mixture": mixture,
    "tv 0.7": total_variation(0.7),
    "tv 1": total_variation(1.0),
    "tv 1.4": total_variation(1.4),
}
"""Name to how it is fitted; the first of equals wins."""


def judge(fit: Fit, seen: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean squared error of a denoiser against frames not seen, on rows it was not fitted to.

    Args:
        fit: how it is fitted: to one half of the rows for the other.
        seen: shape (frame, row, col).
        wanted: same shape, independent noise.
    """
    half = seen.shape[1] // 2
    parts = [(seen[:, s], wanted[:, s]) for s in (slice(0, half), slice(half, 2 * half))]
    total = 0.0
    for there, here in ((0, 1), (1, 0)):
        denoise = fit(*parts[there])
        total += sum(float(np.mean((denoise(s) - w) ** 2)) for s, w in zip(*parts[here], strict=True))
    return total / (2 * len(seen))
