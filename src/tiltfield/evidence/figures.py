"""Pictures of the evidence: shell correlation, and residuals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltfield.evidence.resolution import HALVES, STRICT, Shells
from tiltfield.evidence.whiteness import LAGS, Whiteness

_DPI = 110
_GREY = 4.0  # standard deviations at the ends of the colour scale


def save_fsc(path: Path, shells: Shells, pixel_size_nm: float | None) -> None:
    """Draw the correlation of the halves, over what was measured and what was not.

    Args:
        path: PNG file to write.
        shells: the curves.
        pixel_size_nm: edge of a pixel, or None.
    """
    figure = _figure(7.5, 4.6)
    axes = figure.subplots()
    f = shells.frequency
    axes.fill_between(f, 0, shells.share, color="0.9", label="share measured by both halves")
    known = np.where(shells.unmeasured == 0, np.nan, shells.unmeasured)  # the lowest shells have no such components
    axes.plot(f, known, ":", color="C3", label="components never measured (missing wedge)")
    axes.plot(f, shells.everywhere, "--", color="0.5", label="all components")
    axes.plot(f, shells.correlation, color="C0", linewidth=2, label="components measured by both halves")
    for level in (HALVES, STRICT):
        axes.axhline(level, color="0.3", linewidth=0.7)
        period = shells.resolution(level)
        size = "" if pixel_size_nm is None else f" = {period * pixel_size_nm:.3g} nm"
        at_end = period <= 1 / f[-1] * (1 + 1e-9)
        axes.annotate(
            f"{level}: {'≤ ' if at_end else ''}{period:.3g} pixels{size}", (0.01 * f[-1], level + 0.02), fontsize=8
        )
    axes.set_xlim(0, f[-1])
    axes.set_ylim(-0.1, 1.05)
    axes.set_xlabel("frequency (1/pixel)")
    axes.set_ylabel("Fourier shell correlation of the halves")
    axes.legend(fontsize=8, loc="upper right")
    figure.savefig(path, format="png")


def save_residuals(path: Path, mean: np.ndarray, result: Whiteness) -> None:
    """Draw the mean residual, and the correlation of residuals by axis and lag.

    Args:
        path: PNG file to write.
        mean: mean over tilts in units of its standard deviation for noise, shape (row, col).
        result: of the same residuals.
    """
    figure = _figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    shown = left.imshow(mean, cmap="RdBu_r", vmin=-_GREY, vmax=_GREY, interpolation="nearest")
    figure.colorbar(shown, ax=left, label="standard deviations of noise")
    left.set_title(f"mean residual; mean square {result.mean_chi2:.2f} (noise: 1)", fontsize=10)
    left.set_xlabel("x (pixels)")
    left.set_ylabel("y (pixels)")
    for name, rho in result.correlation.items():
        right.plot(range(1, LAGS + 1), rho, "-o", markersize=4, label=f"along {name}")
    right.axhline(0, color="0.6", linewidth=0.8)
    reach = max(0.1, 1.2 * max(abs(value) for rho in result.correlation.values() for value in rho))
    right.set_ylim(-reach, reach)
    right.set_xticks(range(1, LAGS + 1))
    right.set_xlabel("lag (pixels, tilts)")
    right.set_title(f"correlation of residuals; variance {result.variance:.2f} (noise: 1)", fontsize=10)
    right.legend(fontsize=8)
    figure.savefig(path, format="png")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
