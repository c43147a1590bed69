"""What can be seen of noise without a model: variance against intensity, correlation and spectrum along both axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tiltfield.noise.estimate import autocorrelation

BINS = 16  # classes of the clean intensity, equally many pixels in each
LAGS = 8
SEGMENT = 64  # pixels that a spectrum is made of


@dataclass(frozen=True)
class Traits:
    """Second-order description of noise, and the shape of its distribution as a whole.

    Attributes:
        intensity: mean clean intensity of each class, increasing.
        variance: of the noise in each class.
        slope: of the line through them, variance per intensity; each class weighs by the error of its variance.
        deviation: of all noise.
        skewness: mean over classes.
        kurtosis: excess, mean over classes.
        along: correlation at lags 1 to 8 along the scan, the last axis.
        across: likewise across.
        spectrum_along: power at frequencies 0 to ½ per pixel, in steps of 1/64, over the variance; 1 for white noise.
        spectrum_across: likewise.
    """

    intensity: tuple[float, ...]
    variance: tuple[float, ...]
    slope: float
    deviation: float
    skewness: float
    kurtosis: float
    along: tuple[float, ...]
    across: tuple[float, ...]
    spectrum_along: tuple[float, ...]
    spectrum_across: tuple[float, ...]


def traits_of(clean: np.ndarray, noise: np.ndarray) -> Traits:
    """Describe noise.

    Args:
        clean: clean intensities, shape (frame, row, col).
        noise: what is added to them, same shape.
    """
    noise = noise.astype(np.float64)
    index = classes(clean).ravel()
    count = np.maximum(np.bincount(index, minlength=BINS), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values.ravel(), BINS) / count

    intensity, centred = mean(clean), noise.ravel() - mean(noise)[index]
    variance = np.maximum(mean(centred**2), 1e-30)
    return Traits(
        _plain(intensity),
        _plain(variance),
        _slope(intensity, variance),
        float(noise.std()),
        float(np.mean(mean(centred**3) / variance**1.5)),
        float(np.mean(mean(centred**4) / variance**2)) - 3.0,
        correlations(noise, 2, LAGS),
        correlations(noise, 1, LAGS),
        _plain(spectrum(noise, 2)),
        _plain(spectrum(noise, 1)),
    )


def classes(clean: np.ndarray) -> np.ndarray:
    """Return the class of the clean intensity, 0 to 15, that each pixel is in; equal ones may be in several.

    Args:
        clean: any shape.
    """
    index = np.empty(clean.size, np.int64)
    index[np.argsort(clean, axis=None, kind="stable")] = np.arange(clean.size) * BINS // clean.size
    return index.reshape(clean.shape)


def correlations(noise: np.ndarray, axis: int, lags: int) -> tuple[float, ...]:
    """Return the correlation of noise with itself 1 to `lags` pixels on.

    Args:
        noise: shape (frame, row, col).
        axis: along which.
        lags: how many; fewer than the axis has pixels.
    """
    centred = torch.from_numpy(noise - noise.mean(dtype=np.float64))
    return tuple(autocorrelation(centred, axis, lags).tolist())


def spectrum(noise: np.ndarray, axis: int) -> np.ndarray:
    """Return the power at frequencies 0 to ½ per pixel over the variance, averaged over segments of 64 pixels.

    Args:
        noise: shape (frame, row, col), at least 32 pixels along the axis.
        axis: along which.

    Welch, IEEE Trans. Audio Electroacoust. 15 (1967) 70, with a Hann window and halves overlapping.
    """
    from scipy.signal import welch

    n = min(SEGMENT, noise.shape[axis])
    _, power = welch(noise, nperseg=n, axis=axis, detrend=False)
    power = np.moveaxis(power, axis, -1).reshape(-1, n // 2 + 1).mean(axis=0) / 2
    power[-1] *= 2  # one-sided spectra count all but the ends twice
    power[0] *= 2
    return power / max(float(noise.var()), 1e-30)


def _slope(intensity: np.ndarray, variance: np.ndarray) -> float:
    """Return the slope of variance against intensity; the error of a variance is proportional to it."""
    if np.ptp(intensity) == 0:
        return 0.0
    return float(np.polyfit(intensity, variance, 1, w=1 / variance)[0])


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
