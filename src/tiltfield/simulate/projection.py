"""The simulator's own projector: exact footprints of square voxels at twice the sampling.

Nothing that reconstructs uses it, so that no method meets the very operator that made its data. The cell is painted a
few planes of z at a time, and each block is added to the line integrals of every tilt; no more than one block and
the line integrals are held in memory, and threads share them out by plane and by tilt, so that the sums are the same
whatever their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
from scipy.sparse import csc_matrix

from tiltfield.contrast import DEPTH
from tiltfield.simulate.cell import Cell, Painter
from tiltfield.simulate.sections import Sections
from tiltfield.threads import shared_by

Progress = Callable[[str, float], None]

BLOCK_VOXELS = 64_000_000


def footprint_matrix(z: np.ndarray, x: np.ndarray, n_u: int, theta: float) -> csc_matrix:
    """Return the matrix that projects one slice of unit voxels at one tilt, exactly.

    A voxel casts a trapezoid, the convolution of boxes of widths |cos θ| and |sin θ|, centred at u = x cos θ + z sin θ;
    each bin gets the part of it that it covers, that is, the line integral averaged over the bin.

    Args:
        z: centred z of the slice's rows, voxels, shape (n_z,).
        x: centred x of its columns, voxels, shape (n_x,).
        n_u: bins of unit width, centred.
        theta: tilt, radians.

    Returns:
        shape (n_u, n_z · n_x), float32, x running fastest.
    """
    centre = (z[:, None] * math.sin(theta) + x[None, :] * math.cos(theta)).ravel() + n_u / 2
    first = np.floor(centre - (abs(math.cos(theta)) + abs(math.sin(theta))) / 2).astype(np.int32)
    edges = first[:, None] + np.arange(4, dtype=np.int32)
    weights = np.diff(_trapezoid_cdf(edges - centre[:, None], theta), axis=1)
    bins = edges[:, :3]
    hit = (bins >= 0) & (bins < n_u) & (weights > 1e-9)
    starts = np.concatenate([[0], np.cumsum(hit.sum(axis=1))]).astype(np.int32)
    return csc_matrix((weights[hit].astype(np.float32), bins[hit], starts), shape=(n_u, len(centre)))


def _trapezoid_cdf(u: np.ndarray, theta: float) -> np.ndarray:
    """Return the share of a unit voxel's footprint that lies below u; its centre is at 0."""
    wide, narrow = sorted((abs(math.cos(theta)), abs(math.sin(theta))), reverse=True)
    narrow = max(narrow, 1e-6)

    def ramp(v: np.ndarray) -> np.ndarray:  # integral of the clipped ramp of the narrow box's CDF
        v = np.clip(v + narrow / 2, 0, None)
        return np.where(v < narrow, v * v / (2 * narrow), v - narrow / 2)

    return (ramp(u + wide / 2) - ramp(u - wide / 2)) / wide


def image_cell(
    cell: Cell, n: int, pad: int, angles: np.ndarray, mode: str, stores: tuple[Sections, Sections], report: Progress
) -> np.ndarray:
    """Paint a cell and return its images, unscaled: exp(-τ) (bf) or τ (haadf), averaged over 2 × 2 rays a pixel.

    Args:
        cell: the cell.
        n: voxels along an edge of the box.
        pad: voxels by which the cell goes on beyond the box along x on each side.
        angles: tilts, radians, shape (tilt,).
        mode: bf or haadf.
        stores: get the density (float32) and where the slab is (bool), both of shape (z, y, x).
        report: called as ``report("project", share done)``.

    Returns:
        float32, shape (tilt, row, col).
    """
    skip = max(0, math.floor(n * (0.5 - cell.slab.reach)) - 1)  # planes of z that hold nothing
    x = np.arange(-2 * pad, 2 * (n + pad))
    painter = cell.over(_fraction(np.arange(2 * n), n), _fraction(x, n))
    depth = np.zeros((len(angles), 2 * n, 2 * n), np.float32)
    blocks = list(_blocks(skip, n - skip, 8 * n * len(x)))
    with ThreadPoolExecutor(shared_by()) as pool:
        for b, (first, last) in enumerate(blocks):
            density = _paint_block(painter, n, pad, (first, last), stores, pool)
            flat = density.reshape(-1, 2 * n)
            z = np.arange(2 * first, 2 * last) + 0.5 - n

            def add(i: int, z: np.ndarray = z, flat: np.ndarray = flat) -> None:
                depth[i] += footprint_matrix(z, x + 0.5 - n, 2 * n, float(angles[i])) @ flat

            for i, _ in enumerate(pool.map(add, range(len(angles)))):
                report("project", (b + (i + 1) / len(angles)) / len(blocks))
        return _exposed(depth, DEPTH / n, mode, pool)


def _fraction(index: np.ndarray, n: int) -> np.ndarray:
    """Return the coordinate in cell edges of voxels at twice the sampling of n."""
    return (index + 0.5) / (2 * n) - 0.5


def _blocks(start: int, stop: int, voxels_per_plane: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_VOXELS // voxels_per_plane)
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _paint_block(
    painter: Painter, n: int, pad: int, planes: tuple[int, int], stores: Sequence[Sections], pool: Executor
) -> np.ndarray:
    """Return the density of some planes at twice the sampling, (z, x, y), and store it at the plain one."""
    first, last = planes
    density = np.empty((2 * (last - first), len(painter.x), 2 * n), np.float32)

    def paint(k: int) -> tuple[np.ndarray, np.ndarray]:
        fine = slice(2 * (k - first), 2 * (k - first) + 2)
        inside = painter.paint(_fraction(np.arange(2 * k, 2 * k + 2), n), density[fine])
        centre = slice(2 * pad, 2 * (pad + n))
        return halve(density[fine, centre]), _count(inside[:, centre]) >= 4

    for k, (truth, slab) in enumerate(pool.map(paint, range(first, last)), first):
        stores[0].write(k, truth.transpose(0, 2, 1))
        stores[1].write(k, slab.transpose(0, 2, 1))
    return density


def _exposed(depth: np.ndarray, step: float, mode: str, pool: Executor) -> np.ndarray:
    """Return the images of summed densities (tilt, u, y) at twice the sampling."""

    def expose(i: int) -> np.ndarray:
        depth[i] *= step
        return halve(np.exp(-depth[i]) if mode == "bf" else depth[i]).T

    return np.stack(list(pool.map(expose, range(len(depth)))))


def halve(fine: np.ndarray) -> np.ndarray:
    """Return the means of blocks of two along every axis.

    Args:
        fine: float32, two or three axes of even length.
    """
    pairs = fine[..., 0::2] + fine[..., 1::2]
    first, *others = (pairs[corner] for corner in _corners(fine.ndim - 1))
    total = first + others[0]
    for other in others[1:]:
        total += other
    return np.asarray(total / np.float32(2**fine.ndim))


def _count(fine: np.ndarray) -> np.ndarray:
    """Return how many of each block of 2 × 2 × 2 are true."""
    return np.asarray(sum(fine.view(np.uint8)[corner] for corner in _corners(3)))


def _corners(axes: int) -> Iterator[tuple[slice, ...]]:
    """Return what picks each corner of blocks of two along the leading axes."""
    return itertools.product(*((slice(0, None, 2), slice(1, None, 2)) for _ in range(axes)))
