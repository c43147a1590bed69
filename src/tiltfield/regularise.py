"""Total variation of a density, and the choice of its weight by held-out pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import Tensor

from tiltfield.kernels.variation import Law, variation

SHARPNESS = 0.005  # Charbonnier's ε, in units of the typical density: small, so that edges stay sharp
EDGE = 0.3  # gradients well above this count by their logarithm, so that strong edges are not flattened
DENSE, TOP = 3.0, 1.2  # what is denser than this, in units of the typical density, has a plain variation besides


def total_variation(
    slices: Tensor, scale: float, *, sharpness: float = SHARPNESS, edge: float = EDGE, closed: bool = False
) -> Tensor:
    """Return the mean concave 3D total variation κ·log(1 + g/κ) + ψ·h, g = sqrt(|∇ρ/s|² + ε²) - ε.

    For g ≪ κ this is the total variation of Rudin et al. (1992) in Charbonnier's form; large gradients cost only
    their logarithm, as in reweighted total variation (Candès et al., 2008), which keeps the contrast of edges. Peaks of
    noise on the densest parts would then cost next to nothing, and they overshoot (docs/log.md): h is the g of what
    exceeds `DENSE`, max(0, ρ/s - d), and counts ψ = `TOP` times. Above and below the slices is vacuum: without the step
    to it, a specimen that fills the box would cost less than one that ends inside. Beside them all goes on as it is.

    Args:
        slices: density of adjacent slices, shape (y, z, x); one alone counts as its own neighbour.
        scale: s, typical density, > 0.
        sharpness: ε, > 0.
        edge: κ, > 0; infinity gives the plain total variation, g.
        closed: whether the last slice counts as its own neighbour, as it does at the end of the box.

    Returns:
        scalar ≥ 0, mean over the voxels that have a neighbour along y, and the vacuum below.
    """
    return variation(slices, scale, Law(sharpness, edge, DENSE, TOP), closed)


def margin_density(slices: Tensor, scale: float, margin: int) -> Tensor:
    """Return the density in the outermost layers along z over that typical of the specimen, Σ_margin ρ/s / N.

    A box is made thicker than the specimen seems, for safety. Where tilted rays do not show where a section ends, a
    little density in that margin fits as well as none; its cost makes it none, unless the images ask for it.

    Args:
        slices: density of adjacent slices, shape (y, z, x).
        scale: s, typical density, > 0.
        margin: layers at each end of z that are believed empty, ≥ 0.

    Returns:
        scalar ≥ 0, mean over all voxels N.
    """
    if margin == 0:
        return slices.new_zeros(())
    layers = slices.shape[1]
    ends = slices[:, :margin].sum() + slices[:, layers - margin :].sum()
    return ends / (scale * slices.numel())


def choose_weight(score: Callable[[float], float], weights: Iterable[float]) -> tuple[float, dict[float, float]]:
    """Return the weight with the lowest score, going from strong to weak and stopping after two rises.

    The minimum is refined by the parabola through it and its neighbours, over the logarithm of the weight.

    Args:
        score: held-out negative log-likelihood of a fit with this weight; called in the order given, so that each fit
            may start from the one before. What is not finite is worse than any other.
        weights: candidates, falling.

    Returns:
        the chosen weight and all the scores.
    """
    scores: dict[float, float] = {}
    for weight in weights:
        found = score(weight)
        scores[weight] = found if math.isfinite(found) else math.inf
        if len(scores) >= 3 and _rising(scores):
            break
    return _parabola(scores), scores


def _rising(scores: dict[float, float]) -> bool:
    a, b, c = list(scores.values())[-3:]
    return a < b < c


def _parabola(scores: dict[float, float]) -> float:
    weights, values = list(scores), list(scores.values())
    best = min(range(len(values)), key=values.__getitem__)
    if not 0 < best < len(values) - 1 or math.inf in values[best - 1 : best + 2]:
        return weights[best]
    left, middle, right = (math.log(w) for w in weights[best - 1 : best + 2])
    a, b, c = values[best - 1 : best + 2]
    top = (middle - left) ** 2 * (b - c) - (middle - right) ** 2 * (b - a)
    bottom = (middle - left) * (b - c) - (middle - right) * (b - a)
    return math.exp(middle - 0.5 * top / bottom) if bottom != 0 else weights[best]
