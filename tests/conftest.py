"""Fixtures for every test."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from tiltfield import cli
from tiltfield.config import SimulateConfig
from tiltfield.simulate import simulate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def hasty_forecasts(monkeypatch):
    """Let the forecast of a run's time be told from few steps."""
    monkeypatch.setattr("tiltfield.pace.LEAST_SECONDS", 1e-6)
    monkeypatch.setattr("tiltfield.pace.LONGEST_SECONDS", 0.1)


@pytest.fixture(scope="session")
def shared_data():
    """Return a function from a name in ../shared/data to its path; it skips the test where that is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs the measured data ../shared/data/{name}, which is not part of the project")
        return path

    return find


@pytest.fixture(scope="session")
def cell():
    """Return a function from settings of `simulate` to a small synthetic cell, each made once."""

    @functools.cache
    def make(**settings):
        return simulate(SimulateConfig.parse({"size": 24, "tilts": "-60:60:5"} | settings, "test"))

    return make


@pytest.fixture(scope="session")
def repeats():
    """Return a function that makes repeated frames of a field of cracks, with noise whose law is known."""
    return functools.cache(make_repeats)


@dataclass(frozen=True)
class KnownRepeats:
    """Repeated frames (frame, row, col), what they show, and the law of the noise.

    Variance = slope · (clean - dark) + floor; along the rows, noise over its deviation is an AR(2) process.
    """

    clean: np.ndarray
    frames: np.ndarray
    slope: float
    dark: float
    floor: float

    @property
    def noise(self):
        return self.frames - self.clean

    def variance(self, clean):
        return self.slope * (clean - self.dark) + self.floor


AR = (0.6, -0.15)
AR_LAGS = (0.6 / 1.15, 0.6 * 0.6 / 1.15 - 0.15)  # by Yule and Walker


def make_repeats(edge=256, n_frames=2, seed=0, tails=True):
    """Cracks in a film that varies in thickness; shot noise with exponential gain, readout, a slow detector."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((2, edge, edge))
    film, cracks = (
        g / g.std() for g in (gaussian_filter(w, s, mode="wrap") for w, s in zip(white, (20, 3.5), strict=True))
    )
    dark, slope, floor = 2608.0, 250.0, 12000.0
    clean = dark + 1700 + 250 * film - 1400 * np.exp(-((cracks / 0.3) ** 2))
    clean = np.maximum(gaussian_filter(clean, 1.2, mode="wrap"), dark + 40)
    draws = np.stack([standard_noise((clean - dark) / 200, rng, tails) for _ in range(n_frames)])
    correlated = lfilter([1.0], [1.0, -AR[0], -AR[1]], np.concatenate([draws, draws], axis=2), axis=2)[..., edge:]
    r1, r2 = AR_LAGS
    correlated *= np.sqrt(1 - AR[0] * r1 - AR[1] * r2)
    known = KnownRepeats(clean, clean + np.zeros_like(draws), slope, dark, floor)
    return replace(known, frames=clean + np.sqrt(known.variance(clean)) * correlated)


def standard_noise(rate, rng, tails):
    """White noise of zero mean and unit variance: Poisson, each electron with an exponential gain if it has tails."""
    count = rng.poisson(rate)
    if not tails:
        return (count - rate) / np.sqrt(rate)
    total = np.where(count > 0, rng.standard_gamma(np.maximum(count, 1)), 0.0)
    return (total - rate) / np.sqrt(2 * rate)


@pytest.fixture
def tiltfield(capsys):
    """Run the command line; gives exit code, stdout, stderr."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(w) for w in words])
        return stop.value.code, *capsys.readouterr()

    return call
