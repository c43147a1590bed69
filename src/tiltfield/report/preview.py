"""Pictures of a result: data, model and residual side by side, central sections, and comparisons with a truth."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # type: ignore[import-untyped]

from tiltfield.config import DENOISED
from tiltfield.series import TiltSeries, Volume

if TYPE_CHECKING:
    from tiltfield.reconstruct import Reconstruction

DPI = 110
PERCENTILES = (0.5, 99.5)
RESIDUAL_RANGE = 4.0  # standard deviations at the ends of the colour scale
SAMPLES = 500_000


def preview(series: TiltSeries, result: Reconstruction) -> Figure:
    """Draw the image nearest 0°, its rendered twin, their residual, and the three central sections.

    Args:
        series: the data.
        result: what was made of it.

    Returns:
        a figure of two rows of three panels.
    """
    heights = _row_heights(series.images.shape[1:], result.volume.data.shape)
    figure = _figure(12.0, 4.0 * sum(heights) + 0.8)
    panels = figure.subplots(2, 3, height_ratios=heights)
    _draw_images(figure, panels[0], series, result.rendered)
    z, y, x = (n // 2 for n in result.volume.data.shape)
    _draw_sections(panels[1], result.volume, (z, y, x))
    figure.suptitle(_headline(series, result), fontsize=11)
    return figure


def save_preview(path: str | Path, series: TiltSeries, result: Reconstruction) -> Path:
    """Write `preview` as a picture.

    Args:
        path: file to write; its suffix tells the format.
        series: the data.
        result: what was made of it.

    Returns:
        the path written.
    """
    preview(series, result).savefig(path)
    return Path(path)


def draw_sections(volume: Volume, at: tuple[int, int, int], low: float | None, high: float | None) -> Figure:
    """Draw three sections through one voxel, with a grey bar.

    Args:
        volume: the density.
        at: the voxel (z, y, x).
        low: density that is black; None: by the percentiles.
        high: density that is white; likewise.
    """
    height = _row_heights((1, 1), volume.data.shape)[1]
    figure = _figure(11.0, 3.3 * height + 0.5)
    panels = figure.subplots(1, 3)
    picture = _draw_sections(panels, volume, at, low, high)
    figure.colorbar(picture, ax=panels, label="density (1/pixel)", shrink=0.8)
    return figure


def draw_images(series: TiltSeries, tilts: Sequence[int] | np.ndarray) -> Figure:
    """Draw images side by side in one grey scale, with a grey bar.

    Args:
        series: the data.
        tilts: which, from 0.
    """
    rows, columns = series.images.shape[1:]
    figure = _figure(3.5 * len(tilts) + 0.8, 3.3 * min(max(rows / columns, 0.3), 1.5) + 0.5)
    panels = figure.subplots(1, len(tilts), squeeze=False)[0]
    low, high = _grey_range(series.images[tilts])
    for axes, tilt in zip(panels, tilts, strict=True):
        title = f"tilt {series.tilt_numbers[tilt]}, {series.angles_deg[tilt]:.4g}°"
        picture = _grey(axes, series.images[tilt], low, high, title)
        _scale_bar(axes, columns, series.pixel_size_nm)
    figure.colorbar(picture, ax=panels, label="intensity", shrink=0.8)
    return figure


def compare_figure(truth: Volume, volumes: Mapping[str, Volume], path: str | Path) -> Path:
    """Write `draw_comparison` through the middle as a picture.

    Args:
        truth: the density to compare with.
        volumes: title to volume.
        path: file to write; its suffix tells the format.

    Returns:
        the path written.

    Raises:
        InputError: if a volume does not fit into the truth's box.
    """
    n_z, n_y, n_x = truth.data.shape
    draw_comparison({"truth": truth, **volumes}, (n_z // 2, n_y // 2, n_x // 2)).savefig(path)
    return Path(path)


def draw_comparison(
    volumes: Mapping[str, Volume], at: tuple[int, int, int], low: float | None = None, high: float | None = None
) -> Figure:
    """Draw the xy and xz sections of a truth and of several volumes, in one grey scale.

    Each volume is brought to the truth's scale by the best affine fit, for a density is known up to one.

    Args:
        volumes: title to volume; the first is the truth.
        at: the voxel (z, y, x) that the sections go through.
        low: density that is black; None: by the percentiles of the truth.
        high: density that is white; likewise.

    Raises:
        InputError: if a volume does not fit into the truth's box.
    """
    first, *others = volumes
    truth = volumes[first]
    columns = {first: truth.data} | {name: volumes[name].fitted_to(truth).data for name in others}
    low, high = _grey_ends(truth.data, low, high)
    n_z, n_y, n_x = truth.data.shape
    figure = _figure(2.6 * len(columns), 2.6 * (n_y + n_z) / n_x + 0.5)
    panels = figure.subplots(2, len(columns), squeeze=False, height_ratios=(n_y, n_z))
    for (top, bottom), (name, data) in zip(panels.T, columns.items(), strict=True):
        _grey(top, data[at[0]], low, high, name)
        _grey(bottom, data[:, at[1]], low, high, "")
    _label_row(panels[0, 0], "xy")
    _label_row(panels[1, 0], "xz")
    _scale_bar(panels[0, 0], n_x, truth.voxel_size_nm)
    return figure


def round_length(limit: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above `limit`.

    Args:
        limit: > 0.
    """
    power = 10.0 ** math.floor(math.log10(limit))
    return max(m * power for m in (1, 2, 5) if m * power <= limit * (1 + 1e-9))


def _figure(width: float, height: float) -> Figure:
    figure = _Drawing(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class _Drawing(Figure):
    """A figure that a notebook shows though pyplot is not in use."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def _row_heights(image: tuple[int, ...], volume: tuple[int, ...]) -> tuple[float, float]:
    """Return the heights of the row of images and the row of sections, in panel widths."""
    n_z, n_y, n_x = volume
    aspects = image[0] / image[1], max(n_y / n_x, n_z / n_x, n_z / n_y)
    return min(max(aspects[0], 0.3), 1.5), min(max(aspects[1], 0.3), 1.5)


def _headline(series: TiltSeries, result: Reconstruction) -> str:
    config = result.config
    noise = result.metrics.get("noise", {}).get("model", config.noise)  # what auto became
    how = {"neural": f" ({config.field}, {Path(noise).name})", **dict.fromkeys(DENOISED, f" ({config.denoiser})")}
    method = config.method + how.get(config.method, "")
    shape = " × ".join(str(n) for n in result.volume.data.shape)
    state = ", interrupted" if result.interrupted else ""
    return f"{series.name}: {len(series.angles_deg)} tilts, {method}{state}, volume {shape} (z, y, x)"


def _draw_images(figure: Figure, row: np.ndarray, series: TiltSeries, rendered: np.ndarray) -> None:
    index = int(np.argmin(np.abs(series.angles_deg)))
    valid = None if series.valid is None else series.valid[index]
    data, twin = series.images[index], rendered[index]
    low, high = _grey_range(data if valid is None else data[valid])
    _grey(row[0], data, low, high, f"image at {series.angles_deg[index]:.1f}°")
    _grey(row[1], twin, low, high, "rendered from the volume")
    scaled, spread = _residual(data, twin, valid)
    picture = _show(row[2], scaled, -RESIDUAL_RANGE, RESIDUAL_RANGE, "RdBu_r", f"residual, sd {spread:.3g}")
    figure.colorbar(picture, ax=row[2], label="residual / its sd", shrink=0.8)
    _scale_bar(row[0], data.shape[1], series.pixel_size_nm)


def _residual(data: np.ndarray, twin: np.ndarray, valid: np.ndarray | None) -> tuple[np.ma.MaskedArray, float]:
    """Return data - twin in units of its standard deviation, masked where invalid, and that deviation."""
    difference = np.ma.masked_array(data.astype(float) - twin, mask=np.ma.nomask if valid is None else ~valid)
    spread = float(np.ma.std(difference)) if difference.count() else 0.0
    return difference / (spread or 1.0), spread


def _draw_sections(
    row: np.ndarray,
    volume: Volume,
    at: tuple[int, int, int],
    low: float | None = None,
    high: float | None = None,
) -> AxesImage:
    data, (z, y, x) = volume.data, at
    low, high = _grey_ends(data, low, high)
    picture = _grey(row[0], data[z], low, high, f"xy section, z = {z}")
    _grey(row[1], data[:, y], low, high, f"xz section, y = {y} (z is down)")
    _grey(row[2], data[:, :, x], low, high, f"yz section, x = {x} (z is down)")
    for axes, width in zip(row, (data.shape[2], data.shape[2], data.shape[1]), strict=True):
        _scale_bar(axes, width, volume.voxel_size_nm)
    return picture


def _grey_ends(values: np.ndarray, low: float | None, high: float | None) -> tuple[float, float]:
    """Return what was given, else the ends of the robust range."""
    usual = _grey_range(values)
    return usual[0] if low is None else low, usual[1] if high is None else high


def _grey_range(values: np.ndarray) -> tuple[float, float]:
    """Return the robust range of finite values, never empty."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // SAMPLES)]
    flat = flat[np.isfinite(flat)]
    low, high = (float(v) for v in np.percentile(flat, PERCENTILES)) if flat.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _grey(axes: Axes, image: np.ndarray, low: float, high: float, title: str) -> AxesImage:
    return _show(axes, image, low, high, "gray", title)


def _show(axes: Axes, image: np.ndarray, low: float, high: float, cmap: str, title: str) -> AxesImage:
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")


def _label_row(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=10)


def _scale_bar(axes: Axes, width: int, pixel_size_nm: float | None) -> None:
    """Draw a bar of a round length, about a quarter of the `width` (pixels) of the image."""
    size, unit = (pixel_size_nm, "nm") if pixel_size_nm else (1.0, "px")
    length = round_length(width * size / 3.5)
    bar = AnchoredSizeBar(
        axes.transData, length / size, f"{length:g} {unit}", "lower left", color="white", borderpad=0.4, sep=3
    )
    bar.patch.set(facecolor="black", alpha=0.55, linewidth=0)
    axes.add_artist(bar)
