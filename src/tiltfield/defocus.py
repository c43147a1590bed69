"""Defocus of a tilted specimen: blur that grows with the tilt and with the distance from the tilt axis.

A point at distance d from the axis in an image of tilt α lies |d tan α| above or below the plane in focus, and a blur
of standard deviation σ ∝ |d tan α| follows. Two kernels of that σ along each axis of the image:

    linear   exp(-r² / 2σ²)
    paper    exp(-r / s), s = σ / √3

The paper (Kniesel et al., CVPR 2022, supplement, equation 1) prints exp(-r · tan α · d), a kernel that gets narrower
with tilt and distance and is flat on the axis, and says in words that it gets wider. The words agree with optics, so s
grows here. Kernels are sampled at the pixels; below about 1.5 pixels (paper) and 0.6 (linear) that narrows them.

Rendering wants the blur fast, for a few rows at a time, and differentiable. A product g(Δy) g(Δu) of profiles is a
matrix product along u and a weighted sum of shifted rows, because the kernel belongs to the pixel that is looked at:

    blurred[y, u] = Σ_k Σ_Δy g_k(Δy; u) Σ_u' g_k(u' - u; u) image[y + Δy, u']

A Gaussian is one such product. exp(-r / s) is a mixture of Gaussians over their widths (Bernstein: exp(-√t) is
completely monotone), so that the matrix of its samples M[Δy, Δu] is positive semidefinite and its eigenvalues fall
fast: its first few eigenvectors are the profiles, and follow the sampling of a narrow kernel by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

CUT = {"linear": 3.0, "paper": 4.0}
"""Where rendering cuts the kernels at each tilt, in units of its widest σ."""

_RANK = {"linear": 1, "paper": 4}  # products that the kernel is the sum of
_BAND = 64  # columns blurred by one matrix, which reaches only over those near them
_NARROWEST = 0.05  # pixels; a narrower kernel leaves everything in its own pixel, to 1e-14
_NODES = 0.025  # spacing in log σ at which the kernel is decomposed; profiles between are interpolated


@dataclass(frozen=True)
class Kernel:
    """A radially symmetric kernel.

    Attributes:
        value: at distances in units of the scale.
        scale: over the standard deviation along one axis.
        cut: radius beyond which it is left out, in units of the scale; the mass beyond is below 1e-5.
    """

    value: Callable[[np.ndarray], np.ndarray]
    scale: float
    cut: float


KERNELS = {
    "linear": Kernel(lambda r: np.exp(-(r**2) / 2), 1.0, 5.0),
    "paper": Kernel(lambda r: np.exp(-r), 1 / math.sqrt(3), 14.5),
}


def blur_widths(n: int, angle: float, steepest: float, most: float) -> np.ndarray:
    """Return the standard deviation of the blur in every column, most · |tan α| / tan(steepest) · |d| / d(edge).

    Args:
        n: columns; the tilt axis runs along the middle.
        angle: tilt, radians.
        steepest: largest tilt of the series, radians; 0 for no blur.
        most: blur there in the outermost column, pixels.

    Returns:
        pixels, shape (n,).
    """
    if steepest == 0:
        return np.zeros(n)
    distance = np.abs(np.arange(n) - (n - 1) / 2) / ((n - 1) / 2)
    return most * abs(math.tan(angle)) / math.tan(abs(steepest)) * distance


def halo_of(law: str, most: float) -> int:
    """Return how many rows a blur reaches to each side.

    Args:
        law: name of the kernel, of `KERNELS`.
        most: largest standard deviation, pixels.
    """
    return math.ceil(CUT[law] * most)


class Defocus(nn.Module):
    """The blur of every pixel of a series by the kernel of its own column and tilt, differentiable in the images.

    It agrees with the sum over whole kernels but for the cut (see `CUT`), beyond which lies at most 0.3 % (linear) or
    0.25 % (paper) of a kernel's mass along each axis, there where it is widest, and for the rank of the paper's kernel,
    which misplaces 0.1 % of its mass at σ = 3 pixels, 0.3 % at 8.

    Attributes:
        law: name of the kernel, of `KERNELS`.
        widths: σ, pixels, shape (tilt, col).
        halo: rows that a kernel reaches to each side.
    """

    widths: Tensor
    _order: Tensor  # tilts, steepest first: those that a shift concerns come first
    _back: Tensor  # where each tilt is in that order
    _rows: Tensor  # profiles along rows, shape (tilt in order, Δy ≥ 0, rank, col)
    _tails: Tensor  # mass of the kernel further than so many rows to one side, shape (halo + 1, tilt in order, col)

    def __init__(self, law: str, widths: np.ndarray) -> None:
        """Prepare the blur.

        Args:
            law: name of the kernel, of `KERNELS`.
            widths: σ, pixels, shape (tilt, col), growing linearly from the middle column to both sides.
        """
        super().__init__()
        self.law = law
        widest = widths.max(axis=1)
        order = np.argsort(-widest, kind="stable")
        reach = np.ceil(CUT[law] * widest[order]).astype(int)  # rows that the kernels of each tilt reach
        self.halo = halo_of(law, float(widest.max()))
        self._concerned = [int((reach >= d).sum()) for d in range(self.halo + 1)]
        profiles = _profiles(law, widths[order], self.halo) * (np.arange(self.halo + 1) <= reach[:, None, None])
        bands, rows, tails = _weights(profiles)
        self._spans = [(f"_band_{i}", seen, blurred) for i, (seen, blurred, _) in enumerate(bands)]
        for (name, *_), (*_, matrix) in zip(self._spans, bands, strict=True):
            self._keep(name, matrix)
        for name, values in {"widths": widths, "_rows": rows, "_tails": tails}.items():
            self._keep(name, values)
        self.register_buffer("_order", torch.from_numpy(order), persistent=False)
        self.register_buffer("_back", torch.from_numpy(np.argsort(order)), persistent=False)

    def _keep(self, name: str, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

    @classmethod
    def of(
        cls,
        law: str,
        most: float,
        angles_deg: np.ndarray,
        n_u: int,
        device: torch.device | str = "cpu",
        *,
        steepest_deg: float | None = None,
    ) -> Self:
        """Build the blur of a series.

        Args:
            law: name of the kernel, of `KERNELS`.
            most: σ at the steepest tilt, in the outermost column, pixels, ≥ 0.
            angles_deg: tilts, degrees, shape (tilt,).
            n_u: detector columns, ≥ 2.
            device: where it is to live.
            steepest_deg: tilt to which `most` refers, if it is not among those given.
        """
        angles = np.deg2rad(np.asarray(angles_deg, dtype=float))
        steepest = float(np.abs(angles).max()) if steepest_deg is None else math.radians(steepest_deg)
        return cls(law, np.stack([blur_widths(n_u, a, steepest, most) for a in angles])).to(device)

    def blur(self, images: Tensor, before: int, after: int) -> Tensor:
        """Blur rows of images: every pixel is the mean of those around it, weighted by its own kernel.

        Where rows end without being followed by `halo` others, and at the first and last column, the image ends: only
        what is in it counts. A constant stays what it is.

        Args:
            images: shape (row, tilt, col).
            before: rows at the beginning that serve as neighbours only; `halo`, or fewer where the image begins.
            after: rows at the end, likewise.

        Returns:
            shape (row - before - after, tilt, col).
        """
        return _Blur.apply(images, before, after, self)

    def _apply_map(self, images: Tensor, before: int, after: int) -> Tensor:
        ordered = images[:, self._order].transpose(0, 1)  # (tilt, row, col)
        shape = (*ordered.shape[:2], self._rows.shape[2], -1)
        parts = [(ordered[..., seen] @ getattr(self, name)).view(shape) for name, seen, _ in self._spans]
        across = torch.cat(parts, dim=-1)  # (tilt, row, rank, col)
        count = len(images) - before - after
        out = across[:, before : before + count] * self._rows[:, :1]
        for tilts, d, target, source in self._shifts(count, before, after):
            out[:tilts, target].addcmul_(across[:tilts, source], self._rows[:tilts, d : d + 1])
        blurred = out.sum(dim=2) / self._present(count, before, after)
        return blurred.transpose(0, 1)[:, self._back]

    def _apply_adjoint(self, gradient: Tensor, before: int, after: int) -> Tensor:
        count = len(gradient)
        ordered = gradient[:, self._order].transpose(0, 1) / self._present(count, before, after)
        wide = ordered[:, :, None]  # (tilt, row, 1, col)
        shape = (len(ordered), count + before + after, self._rows.shape[2], ordered.shape[2])
        across = ordered.new_zeros(shape)  # (tilt, row, rank, col)
        across[:, before : before + count] = wide * self._rows[:, :1]
        for tilts, d, target, source in self._shifts(count, before, after):
            across[:tilts, source].addcmul_(wide[:tilts, target], self._rows[:tilts, d : d + 1])
        out = torch.zeros_like(across[:, :, 0])
        for name, seen, blurred in self._spans:
            out[..., seen] += across[..., blurred].flatten(2) @ getattr(self, name).transpose(1, 2)
        return out.transpose(0, 1)[:, self._back]

    def _shifts(self, count: int, before: int, after: int) -> list[tuple[int, int, slice, slice]]:
        """Return for each shift of rows: tilts concerned, distance, rows that get, rows (of the block) that give."""
        found = []
        for d in range(1, self.halo + 1):
            for shift in (-d, d):
                first, last = max(0, -before - shift), min(count, count + after - shift)
                if first < last:
                    source = slice(before + first + shift, before + last + shift)
                    found.append((self._concerned[d], d, slice(first, last), source))
        return found

    def _present(self, count: int, before: int, after: int) -> Tensor:
        """Return the mass of each pixel's kernel that lies in rows of the block, shape (tilt in order, row, col)."""
        row = torch.arange(count, device=self._tails.device)
        above, below = (row + before).clamp_max(self.halo), (row.flip(0) + after).clamp_max(self.halo)
        return (1 - self._tails[above] - self._tails[below]).transpose(0, 1)


class _Blur(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, before: int, after: int, defocus: Defocus) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.how = (before, after, defocus)
        return defocus._apply_map(images, before, after)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        before, after, defocus = ctx.how
        return defocus._apply_adjoint(gradient, before, after), None, None, None


def _profiles(law: str, widths: np.ndarray, halo: int) -> np.ndarray:
    """Return the profiles g_k(d) at distances 0 to `halo` whose products g_k(Δy) g_k(Δu) add up to the kernel.

    Args:
        law: name of the kernel.
        widths: σ, pixels, shape (tilt, col).
        halo: farthest distance, pixels.

    Returns:
        shape (rank, tilt, col, halo + 1).
    """
    kernel, distance = KERNELS[law], np.arange(halo + 1)
    widths = np.maximum(widths, _NARROWEST)
    if law == "linear":
        return kernel.value(distance / (kernel.scale * widths[..., None]))[None]
    place = np.log(widths / _NARROWEST) / _NODES
    left = np.floor(place).astype(int)
    nodes = _NARROWEST * np.exp(_NODES * np.arange(left.max() + 2))
    table = np.stack([_decomposed(kernel, width, distance, _RANK[law]) for width in nodes], axis=1)
    share = (place - left)[..., None]
    return (1 - share) * table[:, left] + share * table[:, left + 1]


def _decomposed(kernel: Kernel, width: float, distance: np.ndarray, rank: int) -> np.ndarray:
    """Return the eigenvectors of a sampled kernel, scaled so that their products add up to it, shape (rank, distance).

    Both signs of a distance are one entry here, which weighs twice. The matrix is totally positive: no two eigenvalues
    are equal and no vector begins with 0, so that the vectors are smooth in the width once they begin positive.
    """
    weight = np.where(distance == 0, 1.0, math.sqrt(2))
    samples = kernel.value(np.hypot(distance[:, None], distance) / (kernel.scale * width))
    values, vectors = np.linalg.eigh(weight[:, None] * samples * weight)
    found = np.zeros((rank, len(distance)))
    for k in range(min(rank, len(distance))):
        vector = vectors[:, -1 - k] / weight * math.sqrt(max(0.0, values[-1 - k]))
        found[k] = vector * (-1 if vector[0] < 0 else 1)
    return found


def _weights(profiles: np.ndarray) -> tuple[list[tuple[slice, slice, np.ndarray]], np.ndarray, np.ndarray]:
    """Return matrices along u and weights along rows that together add up to 1, and what is lost where rows end.

    Args:
        profiles: shape (rank, tilt, col, distance).

    Returns:
        bands, as :func:`_bands` does; profiles along rows, shape (tilt, Δy ≥ 0, rank, col); and the mass of the kernel
        further than 0, 1, ... rows to one side, shape (distance, tilt, col).
    """
    bands, across = _bands(profiles)
    both_sides = 2 * profiles.sum(-1) - profiles[..., 0]
    rows = profiles / (across * both_sides).sum(0)[..., None]
    mass = (across[..., None] * rows).sum(0)  # (tilt, col, Δy)
    tails = mass[..., ::-1].cumsum(-1)[..., ::-1] - mass
    return bands, rows.transpose(1, 3, 0, 2), tails.transpose(2, 0, 1)


def _bands(profiles: np.ndarray) -> tuple[list[tuple[slice, slice, np.ndarray]], np.ndarray]:
    """Return the matrices that sum over columns, band by band, and what each adds up to.

    Args:
        profiles: shape (rank, tilt, col, Δu ≥ 0).

    Returns:
        for each band: columns seen, columns blurred, and a matrix of shape (tilt, seen, rank · blurred); and the sums
        of profiles over the columns that are in the image, shape (rank, tilt, col).
    """
    rank, tilts, columns, reach = profiles.shape
    bands, sums = [], np.empty((rank, tilts, columns))
    for first in range(0, columns, _BAND):
        blurred = slice(first, min(columns, first + _BAND))
        seen = slice(max(0, first - reach + 1), min(columns, blurred.stop + reach - 1))
        target = np.arange(blurred.start, blurred.stop)
        distance = np.abs(np.arange(seen.start, seen.stop)[:, None] - target)  # (seen, blurred)
        values = profiles[:, :, target, np.minimum(distance, reach - 1)] * (distance < reach)
        sums[:, :, blurred] = values.sum(axis=2)
        matrix = values.transpose(1, 2, 0, 3).reshape(tilts, distance.shape[0], -1)
        bands.append((seen, blurred, matrix))
    return bands, sums


def sample_offsets(widths: Tensor, law: str, generator: torch.Generator) -> Tensor:
    """Draw, for each of some rays, where it goes instead of through its pixel: the mean over many is the blur.

    Both components of an offset are normal (linear), or its length has the density r exp(-r / s) / s² and its direction
    is uniform (paper): a length is the sum of two exponential draws. Kernels are not sampled at pixels here, so that
    they keep their width however narrow they are.

    Args:
        widths: σ, pixels, shape (n,).
        law: name of the kernel, of `KERNELS`.
        generator: source of randomness.

    Returns:
        (Δy, Δu), pixels, shape (n, 2).
    """
    count, where = len(widths), generator.device
    if law == "linear":
        normal = torch.randn(count, 2, generator=generator, dtype=widths.dtype, device=where)
        return widths[:, None] * normal.to(widths.device)
    uniform = torch.rand(3, count, generator=generator, dtype=widths.dtype, device=where)
    first, second, turn = uniform.to(widths.device)
    length = -KERNELS[law].scale * widths * (torch.log1p(-first) + torch.log1p(-second))
    return length[:, None] * torch.stack([torch.sin(2 * math.pi * turn), torch.cos(2 * math.pi * turn)], dim=1)
