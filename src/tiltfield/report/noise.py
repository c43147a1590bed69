"""What noise models look like beside the noise they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltfield.judge import Comparison
from tiltfield.noise.base import NoiseModel
from tiltfield.noise.learn import Pairs
from tiltfield.traits import Traits

CROP = 96  # pixels along an edge of the pictures
_DPI = 110
_WIDTH = 14.5  # inches
_MOST_COLUMNS = 4
_GREY = 3.0  # standard deviations at the ends of the grey scale
_REAL: dict[str, Any] = {"color": "black", "linewidth": 2.4, "zorder": 1.5}


def save_noise_figure(
    path: str | Path, comparison: Comparison, models: Mapping[str, NoiseModel], pairs: Pairs, seed: int = 0
) -> Path:
    """Draw real and sampled noise in one grey scale; calibration, correlation, spectrum, and variance against mean.

    Args:
        path: PNG file to write.
        comparison: of these models by these pairs.
        models: name to model, those of the comparison.
        pairs: what they were judged by.
        seed: of the samples drawn.

    Returns:
        the path written.
    """
    count = 2 + len(models)
    rows = math.ceil(count / _MOST_COLUMNS)
    columns = math.ceil(count / rows)
    heights = rows * (_WIDTH / columns + 0.1), 3.7
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.add_gridspec(2, 1, height_ratios=heights)
    pictures, plots = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    cells = list(pictures.subplots(rows, columns, squeeze=False).flat)
    for cell in cells[count:]:
        cell.set_axis_off()
    _draw_images(cells[:count], models, pairs, seed)
    curves = plots.subplots(1, 4)
    colours = {v.name: f"C{i}" for i, v in enumerate(comparison.verdicts)}
    _draw_calibration(curves[0], comparison, colours)
    _draw_correlation(curves[1], comparison, colours)
    _draw_spectrum(curves[2], comparison, colours)
    _draw_variance(curves[3], comparison, colours)
    figure.savefig(path, format="png")
    return Path(path)


def _draw_images(cells: Sequence[Axes], models: Mapping[str, NoiseModel], pairs: Pairs, seed: int) -> None:
    clean, noisy = _crop(pairs.clean), _crop(pairs.noisy)
    low, high = np.quantile(clean, [0.005, 0.995])
    _show(cells[0], clean, float(low), float(high), "clean image")
    reach = _GREY * float((noisy - clean).std())
    _show(cells[1], noisy - clean, -reach, reach, "real noise")
    for cell, (name, model) in zip(cells[2:], models.items(), strict=True):
        drawn = model.sample(torch.from_numpy(clean), torch.Generator().manual_seed(seed)).numpy()
        _show(cell, drawn - clean, -reach, reach, name)


def _crop(images: np.ndarray) -> np.ndarray:
    """Return the middle of the first image."""
    n = [min(CROP, size) for size in images.shape[1:]]
    top, left = ((size - k) // 2 for size, k in zip(images.shape[1:], n, strict=True))
    return np.ascontiguousarray(images[0, top : top + n[0], left : left + n[1]])


def _show(axes: Axes, image: np.ndarray, low: float, high: float, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_calibration(axes: Axes, comparison: Comparison, colours: Mapping[str, str]) -> None:
    bins = len(comparison.verdicts[0].pit)
    edges = np.linspace(0, 1, bins + 1)
    axes.axhline(1, **_REAL)
    for v in comparison.verdicts:
        label = f"{v.name}, gap {v.pit_gap:.3f}"
        axes.stairs(np.array(v.pit) * bins, edges, baseline=None, color=colours[v.name], linewidth=1.2, label=label)
    top = max(max(v.pit) for v in comparison.verdicts) * bins
    axes.set_ylim(0, 1.9 * max(top, 1.2))
    axes.set_title("calibration", fontsize=11)
    axes.set_xlabel("Φ(whitened residual)")
    axes.set_ylabel("density (1: calibrated)")
    axes.legend(fontsize=7.5, loc="upper left", frameon=False)


def _draw_correlation(axes: Axes, comparison: Comparison, colours: Mapping[str, str]) -> None:
    def line(traits: Traits, label: str, **style: Any) -> None:
        lags = np.arange(len(traits.along) + 1)
        axes.plot(lags, [1, *traits.along], "-o", markersize=3.5, label=label, **style)
        axes.plot(lags, [1, *traits.across], ":s", markersize=2.5, **style)

    line(comparison.real, "real", **_REAL)
    for v in comparison.verdicts:
        line(v.traits, v.name, color=colours[v.name], linewidth=1.2)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_title("correlation along (—) and across (··)", fontsize=11)
    axes.set_xlabel("lag (pixels)")
    axes.legend(fontsize=7.5, frameon=False)


def _draw_spectrum(axes: Axes, comparison: Comparison, colours: Mapping[str, str]) -> None:
    def line(traits: Traits, **style: Any) -> None:
        for power, dash in ((traits.spectrum_along, "-"), (traits.spectrum_across, ":")):
            axes.plot(np.linspace(0, 0.5, len(power)), power, dash, **style)

    line(comparison.real, **_REAL)
    for v in comparison.verdicts:
        line(v.traits, color=colours[v.name], linewidth=1.2)
    axes.set_yscale("log")
    axes.set_title("power along (—) and across (··)", fontsize=11)
    axes.set_xlabel("frequency (1/pixel)")
    axes.set_ylabel("power / variance")


def _draw_variance(axes: Axes, comparison: Comparison, colours: Mapping[str, str]) -> None:
    axes.plot(comparison.real.intensity, comparison.real.variance, "o", color="black", markersize=5, label="real")
    for v in comparison.verdicts:
        label = f"{v.name}, slope × {v.slope_ratio:.2f}"
        axes.plot(v.traits.intensity, v.traits.variance, color=colours[v.name], linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.set_title("variance against intensity", fontsize=11)
    axes.set_xlabel("clean intensity")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
    axes.legend(fontsize=7.5, frameon=False)
