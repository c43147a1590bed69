"""From a tilt series to a volume: the one entry point, whichever the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.observe import Observer
from tiltfield.series import TiltSeries, Volume


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a method made of a tilt series.

    Attributes:
        volume: the density.
        rendered: its images, float32, shape (tilt, row, col), in the units of the data.
        metrics: figures of the run, JSON-ready.
        config: every setting, resolved.
        state: what a resumed run needs (neural only), loads with ``weights_only=True``.
        interrupted: True if the run was stopped early and this is the best volume so far.
    """

    volume: Volume
    rendered: np.ndarray
    metrics: Mapping[str, Any]
    config: ReconstructConfig
    state: Mapping[str, Any] | None = None
    interrupted: bool = False


def reconstruct(
    series: TiltSeries,
    config: ReconstructConfig | None = None,
    *,
    observer: Observer | None = None,
    resume: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct a volume from a tilt series."""
    raise NotImplementedError
