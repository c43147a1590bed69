"""Line integrals of a density: the slice projector with its exact adjoint, and the rays that it is checked against.

All rays of a single-axis, parallel-beam series stay in planes of constant y. So one slice is evaluated once on a (z, x)
grid and projected at every tilt by a sparse linear map A. An entry of A is the area that a square pixel of the slice
shares with the strip seen by a detector column: the exact line integral, averaged over the column's width, of a density
that is constant on pixels. Lengths are in pixels.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tiltfield import kernels
from tiltfield.geometry import SliceGeometry, centred, detector_coordinate
from tiltfield.kernels import cpu_projector

if TYPE_CHECKING:  # Triton, which it imports, is not everywhere
    from tiltfield.kernels import gpu_projector

STORED_LIMIT = 256 * 256
"""Without kernels, slices up to this many samples keep A in memory; larger ones recompute its entries tilt by tilt."""

_TAPS = 3  # a unit square turned by any angle is at most sqrt(2) wide and so touches at most three unit columns
_THINNEST = 1e-6  # below this sine (or cosine) the footprint is a box to float32 precision


def keeps_matrix(samples: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> bool:
    """Return whether a projector keeps its matrix if it is not told: no kernel does without, and slices are not large.

    Args:
        samples: of a slice.
        device: where slices and sinograms live.
        dtype: their type.
    """
    device = torch.device(device)
    without = kernels.usable(device, dtype) or cpu_projector.usable(device, dtype)
    return not without and samples <= STORED_LIMIT


def strip_weights(x: Tensor, z: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Return the columns that unit squares project to, and the share of each square's area in them.

    The footprint of a unit square at tilt θ is the convolution of boxes of widths |cos θ| and |sin θ|. With
    r(t) = max(t, 0)² / 2 its running integral is [r(t + p) - r(t + q) - r(t - q) + r(t - p)] / |cos θ sin θ|, with
    p, q = (|cos θ| ± |sin θ|) / 2; a column's weight is the difference over its two edges.

    Args:
        x: centred x of the squares, pixels, float64, any shape.
        z: centred z, same shape.
        angle: tilt, radians.

    Returns:
        left-most column (float64, centred at half-integers or integers as the detector's, relative to column
        coordinate 0) of shape (...), and weights of shape (3, ...), summing to 1 over the first axis.
    """
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    p, q = (cos + sin) / 2, (cos - sin) / 2
    u = detector_coordinate(x, z, torch.tensor(angle, dtype=x.dtype, device=x.device))
    first = torch.floor(u - p + 0.5)

    def running(t: Tensor) -> Tensor:
        if min(cos, sin) < _THINNEST:
            return (t + 0.5).clamp(0, 1)
        t = t.clamp(-p, p)  # beyond, the squares would cancel to no more than their rounding
        rising = (t + p).square() - (t + q).clamp_min(0).square()
        return (rising - (t - q).clamp_min(0).square()) / (2 * cos * sin)

    edges = torch.stack([running(first + k - 0.5 - u) for k in range(_TAPS + 1)])
    return first, edges.diff(dim=0)


class SliceProjector(torch.nn.Module):
    """The linear map A from slices to their line integrals at every tilt, differentiable, with its exact adjoint.

    Attributes:
        geometry: sizes and tilts.
    """

    def __init__(
        self,
        geometry: SliceGeometry,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stored: bool | None = None,
    ) -> None:
        """Prepare the map.

        Args:
            geometry: sizes and tilts.
            dtype: type of slices and sinograms.
            device: where they live.
            stored: keep the sparse matrix in memory; by default if a slice has at most `STORED_LIMIT` samples, unless
                kernels do without.
        """
        super().__init__()
        self.geometry = geometry
        self.dtype, self.device = dtype, torch.device(device)
        self._strips = _strips(geometry, self.device, dtype) if stored is None else None
        if stored is None:
            stored = keeps_matrix(geometry.n_z * geometry.n_x, self.device, dtype)
        self._matrices = _sparse_pair(self) if stored else None

    def forward(self, slices: Tensor) -> Tensor:
        """Project slices, p = A ρ.

        Args:
            slices: density per pixel length, shape (batch, n_z, n_x).

        Returns:
            line integrals, shape (batch, n_tilts, n_u).
        """
        return _Project.apply(slices, self)

    def adjoint(self, sinograms: Tensor) -> Tensor:
        """Back-project, Aᵀ p.

        Args:
            sinograms: shape (batch, n_tilts, n_u).

        Returns:
            shape (batch, n_z, n_x).
        """
        return _BackProject.apply(sinograms, self)

    def _apply_map(self, slices: Tensor) -> Tensor:
        if self._strips is not None:
            return self._strips.project(slices)
        g = self.geometry
        flat = slices.reshape(len(slices), g.n_z * g.n_x)
        if self._matrices is not None:
            return (self._matrices[0] @ flat.T).T.reshape(len(slices), g.n_tilts, g.n_u)
        columns = flat.T.contiguous()  # (n_z * n_x, batch)
        out = torch.zeros(g.n_tilts, g.n_u, len(slices), dtype=slices.dtype, device=slices.device)
        for tilt in range(g.n_tilts):
            for target, inside, weight in self._entries(tilt):
                out[tilt].index_add_(0, target[inside], weight[inside, None] * columns[inside])
        return out.permute(2, 0, 1)

    def _apply_adjoint(self, sinograms: Tensor) -> Tensor:
        if self._strips is not None:
            return self._strips.back_project(sinograms)
        g = self.geometry
        if self._matrices is not None:
            flat = sinograms.reshape(len(sinograms), g.n_tilts * g.n_u)
            return (self._matrices[1] @ flat.T).T.reshape(len(sinograms), g.n_z, g.n_x)
        columns = sinograms.permute(1, 2, 0).contiguous()  # (n_tilts, n_u, batch)
        out = torch.zeros(g.n_z * g.n_x, len(sinograms), dtype=sinograms.dtype, device=sinograms.device)
        for tilt in range(g.n_tilts):
            for target, inside, weight in self._entries(tilt):
                out += (weight * inside)[:, None] * columns[tilt].index_select(0, target)
        return out.T.reshape(len(sinograms), g.n_z, g.n_x)

    def _entries(self, tilt: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return, for each tap of one tilt: column (clamped), whether on the detector, weight; each (n_z * n_x,)."""
        g = self.geometry
        z, x = torch.meshgrid(
            centred(g.n_z, dtype=torch.float64, device=self.device),
            centred(g.n_x, dtype=torch.float64, device=self.device),
            indexing="ij",
        )
        # Columns sit at integers + half: shift so that strip_weights' integer columns are the detector's.
        half = (g.n_u - 1) / 2 % 1
        shift = half / math.cos(g.angles[tilt])
        first, weights = strip_weights(x.flatten() - shift, z.flatten(), g.angles[tilt])
        column = (first + half + (g.n_u - 1) / 2).round().long()
        taps = []
        for k in range(_TAPS):
            inside = (column + k >= 0) & (column + k < g.n_u) & (weights[k] > 0)
            taps.append(((column + k).clamp(0, g.n_u - 1), inside, weights[k].to(self.dtype)))
        return taps


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slices: Tensor, projector: SliceProjector) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.projector = projector
        return projector._apply_map(slices)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return _BackProject.apply(gradient, ctx.projector), None


class _BackProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sinograms: Tensor, projector: SliceProjector) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.projector = projector
        return projector._apply_adjoint(sinograms)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return _Project.apply(gradient, ctx.projector), None


def _strips(
    geometry: SliceGeometry, device: torch.device, dtype: torch.dtype
) -> gpu_projector.Strips | cpu_projector.Strips | None:
    """Return the kernels' projector, if there are any to be used."""
    if kernels.usable(device, dtype):
        from tiltfield.kernels import gpu_projector

        return gpu_projector.Strips(geometry, device)
    return cpu_projector.Strips(geometry) if cpu_projector.usable(device, dtype) else None


def _sparse_pair(projector: SliceProjector) -> tuple[Tensor, Tensor]:
    """Return A and Aᵀ in compressed rows."""
    g = projector.geometry
    rows, cols, values = [], [], []
    pixel = torch.arange(g.n_z * g.n_x, device=projector.device)
    for tilt in range(g.n_tilts):
        for target, inside, weight in projector._entries(tilt):
            rows.append(tilt * g.n_u + target[inside])
            cols.append(pixel[inside])
            values.append(weight[inside])
    row, col, value = torch.cat(rows), torch.cat(cols), torch.cat(values)
    shape = (g.n_tilts * g.n_u, g.n_z * g.n_x)
    return _csr(row, col, value, shape), _csr(col, row, value, (shape[1], shape[0]))


def _csr(row: Tensor, col: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(row * shape[1] + col)
    start = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    start[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(start.int(), col[order].int(), value[order], size=shape, check_invariants=False)


@dataclass(frozen=True, eq=False)
class Rays:
    """Lines of sight x = u cos θ - s sin θ, z = u sin θ + s cos θ, pixels.

    Attributes:
        y: centred row, shape (n,).
        u: centred column, shape (n,).
        angle: tilt, radians, shape (n,).
    """

    y: Tensor
    u: Tensor
    angle: Tensor

    def split(self, n: int) -> list[Rays]:
        """Return groups of up to n rays."""
        return [Rays(*part) for part in zip(self.y.split(n), self.u.split(n), self.angle.split(n), strict=True)]

    def span(self, n_z: int, n_x: int) -> tuple[Tensor, Tensor]:
        """Return where each ray enters and leaves a box.

        Args:
            n_z: extent of the box along z, pixels.
            n_x: extent along x.

        Returns:
            near and far s, shape (n,); equal if the ray misses the box.
        """
        cos, sin = torch.cos(self.angle), torch.sin(self.angle)
        near, far = torch.full_like(self.u, -math.inf), torch.full_like(self.u, math.inf)
        for half, start, slope in ((n_x / 2, self.u * cos, -sin), (n_z / 2, self.u * sin, cos)):
            slope = torch.where(slope.abs() < 1e-9, 1e-9, slope)
            ends = torch.stack([(-half - start) / slope, (half - start) / slope])
            near, far = torch.maximum(near, ends.amin(0)), torch.minimum(far, ends.amax(0))
        return near, torch.maximum(near, far)

    def points(self, s: Tensor) -> Tensor:
        """Return the points (z, y, x) at distances s along the rays, shape (n, samples) to (n, samples, 3)."""
        cos, sin, u = torch.cos(self.angle)[:, None], torch.sin(self.angle)[:, None], self.u[:, None]
        return torch.stack([u * sin + s * cos, self.y[:, None].expand_as(s), u * cos - s * sin], dim=-1)
