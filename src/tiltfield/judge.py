"""How well a noise model describes noise: distances of distributions, likelihood, calibration, samples.

Figures are worth something where the model was not fitted to the pairs of images that it is judged by. Saturation and
grey values of the images count for every model alike, also for those that know nothing of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiltfield.errors import InputError
from tiltfield.metrics import bhattacharyya, bhattacharyya_distance, jensen_shannon
from tiltfield.noise.base import NoiseModel, Recording
from tiltfield.noise.learn import Pairs
from tiltfield.traits import BINS, Traits, classes, correlations, traits_of

NOISE_BINS = 100  # of the noise as a whole, between its quantiles of 1e-4 and 1 - 1e-4; two more beyond
CLASS_BINS = 50  # of the noise at one intensity, between its quantiles of 5e-4 and 1 - 5e-4; two more beyond
_NODES = 64  # clean intensities that stand for those of a class
_PIT_BINS = 20
Judged = Callable[[str, float], None]


@dataclass(frozen=True)
class Distances:
    """How far two distributions of noise are from each other, as in the paper's Table 1.

    Attributes:
        jsd: Jensen-Shannon divergence of the noise as a whole, bits.
        bc: Bhattacharyya coefficient of the noise as a whole.
        bd: Bhattacharyya distance of the noise as a whole, -ln BC.
        jsd_binned: mean over classes of the clean intensity.
        bc_binned: likewise.
        bd_binned: likewise.
    """

    jsd: float
    bc: float
    bd: float
    jsd_binned: float
    bc_binned: float
    bd_binned: float


@dataclass(frozen=True)
class Verdict:
    """What a model is worth on pairs of images.

    Attributes:
        name: of the model.
        distances: of its distribution from the real noise.
        log_likelihood: mean per pixel, nats; a density, or a mass where pixels are saturated or grey values coarse.
        impossible: pixels that the model says cannot be; one is enough for a log-likelihood of -∞.
        pit_gap: largest gap between the distribution of Φ(whitened residual) and the uniform one.
        pit: share of pixels in 20 bins of Φ(whitened residual); all 0.05 if the model is right.
        whitened_along: correlation of whitened residuals at lags 1 and 2 along the scan.
        whitened_across: likewise across.
        traits: of noise sampled at the same clean images.
        slope_ratio: slope of the samples' variance against intensity over that of the real noise.
        variance_ratio: variance of the samples over that of the real noise.
    """

    name: str
    distances: Distances
    log_likelihood: float
    impossible: int
    pit_gap: float
    pit: tuple[float, ...]
    whitened_along: tuple[float, ...]
    whitened_across: tuple[float, ...]
    traits: Traits
    slope_ratio: float
    variance_ratio: float


@dataclass(frozen=True)
class Comparison:
    """Several models judged by the same pairs.

    Attributes:
        real: traits of the real noise.
        floor: distances of two halves of the real noise, its even and its odd rows: what chance alone makes of it.
            A model is held against all rows, which chance keeps about a quarter as far away in JSD and distance.
        verdicts: one per model.
        notes: what must be known to read the figures, in words.
    """

    real: Traits
    floor: Distances
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def compare(
    models: Mapping[str, NoiseModel], pairs: Pairs, *, seed: int = 0, progress: Judged | None = None
) -> Comparison:
    """Judge noise models by pairs of images.

    Args:
        models: name to model, in the units of the images.
        pairs: images that none of them should have been fitted to.
        seed: of samples and of the randomised calibration.
        progress: called as ``progress(name, fraction)``.

    Returns:
        figures of the real noise and of each model.

    Raises:
        InputError: if there is no model.
    """
    if not models:
        raise InputError("expected at least one noise model to judge, got none")
    real = traits_of(pairs.clean, pairs.noisy - pairs.clean)
    scale = _Histograms(pairs)
    verdicts = []
    for i, (name, model) in enumerate(models.items()):
        verdicts.append(_judge(name, model, pairs, scale, real, seed))
        if progress is not None:
            progress(name, (i + 1) / len(models))
    return Comparison(real, scale.floor(), tuple(verdicts))


def _judge(name: str, model: NoiseModel, pairs: Pairs, scale: _Histograms, real: Traits, seed: int) -> Verdict:
    fair = _recorded(model, pairs.recording)
    generator = torch.Generator().manual_seed(seed)
    parts = [_pixels(fair, noisy, clean, generator) for noisy, clean in pairs.chunks()]
    likelihood, uniform, white = (_images(part, pairs) for part in zip(*parts, strict=True))
    drawn = _images([fair.sample(clean, generator) for _, clean in pairs.chunks()], pairs)
    traits = traits_of(pairs.clean, drawn - pairs.clean)
    return Verdict(
        name,
        scale.distances(fair),
        float(np.mean(likelihood, dtype=np.float64)),
        int(np.count_nonzero(np.isneginf(likelihood))),
        uniform_gap(uniform),
        tuple((np.histogram(uniform, _PIT_BINS, (0, 1))[0] / uniform.size).tolist()),
        correlations(white, 2, 2),
        correlations(white, 1, 2),
        traits,
        traits.slope / real.slope if real.slope else math.nan,
        traits.deviation**2 / real.deviation**2,
    )


def _pixels(model: NoiseModel, noisy: Tensor, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return log-likelihood, a uniform draw within each pixel's Φ, and the whitened residual.

    `log_law` counts saturation and grey values also for models whose own `log_prob` ignores them.
    """
    mapped = model.to_normal(noisy - clean, clean)
    given = model.given(model.scores(noisy, clean, mapped))
    likelihood = model.log_law(noisy, clean, given, mapped).nan_to_num(nan=-math.inf, neginf=-math.inf)
    white = model.whiten(noisy, clean)
    return likelihood, uniform_within(*model.bounds(noisy, clean), generator), white


def _images(chunks: Sequence[Tensor], pairs: Pairs) -> np.ndarray:
    """Return what was found for chunks of the pairs as images again."""
    return torch.cat(list(chunks)).numpy().reshape(pairs.clean.shape)


def _recorded(model: NoiseModel, recording: Recording) -> NoiseModel:
    """Return a copy of a model that knows how the images were recorded, whatever it was fitted to."""
    fair = copy.deepcopy(model).requires_grad_(False).cpu()
    for part in fair.modules():
        if isinstance(part, NoiseModel) and "recording" in vars(part):
            part.recording = recording
    return fair


def uniform_within(lower: Tensor, upper: Tensor, generator: torch.Generator) -> Tensor:
    """Return Φ(z) for a draw of z from between two bounds: uniform over the pixels if the model is right.

    Args:
        lower: bounds, any shape; where they are equal nothing is drawn.
        upper: likewise, not below.
        generator: of the draws.

    Returns:
        0 to 1, float64, same shape.

    Dunn & Smyth, J. Comput. Graph. Stat. 5 (1996) 236 (randomised quantile residuals).
    """
    share = torch.rand(lower.shape, generator=generator, dtype=torch.float64, device=generator.device)
    below, up_to = (torch.special.ndtr(end.double()) for end in (lower, upper))
    return torch.lerp(below, up_to, share.to(lower.device))


def uniform_gap(uniform: np.ndarray) -> float:
    """Return the Kolmogorov distance from the uniform distribution.

    Args:
        uniform: values in [0, 1], any shape.
    """
    ordered = np.sort(uniform, axis=None)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1])))


class _Histograms:
    """Histograms of the real noise, as a whole and by classes of the clean intensity, and those of models.

    The bins are made from the real noise, once, and so are the same for all models. A model's probabilities come from
    its distribution function, Φ(to_normal(n)), not from samples.

    Args:
        pairs: the real noise.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.noise = (pairs.noisy - pairs.clean).astype(np.float64)
        self.index = classes(pairs.clean)
        self.edges = [_edges(self.noise, NOISE_BINS, 1e-4)]
        self.edges += [_edges(self.noise[self.index == k], CLASS_BINS, 5e-4) for k in range(BINS)]
        self.nodes = [_representatives(pairs.clean[self.index == k]) for k in range(BINS)]
        self.counts = self._counts(slice(None))

    def _counts(self, rows: slice) -> list[np.ndarray]:
        noise, index = self.noise[:, rows], self.index[:, rows]
        parts = [noise, *(noise[index == k] for k in range(BINS))]
        return [_histogram(part, edges) for part, edges in zip(parts, self.edges, strict=True)]

    def floor(self) -> Distances:
        """Return the distances of the even rows from the odd ones."""
        return _distances(self._counts(slice(0, None, 2)), self._counts(slice(1, None, 2)))

    def distances(self, model: NoiseModel) -> Distances:
        """Return the distances of a model from the real noise."""
        whole = sum(self._probabilities(model, nodes, self.edges[0]) for nodes in self.nodes)
        by_class = [self._probabilities(model, n, e) for n, e in zip(self.nodes, self.edges[1:], strict=True)]
        return _distances(self.counts, [np.asarray(whole), *by_class])

    def _probabilities(self, model: NoiseModel, nodes: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the probability of each bin, averaged over clean intensities."""
        clean, bound = (torch.from_numpy(a.copy()) for a in np.broadcast_arrays(nodes[:, None], edges[None, :]))
        total = noise_cdf(model, bound, clean).mean(dim=0).numpy()
        return np.clip(np.diff(np.concatenate([[0.0], total, [1.0]])), 0.0, None)


def noise_cdf(model: NoiseModel, noise: Tensor, clean: Tensor) -> Tensor:
    """Return P(observed - clean ≤ noise | clean), as recorded: saturated, and in steps where grey values are coarse.

    Args:
        model: its recording counts.
        noise: where, any shape.
        clean: clean intensity, same shape.

    Returns:
        float64, same shape.
    """
    rec, level = model.recording, clean + noise
    end = level
    if rec.quantum is not None:
        origin = next(value for value in (rec.low, rec.high, 0.0) if value is not None)
        end = origin + (torch.floor((level - origin) / rec.quantum) + 0.5) * rec.quantum
    z, _ = model.to_normal((end - clean).float(), clean.float())
    result = torch.special.ndtr(z.double())
    if rec.low is not None:
        result = torch.where(level < rec.low, 0.0, result)
    return result if rec.high is None else torch.where(level >= rec.high, 1.0, result)


def _edges(noise: np.ndarray, bins: int, tail: float) -> np.ndarray:
    low, high = np.quantile(noise, [tail, 1 - tail])
    return np.linspace(low, high if high > low else low + 1.0, bins + 1)


def _histogram(noise: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return counts between the edges, and beyond the first and the last; a value on an edge counts below it."""
    return np.bincount(np.searchsorted(edges, noise.ravel(), side="left"), minlength=len(edges) + 1).astype(float)


def _representatives(clean: np.ndarray) -> np.ndarray:
    """Return clean intensities, equally many pixels apart, that stand for all."""
    return np.quantile(clean, (np.arange(_NODES) + 0.5) / _NODES)


def _distances(p: list[np.ndarray], q: list[np.ndarray]) -> Distances:
    def both(measure: Callable[[np.ndarray, np.ndarray], float]) -> tuple[float, float]:
        return measure(p[0], q[0]), float(np.mean([measure(a, b) for a, b in zip(p[1:], q[1:], strict=True)]))

    (jsd, jsd_binned), (bc, bc_binned), (bd, bd_binned) = map(
        both, (jensen_shannon, bhattacharyya, bhattacharyya_distance)
    )
    return Distances(jsd, bc, bd, jsd_binned, bc_binned, bd_binned)


# ---- tables --------------------------------------------------------------------------------------------------------

DISTANCES = ("model", "JSD (bits)", "BC", "distance", "JSD, by intensity", "BC, by intensity", "distance, by intensity")
BEHAVIOUR = (
    *("model", "log-likelihood", "PIT gap", "white lag 1", "white lag 2", "white across"),
    *("lag 1", "lag 2", "slope", "variance"),
)


def tables(comparison: Comparison) -> str:
    """Return Markdown: distances of distributions, with their floor; likelihood, calibration, samples; and the notes.

    Args:
        comparison: what to show.
    """
    distances = [[v.name, *_distance_cells(v.distances)] for v in comparison.verdicts]
    distances.append(["floor (even against odd rows)", *_distance_cells(comparison.floor)])
    behaviour = [[v.name, *_verdict_cells(v)] for v in comparison.verdicts]
    lags = [f"{value:.3f}" for value in comparison.real.along[:2]]
    behaviour.append(["real noise", *[""] * 5, *lags, "1.000", "1.000"])
    return "\n\n".join([markdown(DISTANCES, distances), markdown(BEHAVIOUR, behaviour), *comparison.notes])


def _distance_cells(d: Distances) -> list[str]:
    return [f"{d.jsd:.5f}", f"{d.bc:.5f}", f"{d.bd:.5f}", f"{d.jsd_binned:.5f}", f"{d.bc_binned:.5f}",
            f"{d.bd_binned:.5f}"]  # fmt: skip


def _verdict_cells(v: Verdict) -> list[str]:
    likelihood = f"-∞ ({v.impossible} px)" if v.impossible else f"{v.log_likelihood:.4f}"
    lags = (*v.whitened_along, v.whitened_across[0], *v.traits.along[:2], v.slope_ratio, v.variance_ratio)
    return [likelihood, f"{v.pit_gap:.4f}", *(f"{value:.3f}" for value in lags)]


def markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table padded so that its columns line up as plain text too.

    Args:
        header: titles.
        rows: cells, as many as titles.
    """
    widths = [max(len(row[k]) for row in (list(header), *rows)) for k in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|:" + "-" * (widths[0] + 1) + "|" + "|".join("-" * (w + 1) + ":" for w in widths[1:]) + "|"
    return "\n".join([line(list(header)), rule, *map(line, rows)])
