"""What the residuals of a fit tell: how well each tilt fits, and whether the noise is what the model takes it for.

Where there are pixels that were held out of the fit, the errors are told of them too: a fit follows the noise of those
it sees. Correlation takes neighbours, which are never all held out, and so the pixels that were fitted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiltfield.judge import noise_cdf, uniform_gap, uniform_within
from tiltfield.neural import Solution
from tiltfield.noise.base import NoiseModel
from tiltfield.noise.estimate import autocorrelation
from tiltfield.series import TiltSeries
from tiltfield.threads import by_image

PIXELS = 500_000  # of a block of slices that the noise is judged by: a model holds many numbers for each
FEWEST = 400  # held-out pixels in that block, below which nothing is said
CLASSES = 12  # of the clean intensity, equally many held-out pixels in each
LEVELS = {"dark": 0.1, "middle": 0.5, "bright": 0.9}  # quantiles of the clean intensity at which the law is shown
WIDTH = 0.07  # of the classes around them, in quantiles to either side
DENSITY_BINS, CALIBRATION_BINS, LAGS = 41, 20, 8
_NODES = 64  # clean intensities that stand for those of a class
_NAMES = ("chi2", "rmse", "heldout_chi2", "heldout_rmse", "mean", "mean_residual")


def tilt_figures(
    series: TiltSeries,
    rendered: np.ndarray,
    deviation: tuple[np.ndarray, np.ndarray] | None = None,
    used: np.ndarray | None = None,
    held: np.ndarray | None = None,
) -> dict[str, list[Any]]:
    """Return figures of each tilt.

    Args:
        series: the data.
        rendered: its images as the volume has them, shape (tilt, row, col).
        deviation: clean intensities, increasing, and the noise's standard deviation there; None: that of all residuals.
        used: bool, shape (tilt, row, col): pixels that count; all valid ones if None.
        held: bool, same shape: pixels held out of the fit, or None.

    Returns:
        lists with an entry a tilt: number (in the file, from 1), angle_deg; chi2, the mean square of residuals over
        the variance of the noise, and rmse, in grey values, of all pixels and of those held out; mean of the image,
        and mean_residual, observed less rendered. None where no pixel counts.
    """
    used = series.valid if used is None else used
    every, apart = np.ones(rendered.shape[1:], bool), np.zeros(rendered.shape[1:], bool)
    if deviation is None:
        squares = by_image(lambda image, twin: np.mean(np.square(image - twin)), series.images, rendered)
        deviation = np.zeros(1), np.sqrt(np.array([max(float(np.mean(squares)), 1e-30)]))

    def row(k: int) -> tuple[float | None, ...]:
        masks = every if used is None else used[k], apart if held is None else held[k]
        return _tilt_row(series.images[k], rendered[k], np.square(np.interp(rendered[k], *deviation)), *masks)

    rows = by_image(row, range(len(series.images)))
    columns = {name: [_short(row[i]) for row in rows] for i, name in enumerate(_NAMES)}
    return {"number": series.tilt_numbers.tolist(), "angle_deg": series.angles_deg.tolist(), **columns}


def _tilt_row(
    image: np.ndarray, twin: np.ndarray, variance: np.ndarray, used: np.ndarray, held: np.ndarray
) -> tuple[float | None, ...]:
    """Return the figures of one tilt, in the order of `_NAMES`."""
    residual = image - twin
    square = np.square(residual)
    errors = [figure for m in (used, held) for figure in (_mean(square / variance, m), _root(_mean(square, m)))]
    return (*errors, _mean(image, used), _mean(residual, used))


def _mean(values: np.ndarray, where: np.ndarray) -> float | None:
    """Return the mean over some pixels, or None if there are none."""
    chosen = values[where]
    return float(chosen.mean(dtype=np.float64)) if chosen.size else None


def _root(square: float | None) -> float | None:
    return None if square is None else float(np.sqrt(square))


def solution_figures(series: TiltSeries, solution: Solution, rendered: np.ndarray, noisy: bool) -> dict[str, Any]:
    """Return figures of the tilts, and of the noise, of a fit.

    Args:
        series: the data.
        solution: what was fitted, to these images or to denoised ones.
        rendered: its images, in the units of the data.
        noisy: whether the images that were fitted are those of the series.

    Returns:
        tilts, as :func:`tilt_figures` has them; and residuals, as :func:`noise_figures`.
    """
    plan, problem = solution.plan, solution.problem
    used, held = (m.permute(1, 0, 2).cpu().numpy() for m in (problem.used | problem.held, problem.held))
    nodes = problem.here(torch.linspace(float(solution.clean.min()), float(solution.clean.max()), 65))
    span = plan.high - plan.low
    known = (nodes.cpu().numpy() * span + plan.low, solution.state.noise.deviation(nodes).cpu().numpy() * span)
    tilts = tilt_figures(series, rendered, known if noisy else None, used, held)
    return {"tilts": tilts, "residuals": noise_figures(solution)}


def noise_figures(solution: Solution) -> dict[str, Any]:
    """Return how the noise model compares with the residuals of held-out pixels, intensities in the units of the data.

    Args:
        solution: a fit.

    Returns:
        pixels, how many were held out; calibration, the shares of pixels in 20 bins of Φ(whitened residual), all 0.05
        if the model is right, and calibration_gap, the largest difference of the distributions; variance, seen and of
        the model, in classes of the clean intensity; density of the noise at three intensities, seen and of the model,
        in bins of equal width between `low` and `high`; autocorrelation of normal scores along x and y, lag 1 on, and
        of whitened residuals if the model knows of correlation. Nothing where too few pixels are held out.
    """
    problem, noise = solution.problem, solution.state.noise
    rows = min(problem.box.n_y, max(1, PIXELS // problem.observed[0].numel()))
    first = (problem.box.n_y - rows) // 2
    block, clean = problem.rows(first, first + rows), problem.here(solution.clean[first : first + rows])
    if int(block.held.sum()) < FEWEST:
        return {}
    with torch.no_grad():
        seen, there = (block.observed - clean)[block.held], clean[block.held]
        span, low = solution.plan.high - solution.plan.low, solution.plan.low
        generator = torch.Generator(clean.device).manual_seed(0)
        bounds = noise.bounds(block.observed, clean, block.labels)
        uniform = uniform_within(*bounds, generator)[block.held].cpu().numpy()
        drawn = noise.sample(clean, generator) - clean
        scores = noise.scores(block.observed, clean)
        white = None if noise.axis is None else noise.whiten(block.observed, clean)
        valid = block.used | block.held
        return {
            "pixels": len(seen),
            "calibration": _list(np.histogram(uniform, CALIBRATION_BINS, (0, 1))[0] / uniform.size),
            "calibration_gap": uniform_gap(uniform),
            "variance": _variances(seen, there, drawn[valid], clean[valid], span, low),
            "density": _densities(noise, seen, there, span, low),
            "autocorrelation": _lags(scores, valid) | ({} if white is None else _lags(white, valid, "white_")),
        }


def _variances(
    seen: Tensor, there: Tensor, drawn: Tensor, clean: Tensor, span: float, low: float
) -> dict[str, list[Any]]:
    """Return the variance in classes of the clean intensity, of what was seen and of what the model draws."""
    edges = np.quantile(there.cpu().numpy(), np.linspace(0, 1, CLASSES + 1))

    def classes(values: Tensor, at: Tensor) -> tuple[np.ndarray, np.ndarray]:
        v, c = values.cpu().numpy().astype(float), at.cpu().numpy().astype(float)
        index = np.clip(np.searchsorted(edges, c) - 1, 0, CLASSES - 1)
        count = np.maximum(np.bincount(index, minlength=CLASSES), 1)
        mean = np.bincount(index, v, CLASSES) / count
        square = np.bincount(index, v**2, CLASSES) / count
        return np.bincount(index, c, CLASSES) / count, square - mean**2

    (intensity, variance), (model_at, model) = classes(seen, there), classes(drawn, clean)
    return {
        "intensity": _list(intensity * span + low),
        "seen": _list(variance * span**2),
        "model_intensity": _list(model_at * span + low),
        "model": _list(model * span**2),
    }


def _densities(noise: NoiseModel, seen: Tensor, there: Tensor, span: float, low: float) -> list[dict[str, Any]]:
    """Return histograms of the noise at a dark, a middle and a bright intensity, and what the model has for them."""
    clean = there.cpu().numpy()
    found = []
    for name, level in LEVELS.items():
        first, last = np.quantile(clean, [level - WIDTH, level + WIDTH])
        inside = (there >= float(first)) & (there <= float(last))
        part, at = seen[inside].cpu().numpy().astype(float), clean[inside.cpu().numpy()]
        ends = np.quantile(part, [0.002, 0.998])
        if not ends[1] > ends[0]:
            continue
        edges = np.linspace(float(ends[0]), float(ends[1]), DENSITY_BINS + 1)
        width = float(edges[1] - edges[0])
        nodes = torch.from_numpy(np.quantile(at, (np.arange(_NODES) + 0.5) / _NODES)).to(there)
        bounds = torch.from_numpy(edges).to(there)
        below = noise_cdf(noise, bounds.expand(_NODES, -1), nodes[:, None].expand(-1, len(edges)))
        model = below.mean(dim=0).diff().cpu().numpy() / width
        counts = np.histogram(part, edges)[0] / (len(part) * width)
        found.append(
            {
                "name": name,
                "intensity": _short(float(at.mean()) * span + low),
                "low": _short(float(ends[0]) * span),
                "high": _short(float(ends[1]) * span),
                "seen": _list(counts / span),
                "model": _list(model / span),
            }
        )
    return found


def _lags(values: Tensor, valid: Tensor, prefix: str = "") -> dict[str, list[Any]]:
    """Return the autocorrelation along the images' x and y."""
    return {
        prefix + name: _list(autocorrelation(values, axis, min(LAGS, values.shape[axis] - 1), valid).cpu().numpy())
        for name, axis in (("x", 2), ("y", 0))
    }


def _short(value: float | None) -> float | None:
    """Return a number to five digits, as it stands in a file."""
    return None if value is None else float(f"{value:.5g}")


def _list(values: np.ndarray) -> list[Any]:
    return [_short(float(v)) for v in values]
