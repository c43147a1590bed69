"""What every method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.series import TiltSeries, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a method made of a tilt series.

    Attributes:
        volume: the density, per pixel of path, over the field of view; along z as thick as the specimen was found.
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

    def __repr__(self) -> str:
        """Return method, sizes and the names of the figures."""
        state = ", interrupted" if self.interrupted else ""
        n, rows, columns = self.rendered.shape
        return "\n  ".join(
            (
                f"Reconstruction by {self.config.method}{state}",
                f"volume: {self.volume!r}",
                f"rendered: {n} images of {rows} x {columns} pixels",
                f"metrics: {', '.join(self.metrics)}",
            )
        )

    def show(self, series: TiltSeries) -> Figure:
        """Draw the image nearest 0°, its rendered twin, their residual, and three sections of the volume.

        Args:
            series: that the volume was made from.
        """
        from tiltfield.report import preview

        return preview(series, self)
