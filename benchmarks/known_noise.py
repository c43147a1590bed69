"""Fields whose clean image and noise are known, with noise like that of the measured repeats."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from tiltfield.noise.learn import Pairs
from tiltfield.noise.pairs import given
from tiltfield.simulate.scan import scan_law

DARK, SLOPE, FLOOR = 2608.0, 223.0, 37_000.0  # of the measured frames
CORRELATION = 0.51
PER_ELECTRON = 250.0  # counts: sets how skewed shot noise is
LAWS = ("Poisson-Gaussian", "exponential gain", "exponential gain, clipped")


def field(edge: int, seed: int, law: str, n_frames: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return the clean image (row, col) of a field of cracks, and frames (frame, row, col) of it.

    Args:
        edge: pixels.
        seed: of everything.
        law: one of `LAWS`.
        n_frames: how many.
    """
    rng = np.random.default_rng([seed, edge])
    film, cracks = (
        g / g.std() for g in (gaussian_filter(rng.standard_normal((edge, edge)), s, mode="wrap") for s in (20.0, 3.5))
    )
    clean = DARK + 1700 + 250 * film - 1400 * np.exp(-((cracks / 0.3) ** 2))
    clean = np.maximum(gaussian_filter(clean, 1.2, mode="wrap"), DARK + 40)
    frames = clean + np.stack([noise_of(clean, law, rng) for _ in range(n_frames)])
    if law.endswith("clipped"):
        frames = np.clip(frames, *np.quantile(frames, [0.01, 0.98]))
    return clean, frames


def noise_of(clean: np.ndarray, law: str, rng: np.random.Generator) -> np.ndarray:
    """Return noise of the measured variance and correlation, shape (row, col)."""
    scan = scan_law(CORRELATION)
    wide = np.pad(clean, ((0, 0), (scan.run_in, 0)), mode="wrap")
    rate = (wide - DARK) / PER_ELECTRON
    count = rng.poisson(rate)
    if law == "Poisson-Gaussian":
        shot = (count - rate) / np.sqrt(rate)
    else:  # the sum of n exponential gains is a gamma variate of shape n
        shot = (np.where(count > 0, rng.standard_gamma(np.maximum(count, 1)), 0.0) - rate) / np.sqrt(2 * rate)
    white = np.sqrt(SLOPE * (wide - DARK)) * shot + math.sqrt(FLOOR) * rng.standard_normal(wide.shape)
    deviation = np.sqrt(SLOPE * (wide - DARK) + FLOOR)
    return scan.smear(white / deviation, axis=1) * deviation[:, scan.run_in :]


def simulated(edge: int, seed: int, law: str) -> Pairs:
    """Return clean and noisy images of a field."""
    clean, frames = field(edge, seed, law)
    return given(clean[None], frames)
