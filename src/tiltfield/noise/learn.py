"""Noise models learned from images whose clean twins are known, or nearly so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from tiltfield.errors import InputError, nearest
from tiltfield.noise import Start, make_noise
from tiltfield.noise.base import NoiseModel, Recording
from tiltfield.noise.estimate import NoiseLine, autocorrelation
from tiltfield.noise.poisson import Poisson, log_pmf
from tiltfield.noise.scan import Scan

LEARNABLE = ("gaussian", "poisson", "poisson-gaussian", "flow-paper", "flow", "scan-flow")
LAYERS = 8  # radial layers, as many as in the supplement
STEPS = 500
PIXELS = 40_000  # a step, about
RATE = 1e-2
CHUNK = 2**18  # pixels that a model is asked about at once: it holds many numbers for each
_SOLVED = 50_000  # pixels that gain and offset of the Poisson model are searched on
_BINS = 40
_MARGIN = 1e-3  # counts between the darkest pixel and the end of what is possible, against rounding
_PLAIN = Recording()
Progress = Callable[[float, float], None]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and what they would be without noise.

    Attributes:
        clean: float32, shape (frame, row, col); the scan runs along the columns' index, fast.
        noisy: likewise.
        recording: saturation and quantisation of the noisy images, in their units.
    """

    clean: np.ndarray
    noisy: np.ndarray
    recording: Recording = _PLAIN

    def __post_init__(self) -> None:
        if self.clean.shape != self.noisy.shape or self.clean.ndim != 3:
            raise InputError(
                "expected clean and noisy images of one shape (frame, row, col), got "
                f"{self.clean.shape} and {self.noisy.shape}"
            )
        if not (np.isfinite(self.clean).all() and np.isfinite(self.noisy).all()):
            raise InputError("expected numbers in every pixel of the clean and the noisy images, got NaN or infinity")

    def range(self) -> tuple[float, float]:
        """Return the smallest and the largest clean intensity, a thousandth of the pixels left out at each end."""
        low, high = np.quantile(self.clean, [0.001, 0.999])
        if not high > low:
            raise InputError(f"the clean images are constant ({low:g}): noise cannot be told at other intensities")
        return float(low), float(high)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield noisy and clean rows, float32, shape (row, col), about `CHUNK` pixels at a time.

        Rows are whole, because noise correlates along them, and know nothing of each other.
        """
        n_rows = max(1, CHUNK // self.clean.shape[2])
        for sides in zip(self.noisy, self.clean, strict=True):
            for first in range(0, len(sides[0]), n_rows):
                part = (np.ascontiguousarray(side[first : first + n_rows], np.float32) for side in sides)
                noisy, clean = map(torch.from_numpy, part)
                yield noisy, clean


def learn(
    name: str, pairs: Pairs, *, seed: int = 0, steps: int = STEPS, progress: Progress | None = None
) -> NoiseModel:
    """Fit a noise model to pairs of images by maximum likelihood.

    Args:
        name: one of `LEARNABLE`.
        pairs: the images.
        seed: of initial values and of the rows drawn.
        steps: of Adam, each on some rows of the images; Poisson needs none.
        progress: called as ``progress(fraction, log-likelihood per pixel)``.

    Returns:
        the model, in the units of the images.

    Raises:
        InputError: for an unknown name or images that tell nothing.
    """
    if name not in LEARNABLE:
        raise InputError(
            f"unknown noise model '{name}', expected one of {', '.join(LEARNABLE)}{nearest(name, LEARNABLE)}"
        )
    low, high = pairs.range()
    span = high - low
    clean, noisy = ((torch.from_numpy(a).float() - low) / span for a in (pairs.clean, pairs.noisy))
    if name == "poisson":
        return _poisson(clean, noisy, seed).rescaled(span, low)
    line = fit_line(clean.numpy(), noisy.numpy())
    generator = torch.Generator().manual_seed(seed)
    start = Start(
        line.slope,
        line.floor,
        line.dark,
        low=-0.1,
        high=1.1,
        generator=generator,
        recording=pairs.recording.rescaled(1 / span, -low / span),
        n_layers=LAYERS,
    )
    model = make_noise(name, start)
    if isinstance(model, Scan):
        with torch.no_grad():
            scores = model.scores(_some_rows(noisy), _some_rows(clean))
            model.correlate_(autocorrelation(scores, -1, model.order))
    _descend(model, clean, noisy, steps, generator, progress)
    return model.requires_grad_(False).rescaled(span, low)


def log_likelihood(model: NoiseModel, pairs: Pairs) -> float:
    """Return the mean log-likelihood of a pixel, nats.

    Args:
        model: in the units of the images.
        pairs: the images.
    """
    with torch.no_grad():
        total = sum(float(model.log_prob(n, c).double().sum()) for n, c in pairs.chunks())
    return total / pairs.clean.size


def _some_rows(images: Tensor) -> Tensor:
    """Return as many rows as have at most `CHUNK` pixels, spread evenly over all images: shape (row, col)."""
    rows = images.reshape(-1, images.shape[-1])
    return rows[:: math.ceil(rows.numel() / max(CHUNK, rows.shape[1]))]


def _descend(
    model: NoiseModel, clean: Tensor, noisy: Tensor, steps: int, generator: torch.Generator, progress: Progress | None
) -> None:
    """Climb the likelihood of rows drawn at random, at a rate that falls to nothing as a cosine."""
    clean, noisy = (a.reshape(-1, a.shape[-1]) for a in (clean, noisy))
    rows = min(len(clean), max(4, round(PIXELS / clean.shape[1])))
    groups = [{**group, "base": group["lr"]} for group in model.groups(RATE)]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        which = torch.randint(len(clean), (rows,), generator=generator)
        loss = -model.log_prob(noisy[which], clean[which]).mean()
        if not math.isfinite(loss.item()):
            raise InputError(f"the likelihood became infinite or NaN after {step} steps; try another --seed or --model")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if progress is not None:
            progress((step + 1) / steps, -loss.item())


def fit_line(clean: np.ndarray, noisy: np.ndarray) -> NoiseLine:
    """Return the line of variance against intensity, through bins of the clean intensity with equally many pixels.

    Args:
        clean: intensities, any shape.
        noisy: same shape.
    """
    order = np.argsort(clean, axis=None, kind="stable")
    c, square = clean.ravel()[order].astype(np.float64), ((noisy - clean).ravel()[order]).astype(np.float64) ** 2
    points = [(part_c.mean(), part.mean()) for part_c, part in _parts(c, square)]
    x, v = np.array(points).T
    weight = 1 / np.maximum(v, max(1e-3 * v.mean(), 1e-12))  # the error of a variance is proportional to it
    slope, level = np.polyfit(x, v, 1, w=weight)
    typical = max(float(np.median(v)), 1e-12)
    slope = max(float(slope), 1e-3 * typical)
    dark = float(min(0.0, x.min()))
    return NoiseLine(slope, max(float(level) + slope * dark, 1e-3 * typical), dark)


def _parts(c: np.ndarray, square: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(np.array_split(c, _BINS), np.array_split(square, _BINS), strict=True))


def _poisson(clean: Tensor, noisy: Tensor, seed: int) -> Poisson:
    """Return gain and offset of largest likelihood; every pixel must be possible, so the darkest bounds the offset."""
    rng = np.random.default_rng(seed)
    n_all = clean.numel()
    which = torch.from_numpy(rng.integers(n_all, size=_SOLVED) if n_all > _SOLVED else np.arange(n_all))
    c, n = (a.flatten()[which].double() for a in (clean, noisy))
    darkest = float(noisy.min())

    def model(p: np.ndarray) -> tuple[float, float]:
        gain = math.exp(p[0])
        return gain, darkest + gain * (0.5 - _MARGIN) - math.exp(p[1])  # strictly above o - a/2

    def loss(p: np.ndarray) -> float:
        gain, offset = model(p)
        rate = ((c - offset) / gain).clamp_min(1e-6)
        # between whole counts log k! is continued by the gamma function, so that the likelihood is smooth
        return -float((log_pmf(((n - offset) / gain).clamp_min(0), rate) - math.log(gain)).mean())

    line = fit_line(clean.numpy(), noisy.numpy())
    first = [math.log(line.slope), math.log(max(darkest + line.slope / 2 + line.floor / line.slope, 0.05))]
    best = minimize(loss, first, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
    return Poisson(*model(best.x))
