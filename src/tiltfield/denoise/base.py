"""What denoisers share: how one is run, packages that may be missing, large images in tiles, noise along the scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch

from tiltfield import extras
from tiltfield.noise.estimate import autocorrelation
from tiltfield.observe import Observer
from tiltfield.rehearsal import CORRELATED
from tiltfield.series import TiltSeries

_LAGS = 3
_SPECIMEN = 0.5  # correlation along both axes above which the specimen is most of what is seen, and nothing can be told
_SETTLED = 0.02  # share done from which the time left can be told: the first step is slow
_ENOUGH = 2**23  # pixels to judge the noise by


@dataclass(frozen=True)
class Run:
    """How a denoiser is to work.

    Attributes:
        seed: of every random draw.
        device: where to compute.
        observer: told of findings and progress.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    observer: Observer = field(default_factory=Observer)


Denoiser = Callable[[TiltSeries, Run], np.ndarray]
"""From a series without holes to its images without noise, float32 (tilt, row, col), in the same unit."""


def package(module: str, extra: str, note: str = "") -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its full name.
        extra: the extra of tiltfield that installs the package.
        note: what to know before installing it.

    Raises:
        InputError: if it, or something that it needs, is missing; with the command that installs it.
    """
    return extras.package(module, extra, f"the denoiser {extra}", note)


def progress(observer: Observer, stage: str) -> Callable[[float], None]:
    """Return a function of the share done, 0 to 1, that shows it with the time left.

    Args:
        observer: what shows it.
        stage: the name of the stage.
    """
    began = time.monotonic()

    def show(done: float) -> None:
        left = (time.monotonic() - began) * (1 - done) / done if done >= _SETTLED else None
        observer.progress(stage, done, left, {})

    return show


@dataclass(frozen=True)
class Tile:
    """A part of an image with what lies around it.

    Attributes:
        seen: rows and columns of the image to look at.
        kept: rows and columns of the image that are wanted.
        inner: the latter, within the former.
    """

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]
    inner: tuple[slice, slice]


def tiles(shape: tuple[int, ...], edge: int, margin: int) -> Iterator[Tile]:
    """Cut an image into tiles that cover it once, each with a margin where the image goes on.

    Args:
        shape: (row, col) of the image.
        edge: most rows and columns of a tile, without the margin.
        margin: pixels around it.

    Yields:
        the tiles, row by row.
    """

    def spans(length: int) -> list[tuple[slice, slice, slice]]:
        parts = []
        for first in range(0, length, edge):
            last = min(first + edge, length)
            low, high = max(first - margin, 0), min(last + margin, length)
            parts.append((slice(low, high), slice(first, last), slice(first - low, last - low)))
        return parts

    for rows in spans(shape[0]):
        for cols in spans(shape[1]):
            seen, kept, inner = zip(rows, cols, strict=True)
            yield Tile(seen, kept, inner)


@dataclass(frozen=True)
class Scan:
    """Noise that correlates along the fast scan direction.

    Attributes:
        axis: along which it does: 1 along the columns, 2 along the rows.
        correlation: of the noise of pixels 1, 2, … apart.
    """

    axis: int
    correlation: tuple[float, ...]

    def __str__(self) -> str:
        """Say what was found."""
        return f"noise of neighbours correlates by {self.correlation[0]:.2f} along {'x' if self.axis == 2 else 'y'}"


def find_scan(series: TiltSeries) -> Scan | None:
    """Tell from a series whether its noise correlates along one axis of the images.

    An image less the mean of the images at the tilts before and after it is mostly noise. What the specimen leaves in
    it correlates along both axes, noise of a slow detector along the scan only; so the lesser of the two is taken off.

    Args:
        series: in any order of tilts.

    Returns:
        the axis and the correlations that stand out, None if there are none.
    """
    order = np.argsort(series.angles_deg)
    inner = np.arange(1, len(order) - 1)[:: -(-series.images.size // _ENOUGH)]
    before, here, after = (torch.from_numpy(series.images[order[inner + step]]) for step in (-1, 0, 1))
    rest = here - (before + after) / 2
    lags = {axis: autocorrelation(rest, axis, min(_LAGS, rest.shape[axis] - 1)).tolist() for axis in (1, 2)}
    if not (lags[1] and lags[2]):
        return None
    axis = 2 if lags[2][0] >= lags[1][0] else 1
    common = [max(0.0, rho) for rho in lags[3 - axis]]
    if common[0] > _SPECIMEN or lags[axis][0] - common[0] < CORRELATED:
        return None
    apart = [(a - b) / (1 - common[0]) for a, b in zip(lags[axis], common, strict=False)]
    least = next((k for k, rho in enumerate(apart) if rho < CORRELATED / 2), len(apart))
    return Scan(axis, tuple(apart[: max(least, 1)]))
