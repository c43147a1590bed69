"""Weighted back-projection and SIRT, on the same projector as everything else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tiltfield.projector import SliceProjector

_EMPTY = 1e-6


def ramp_filter(sinograms: Tensor, window: str) -> Tensor:
    """Filter every row by the ramp |f|, optionally tapered.

    The ramp is the transform of the band-limited kernel of Kak and Slaney (1988, eq. 3.61), h(0) = 1/4,
    h(odd n) = -1/(πn)², which keeps the mean right. "hann" multiplies by cos²(π f / 2 f_N).

    Args:
        sinograms: shape (..., n_u).
        window: "ram-lak" (none) or "hann".

    Returns:
        same shape.

    Raises:
        ValueError: for another window.
    """
    if window not in ("hann", "ram-lak"):
        raise ValueError(f"the window must be 'hann' or 'ram-lak', got '{window}'")
    n = sinograms.shape[-1]
    size = 2 ** math.ceil(math.log2(max(2, 2 * n)))
    lag = torch.arange(size, device=sinograms.device)
    lag = torch.minimum(lag, size - lag).to(sinograms.dtype)
    kernel = torch.where(lag % 2 == 1, -1 / (math.pi * lag.clamp_min(1)) ** 2, torch.zeros_like(lag))
    kernel[0] = 0.25
    response = torch.fft.rfft(kernel).real
    if window == "hann":
        frequency = torch.linspace(0, 1, len(response), dtype=sinograms.dtype, device=sinograms.device)
        response = response * torch.cos(math.pi / 2 * frequency) ** 2
    return torch.fft.irfft(torch.fft.rfft(sinograms, n=size) * response, n=size)[..., :n]


def angular_weights(angles: Tensor) -> Tensor:
    """Return the angle that each tilt stands for: half the distance between its neighbours.

    Args:
        angles: radians, shape (tilt,), at least two different ones, any order.

    Returns:
        radians, same shape.
    """
    order = torch.argsort(angles)
    gaps = angles[order].diff()
    width = torch.zeros_like(angles)
    width[:-1] += gaps / 2
    width[1:] += gaps / 2
    width[0] += gaps[0] / 2
    width[-1] += gaps[-1] / 2
    result = torch.empty_like(angles)
    result[order] = width
    return result


def wbp(projector: SliceProjector, sinograms: Tensor, window: str = "hann") -> Tensor:
    """Return the weighted back-projection, ρ = Σ_θ Δθ Aᵀ_θ (h * p_θ).

    Args:
        projector: the map A.
        sinograms: line integrals, pixels, shape (row, tilt, col).
        window: of the ramp.

    Returns:
        density, 1/pixel, shape (row, n_z, n_x).
    """
    angles = torch.tensor(projector.geometry.angles, dtype=sinograms.dtype, device=sinograms.device)
    filtered = ramp_filter(sinograms, window) * angular_weights(angles)[:, None]
    return projector.adjoint(filtered)


def sirt(
    projector: SliceProjector,
    sinograms: Tensor,
    iterations: int,
    *,
    used: Tensor | None = None,
    watch: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the result of SIRT with positivity, ρ ← max(0, ρ + C Aᵀ R (p - A ρ)).

    R and C hold the inverse row and column sums of A (Gilbert, 1972; Gregor and Benson, 2008).

    Args:
        projector: the map A.
        sinograms: line integrals, pixels, shape (row, tilt, col).
        iterations: how many, ≥ 1.
        used: bool, shape as `sinograms`: pixels that count; by default all.
        watch: called with the number of iterations done.

    Returns:
        density, 1/pixel, shape (row, n_z, n_x).
    """
    g = projector.geometry
    weight = torch.ones_like(sinograms) if used is None else used.to(sinograms.dtype)
    rows = projector(torch.ones(1, g.n_z, g.n_x, dtype=sinograms.dtype, device=sinograms.device))
    inverse_rows = torch.where(rows > _EMPTY, 1 / rows.clamp_min(_EMPTY), torch.zeros_like(rows)) * weight
    columns = projector.adjoint((rows > _EMPTY) * weight)
    inverse_columns = torch.where(columns > _EMPTY, 1 / columns.clamp_min(_EMPTY), torch.zeros_like(columns))
    density = torch.zeros(len(sinograms), g.n_z, g.n_x, dtype=sinograms.dtype, device=sinograms.device)
    for iteration in range(iterations):
        residual = sinograms - projector(density)
        density = (density + inverse_columns * projector.adjoint(inverse_rows * residual)).clamp_min(0)
        if watch is not None:
            watch(iteration + 1)
    return density
