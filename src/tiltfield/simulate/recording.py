"""What the detector makes of clean images: noise by a law or a fitted file, along the scan, clipped, in grey levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiltfield.config import SimulateConfig
from tiltfield.simulate.scan import ScanLaw, scan_law
from tiltfield.threads import as_many_as

if TYPE_CHECKING:
    from tiltfield.noise import NoiseFile

NOISE_STREAM = 3
SHOT_SHARE = 0.98  # share of the mean noise variance that is shot noise; docs/log.md has the measurement
HEADROOM = 1 / 8  # of the clean range, left at either end of the grey levels

Draw = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class NoiseLaw:
    """Noise variance as a function of the clean intensity c: ``slope · (c - dark) + floor``.

    Attributes:
        slope: variance per unit intensity (shot noise), ≥ 0.
        floor: variance without electrons (readout), ≥ 0.
        dark: intensity without electrons.
    """

    slope: float
    floor: float
    dark: float = 0.0

    def draw(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return clean plus noise of zero mean: scaled Poisson counts and Gaussian readout.

        Args:
            clean: intensities ≥ `dark`, any shape.
            rng: source of randomness.
        """
        counted = clean
        if self.slope > 0:
            counted = self.dark + self.slope * rng.poisson((clean - self.dark).clip(0) / self.slope)
        return np.asarray(counted + math.sqrt(self.floor) * rng.standard_normal(clean.shape), np.float32)


@dataclass(frozen=True)
class GreyLevels:
    """Whole numbers in place of intensities: level = (intensity - low) / quantum, rounded, 0 to 2^bits - 1.

    Attributes:
        bits: of a level.
        low: intensity of level 0.
        quantum: intensity between levels.
    """

    bits: int
    low: float
    quantum: float

    @property
    def top(self) -> int:
        """Highest level."""
        return 2**self.bits - 1

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Return images in units of levels, neither rounded nor clipped, float32."""
        return np.stack([((i.astype(np.float64) - self.low) / self.quantum).astype(np.float32) for i in images])

    def counted(self, images: np.ndarray) -> np.ndarray:
        """Return images as levels, whole numbers in float32; what lies beyond the ends saturates there."""
        return np.rint(self.scaled(images)).clip(0, self.top)

    def law(self, law: NoiseLaw) -> NoiseLaw:
        """Return a law of noise in units of levels."""
        return NoiseLaw(law.slope / self.quantum, law.floor / self.quantum**2, (law.dark - self.low) / self.quantum)


def grey_levels(bits: int, clean: tuple[float, float], noisy: np.ndarray, *, clip: bool) -> GreyLevels:
    """Return the levels for images.

    With clipping they span the range of the clean images exactly. Without, an eighth of that range is left at either
    end: 8 bits saturate beyond, as an operator who sets brightness and contrast by the specimen would have it;
    16 bits widen until nothing saturates.

    Args:
        bits: 8 or 16.
        clean: smallest and largest clean intensity.
        noisy: images.
        clip: whether they were clipped to the clean range.
    """
    low, high = clean
    if not clip:
        low, high = low - HEADROOM * (clean[1] - clean[0]), high + HEADROOM * (clean[1] - clean[0])
        if bits == 16:
            low, high = min(low, float(noisy.min())), max(high, float(noisy.max()))
    return GreyLevels(bits, low, (high - low) / (2**bits - 1))


def law_for(config: SimulateConfig, clean: np.ndarray, dark: float) -> NoiseLaw:
    """Return the law whose mean variance in the least tilted image is that image's variance / snr.

    There the specimen fills the field of view. In tilted images the vacuum beside it would count as signal.

    Args:
        config: the settings; its noise is one of the laws.
        clean: images, shape (tilt, row, col).
        dark: intensity without electrons.
    """
    image = clean[np.argmin(np.abs(config.angles_deg))].astype(np.float64)
    variance = float(image.var()) / config.effective_snr
    if config.noise == "none":
        return NoiseLaw(0.0, 0.0)
    if config.noise == "gaussian":
        return NoiseLaw(0.0, variance)
    return NoiseLaw(SHOT_SHARE * variance / (float(image.mean()) - dark), (1 - SHOT_SHARE) * variance, dark)


def scan_of(config: SimulateConfig) -> ScanLaw | None:
    """Return how the drawn noise correlates along the scan, None if it does not.

    Args:
        config: the settings.
    """
    white = config.scan_correlation == 0 or config.noise == "none" or config.noise_file is not None
    return None if white else scan_law(config.scan_correlation)


def drawing(config: SimulateConfig, law: NoiseLaw) -> Draw:
    """Return what puts noise of a law on one image after the other.

    Args:
        config: the settings.
        law: of the noise.
    """
    rng = np.random.default_rng([config.seed, NOISE_STREAM])
    scan = scan_of(config)
    if config.noise == "none":
        return np.copy
    if scan is None:
        return lambda image: law.draw(image, rng)
    return lambda image: _scanned(image, law, scan, config.scan_axis, rng)


def _scanned(clean: np.ndarray, law: NoiseLaw, scan: ScanLaw, axis: str, rng: np.random.Generator) -> np.ndarray:
    """Return one image (row, col) with noise that is correlated along the scan.

    Lines begin with a run-in over their first pixel, so that the detector has settled when the image begins.
    """
    along = 1 if axis == "x" else 0
    margin = [(0, 0), (0, 0)]
    margin[along] = (scan.run_in, 0)
    longer = np.pad(clean, margin, mode="edge")
    white = law.draw(longer, rng).astype(np.float64) - longer
    return (clean + scan.smear(white, along)).astype(np.float32)


def drawing_from_file(noise: NoiseFile, seed: int) -> Draw:
    """Return what puts the noise of a fitted model on one image after the other.

    Args:
        noise: the fitted model; images are in its units.
        seed: of the draws.
    """
    import torch

    state = np.random.SeedSequence([seed, NOISE_STREAM]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def draw(image: np.ndarray) -> np.ndarray:
        with torch.no_grad(), as_many_as(1):  # how threads share an array decides which loop rounds a value
            return np.asarray(noise.model.sample(torch.from_numpy(image), generator).numpy(), np.float32)

    return draw
