"""Noise models: the likelihood of what was observed. A model is added by one file here and one line in `NOISES`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tiltfield.errors import InputError, nearest
from tiltfield.noise.base import NoiseModel, Recording
from tiltfield.noise.file import NoiseFile, load_noise, save_noise
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.gaussian import L1, L2, Gaussian, PoissonGaussian
from tiltfield.noise.paper import PaperFlow
from tiltfield.noise.scan import Scan

__all__ = ["NOISES", "NoiseFile", "NoiseModel", "Recording", "Start", "load_noise", "make_noise", "save_noise"]

FLOW_LAYERS, PAPER_LAYERS = 4, 8


@dataclass(frozen=True)
class Start:
    """What is known of the noise before a fit.

    Attributes:
        slope: variance per intensity, > 0.
        floor: variance at the dark level, > 0.
        dark: intensity without electrons.
        low: smallest clean intensity to expect.
        high: largest, > low.
        generator: source of the initial values.
        recording: saturation and quantisation, or None; l2 and l1, being plain losses, ignore it.
        misfit: standard deviation that the image model leaves unexplained, which the line never falls below.
        axis: dimension of the images that is the fast scan direction, for the models of correlated noise.
        n_layers: radial layers of the flows, even; their own number if None.

    Raises:
        InputError: if slope, floor or the range are not as said.
    """

    slope: float
    floor: float
    dark: float
    low: float
    high: float
    generator: torch.Generator
    recording: Recording | None = None
    misfit: float = 0.0
    axis: int = -1
    n_layers: int | None = None

    def __post_init__(self) -> None:
        if not (self.slope > 0 and self.floor > 0):
            raise InputError(f"the noise starts from slope > 0 and floor > 0, got {self.slope} and {self.floor}")
        if not self.low < self.high:
            raise InputError(f"the clean intensities need low < high, got {self.low} and {self.high}")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise in the middle of the range."""
        return math.sqrt(self.floor + self.slope * max(0.0, (self.low + self.high) / 2 - self.dark))

    def line(self) -> PoissonGaussian:
        """Return the Poisson-Gaussian model."""
        return PoissonGaussian(self.slope, self.floor, self.dark, self.recording, self.misfit)

    def flow(self) -> RadialFlow:
        """Return the flow that starts from it."""
        return RadialFlow(
            self.line(),
            low=self.low,
            high=self.high,
            n_layers=self.n_layers or FLOW_LAYERS,
            recording=self.recording,
            generator=self.generator,
        )

    def paper(self) -> PaperFlow:
        """Return the published flow; it knows no recording."""
        return PaperFlow(self.deviation, n_layers=self.n_layers or PAPER_LAYERS, generator=self.generator)


NOISES: dict[str, Callable[[Start], NoiseModel]] = {
    "flow": Start.flow,
    "scan-flow": lambda start: Scan(start.flow(), start.axis),
    "scan-poisson-gaussian": lambda start: Scan(start.line(), start.axis),
    "flow-paper": Start.paper,
    "poisson-gaussian": Start.line,
    "gaussian": lambda start: Gaussian(start.deviation, start.recording),
    "l2": lambda start: L2(start.deviation),
    "l1": lambda start: L1(start.deviation),
}
"""Name, as in the settings, to constructor."""


def make_noise(name: str, start: Start) -> NoiseModel:
    """Make a noise model by name, starting from the variance floor + slope · max(c - dark, 0).

    The models of one deviation (gaussian, l2, l1) take that of the middle of the range, c = (low + high) / 2.

    Args:
        name: one of `NOISES`.
        start: what is known of the noise.

    Returns:
        the model, on the CPU.

    Raises:
        InputError: for an unknown name.
    """
    if name not in NOISES:
        raise InputError(f"unknown noise model '{name}', expected one of {', '.join(NOISES)}{nearest(name, NOISES)}")
    return NOISES[name](start)
