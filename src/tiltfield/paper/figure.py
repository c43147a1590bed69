"""The picture of a study: the same two sections of the truth and of every row, in one grey scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiltfield.metrics import affine_fit

COLUMNS = 7  # at most, beside each other
PERCENTILES = (0.5, 99.5)  # of the truth's sections, at the ends of the grey scale
_DPI, _PANEL = 110, 2.2  # dots an inch; inches

Sections = tuple[np.ndarray, np.ndarray]


def save_sections(path: Path, truth: np.ndarray, volumes: Mapping[str, Callable[[], np.ndarray]]) -> Path:
    """Draw the central xy and xz sections of a truth and of volumes, the xy one above.

    Each volume is brought to the truth's scale by the best affine fit, for a density is known up to one.

    Args:
        path: file to write; its suffix tells the format.
        truth: the density to compare with, shape (z, y, x).
        volumes: title to what gives the volume, of the truth's shape; one is held in memory at a time.

    Returns:
        the path written.
    """
    shown = {"truth": _sections(truth)} | {name: _fitted(load(), truth) for name, load in volumes.items()}
    low, high = np.percentile(np.concatenate([s.ravel() for s in shown["truth"]]), PERCENTILES)
    blocks = math.ceil(len(shown) / COLUMNS)
    columns = math.ceil(len(shown) / blocks)
    heights = [part.shape[0] / part.shape[1] for part in shown["truth"]]
    size = (_PANEL * columns, blocks * (_PANEL * sum(heights) + 0.45))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=heights * blocks)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.set_axis_off()
    for i, (name, parts) in enumerate(shown.items()):
        top = 2 * (i // columns)
        for axes, part, plane in zip(panels[top : top + 2, i % columns], parts, ("xy", "xz"), strict=True):
            _grey(axes, part, float(low), float(high))
            axes.set_axis_on()
            axes.set_ylabel(plane if i % columns == 0 else "", fontsize=8)
        panels[top, i % columns].set_title(name, fontsize=8)
    figure.savefig(path)
    return path


def _sections(volume: np.ndarray) -> Sections:
    n_z, n_y, _ = volume.shape
    return np.array(volume[n_z // 2], np.float32), np.array(volume[:, n_y // 2], np.float32)


def _fitted(volume: np.ndarray, truth: np.ndarray) -> Sections:
    scale, shift = affine_fit(volume, truth)
    xy, xz = _sections(volume)
    return scale * xy + shift, scale * xz + shift


def _grey(axes: Axes, image: np.ndarray, low: float, high: float) -> None:
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
