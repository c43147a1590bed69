"""The slice projector on a GPU, without a matrix: p = A ρ and Aᵀ p, entries as :mod:`tiltfield.projector` has them.

Both gather, so that no two programs add to one number and results repeat to the bit. A program of the map takes some
detector columns at one tilt and follows their strips through the slice line by line: along rows where the tilt is below
45°, else along columns, of a slice turned to have them as rows. A strip then meets at most four pixels of a line. A
program of the adjoint takes a tile of pixels through all tilts; a pixel meets at most three columns.

Weights are made anew each time, from the footprint's integral S(a) from its centre to a ≥ 0. With w ≥ n the larger and
the smaller of |cos θ|, |sin θ|, q = (w - n)/2 half the plateau and p = (w + n)/2 half the footprint ::

    S(a) = [min(a, q) + n/2 · (1 - r²)] / w,    r = clamp((p - a) / n, 0, 1)

which loses no digits as n goes to 0. Positions are whole numbers, see :mod:`tiltfield.kernels.strips`. Results differ
from those in float64 by about 1e-7 of their norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tiltfield.geometry import SliceGeometry
from tiltfield.kernels import strips

LINES, COLUMNS = 8, 32  # tile of the map: lines at a time, detector columns
ROWS, WIDTH = 8, 32  # tile of the adjoint, pixels
MOST = 4  # slices a program takes at most: 16 bytes of each pixel
WARPS = 8
_THINNEST = 1e-12


@dataclass(frozen=True, eq=False)
class _Group:
    """Tilts followed along one axis.

    Attributes:
        turned: whether lines are columns of the slice.
        where: tilt, start, step of a column, step of a line, shape (n, 4), int64.
    """

    turned: bool
    where: Tensor


class Strips:
    """The map and its adjoint for one geometry."""

    def __init__(self, geometry: SliceGeometry, device: torch.device) -> None:
        """Prepare the tables of the tilts.

        Args:
            geometry: sizes and tilts.
            device: where slices and sinograms live.
        """
        self.geometry = geometry
        kinds = {turned: [line for line in strips.lines(geometry) if line[0] == turned] for turned in (False, True)}
        self._groups = [
            _Group(turned, torch.tensor([line[1:] for line in lines], dtype=torch.int64, device=device))
            for turned, lines in kinds.items()
            if lines
        ]
        self._pixels = torch.tensor(strips.pixels(geometry), dtype=torch.int64, device=device)
        self._shapes = torch.tensor([_shape(a) for a in geometry.angles], dtype=torch.float32, device=device)

    def project(self, slices: Tensor) -> Tensor:
        """Return A ρ.

        Args:
            slices: density per pixel length, shape (batch, n_z, n_x), float32.

        Returns:
            line integrals, shape (batch, n_tilts, n_u).
        """
        g, batch, together = self.geometry, len(slices), _together(slices)
        sinograms = slices.new_empty(batch, g.n_tilts, g.n_u)
        for group in self._groups:
            image = _interleaved(slices.mT if group.turned else slices, together)
            grid = (triton.cdiv(g.n_u, COLUMNS), len(group.where), len(image))
            _project[grid](
                image, sinograms, group.where, self._shapes, batch, image.shape[1], image.shape[2], g.n_tilts, g.n_u,
                SLICES=together, LINES=LINES, COLUMNS=COLUMNS, num_warps=WARPS, enable_fp_fusion=True,
            )  # fmt: skip
        return sinograms

    def back_project(self, sinograms: Tensor) -> Tensor:
        """Return Aᵀ p.

        Args:
            sinograms: shape (batch, n_tilts, n_u), float32.

        Returns:
            shape (batch, n_z, n_x).
        """
        g, batch, together = self.geometry, len(sinograms), _together(sinograms)
        slices = sinograms.new_empty(batch, g.n_z, g.n_x)
        source = _interleaved(sinograms, together)
        grid = (triton.cdiv(g.n_x, WIDTH), triton.cdiv(g.n_z, ROWS), len(source))
        _back_project[grid](
            source, slices, self._pixels, self._shapes, batch, g.n_z, g.n_x, g.n_tilts, g.n_u,
            SLICES=together, ROWS=ROWS, WIDTH=WIDTH, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
        return slices


def _together(stack: Tensor) -> int:
    """Return how many members of a stack a program takes: they share the weights."""
    return min(MOST, triton.next_power_of_2(max(1, len(stack))))


def _interleaved(stack: Tensor, together: int) -> Tensor:
    """Return a stack (n, a, b) as (n / together, a, b, together), so that a thread loads what it needs at once."""
    missing = -len(stack) % together
    filled = torch.nn.functional.pad(stack, (0, 0, 0, 0, 0, missing)) if missing else stack
    return filled.unflatten(0, (len(filled) // together, together)).permute(0, 2, 3, 1).contiguous()


def _shape(angle: float) -> tuple[float, ...]:
    """Return p, q, 1/w, n/2, 1/n and w of a footprint."""
    narrow, wide = strips.extents(angle)
    return (wide + narrow) / 2, (wide - narrow) / 2, 1 / wide, narrow / 2, 1 / max(narrow, _THINNEST), wide


@triton.jit
def _split(position: tl.tensor) -> tl.tensor:
    """Return what stands before the point, and what behind it to 24 digits, as many as float32 holds."""
    behind = ((position >> 8).to(tl.int32) & 0xFFFFFF).to(tl.float32) * (1.0 / (1 << 24))
    return (position >> 32).to(tl.int32), behind


@triton.jit
def _footprint(shape: tl.tensor) -> tl.tensor:
    """Return p, q, 1/w, n/2 and 1/n of a footprint."""
    return tl.load(shape), tl.load(shape + 1), tl.load(shape + 2), tl.load(shape + 3), tl.load(shape + 4)


@triton.jit
def _integral(
    t: tl.tensor, p: tl.tensor, q: tl.tensor, per_wide: tl.tensor, half: tl.tensor, per_narrow: tl.tensor
) -> tl.tensor:
    """Return the footprint's integral from its centre to t."""
    a = tl.abs(t)
    r = tl.minimum(tl.maximum((p - a) * per_narrow, 0.0), 1.0)
    area = (tl.minimum(a, q) + half * (1.0 - r * r)) * per_wide
    return tl.where(t < 0, -area, area)


@triton.jit(do_not_specialize=["batch", "n_lines", "n_along", "n_tilts", "n_u"])
def _project(
    image: tl.tensor,
    sinograms: tl.tensor,
    where: tl.tensor,
    shapes: tl.tensor,
    batch: tl.tensor,
    n_lines: tl.tensor,
    n_along: tl.tensor,
    n_tilts: tl.tensor,
    n_u: tl.tensor,
    SLICES: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = where + 4 * tl.program_id(1)
    tilt = tl.load(row).to(tl.int32)
    p, q, per_wide, half, per_narrow = _footprint(shapes + 6 * tilt)
    wide = tl.load(shapes + 6 * tilt + 5)
    start = tl.load(row + 1) + column.to(tl.int64) * tl.load(row + 2)
    slope = tl.load(row + 3)
    within = tl.arange(0, SLICES)
    source = image + tl.program_id(2).to(tl.int64) * n_lines * n_along * SLICES + within[None, None, :]
    total = tl.zeros((LINES, COLUMNS, SLICES), tl.float32)
    for first in range(0, n_lines, LINES):
        line = first + tl.arange(0, LINES)
        pixel, part = _split(start[None, :] + line.to(tl.int64)[:, None] * slope)
        offset = line[:, None] * n_along
        for tap in tl.static_range(-1, 3):
            there = pixel + tap
            u = (tap - part) * wide  # of the pixel, from the strip's middle
            weight = _integral(u + 0.5, p, q, per_wide, half, per_narrow)
            weight -= _integral(u - 0.5, p, q, per_wide, half, per_narrow)
            inside = (line < n_lines)[:, None] & (there >= 0) & (there < n_along)
            at = (offset + there)[:, :, None] * SLICES
            total += weight[:, :, None] * tl.load(source + at, mask=inside[:, :, None], other=0.0)
    member = tl.program_id(2) * SLICES + within[None, :]
    target = sinograms + (member.to(tl.int64) * n_tilts + tilt) * n_u + column[:, None]
    tl.store(target, tl.sum(total, axis=0), mask=(member < batch) & (column < n_u)[:, None])


@triton.jit(do_not_specialize=["batch", "n_z", "n_x", "n_tilts", "n_u"])
def _back_project(
    sinograms: tl.tensor,
    slices: tl.tensor,
    where: tl.tensor,
    shapes: tl.tensor,
    batch: tl.tensor,
    n_z: tl.tensor,
    n_x: tl.tensor,
    n_tilts: tl.tensor,
    n_u: tl.tensor,
    SLICES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    x = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    z = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    within = tl.arange(0, SLICES)
    long_x, long_z = x.to(tl.int64)[None, :], z.to(tl.int64)[:, None]
    source = sinograms + tl.program_id(2).to(tl.int64) * n_tilts * n_u * SLICES + within[None, None, :]
    total = tl.zeros((ROWS, WIDTH, SLICES), tl.float32)
    for tilt in range(n_tilts):
        row = where + 3 * tilt
        p, q, per_wide, half, per_narrow = _footprint(shapes + 6 * tilt)
        column, part = _split(tl.load(row) + long_x * tl.load(row + 1) + long_z * tl.load(row + 2))
        edge = -p - part  # left edge of the first column, from the pixel's middle: before the footprint
        inner = _integral(edge + 1.0, p, q, per_wide, half, per_narrow)
        outer = _integral(edge + 2.0, p, q, per_wide, half, per_narrow)
        for tap in tl.static_range(3):
            there = column + tap
            if tap == 0:
                weight = inner + 0.5
            elif tap == 1:
                weight = outer - inner
            else:
                weight = 0.5 - outer
            inside = (there >= 0) & (there < n_u)
            at = (tilt * n_u + there)[:, :, None] * SLICES
            total += weight[:, :, None] * tl.load(source + at, mask=inside[:, :, None], other=0.0)
    member = tl.program_id(2) * SLICES + within[None, None, :]
    target = slices + (member.to(tl.int64) * n_z + z[:, None, None]) * n_x + x[None, :, None]
    tl.store(target, total, mask=(member < batch) & (z < n_z)[:, None, None] & (x < n_x)[None, :, None])
