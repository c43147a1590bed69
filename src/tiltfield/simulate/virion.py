"""A virion as a small map of density that is painted at any size, place and turn; and the built-in one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tiltfield.simulate.particles import FACES, FACET, SPIKES, largest_cosine

# Densities of a virion's parts, where the medium has about 0.13 and nothing more than 1.
PROTEIN, LEAFLET, TAILS, FLUID, CORE = 0.95, 0.7, 0.35, 0.2, 0.6
# The built-in virion: outer radius of each layer, measured at the vertices, over the radius of the spikes' tips.
LAYERS = ((0.88, PROTEIN), (0.76, FLUID), (0.72, LEAFLET), (0.67, TAILS), (0.61, LEAFLET), (0.56, FLUID), (0.48, CORE))
SPIKE_RADIUS = 0.09
HALF_GRID = 64
MARGIN = 2  # empty voxels between the built-in virion and the faces of its map


@dataclass(frozen=True, eq=False)
class VirionMap:
    """A virion on a cubic grid, centred.

    Attributes:
        channels: density where there is something, else 0; and 1 where there is something, else 0. float32, shape
            (2, n, n, n), axes (channel, z, y, x).
        radius: of the ball that holds it, voxels.
        radius_nm: the same in nm, or None if it has no size of its own.
    """

    channels: np.ndarray
    radius: float
    radius_nm: float | None = None


@dataclass(frozen=True, eq=False)
class MapVirion:
    """A copy of a virion.

    Attributes:
        centre: (z, y, x), cell edges.
        radius: of the ball that holds it, cell edges.
        turn: rotation matrix, float32; its rows are the map's axes (z, y, x).
        map: what it is a copy of.
    """

    centre: np.ndarray
    radius: float
    turn: np.ndarray
    map: VirionMap

    def density(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the density at offsets from the centre (cell edges, broadcastable), NaN outside.

        Trilinear between the voxels of the map. A point is outside where less than half of what surrounds it is solid;
        elsewhere only the solid part counts, so that surfaces do not fade.
        """
        density = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), np.nan, np.float32)
        near = z * z + y * y + x * x <= np.float32(self.radius) ** 2
        points = np.stack([np.broadcast_to(c, near.shape)[near] for c in (z, y, x)])
        if points.shape[1]:
            scale = np.float32(self.map.radius / self.radius)
            # each output is one dot product written out: no library decides in which order it is summed
            local = [scale * (t[0] * points[0] + t[1] * points[1] + t[2] * points[2]) for t in self.turn]
            amount, solid = _interpolated(self.map.channels, local)
            density[near] = np.where(solid >= 0.5, amount / np.maximum(solid, np.float32(0.5)), np.float32(np.nan))
        return density


def _interpolated(channels: np.ndarray, local: list[np.ndarray]) -> np.ndarray:
    """Return the channels at points (z, y, x) in voxels from the centre; 0 beyond the grid. Shape (channel, point)."""
    import torch

    half = np.float32((channels.shape[-1] - 1) / 2)
    grid = torch.from_numpy(np.stack([c / half for c in local[::-1]], axis=-1))
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(channels)[None], grid[None, None, None], padding_mode="zeros", align_corners=True
    )
    return np.asarray(values[0, :, 0, 0].numpy())


@functools.cache
def built_in_virion() -> VirionMap:
    """Return the parametric virion: a faceted icosahedral shell with spikes, a membrane of two leaflets, and a core.

    One octant is drawn at twice the sampling and mirrored: the icosahedron has the symmetry planes of the grid.
    """
    radius = HALF_GRID - MARGIN
    along = ((np.arange(2 * HALF_GRID) + 0.5) / 2 / radius).astype(np.float32)
    local = list(np.broadcast_arrays(*np.ix_(along, along, along)))
    distance = np.sqrt(sum(c * c for c in local))
    facet = FACET / np.maximum(largest_cosine(local, distance, FACES), FACET)
    cosine = np.minimum(largest_cosine(local, distance, SPIKES), 1)
    spikes = (distance * np.sqrt(1 - cosine**2) < SPIKE_RADIUS) & (distance <= 1)
    density = np.where(spikes, np.float32(PROTEIN), np.float32(0))
    for reach, value in LAYERS:
        density[distance <= reach * facet] = value
    octant = np.stack([_binned(density), _binned((density > 0).astype(np.float32))])
    whole = functools.reduce(lambda a, axis: np.concatenate([np.flip(a, axis), a], axis), (1, 2, 3), octant)
    return VirionMap(np.ascontiguousarray(whole), float(radius))


def _binned(fine: np.ndarray) -> np.ndarray:
    """Return the means of blocks of 2 × 2 × 2."""
    n = len(fine) // 2
    return np.asarray(fine.reshape(n, 2, n, 2, n, 2).mean(axis=(1, 3, 5)))
