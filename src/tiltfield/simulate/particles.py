"""What lies in a synthetic cell: shells and virions. Lengths are in edges of the cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

HULL, GAP, CORE = 0.86, 0.68, 0.5  # vertices of a virion's surfaces over its radius
SPIKE_COSINE = 0.965


class Particle(Protocol):
    """Something that lies in the slab inside a ball."""

    @property
    def centre(self) -> np.ndarray:
        """Centre (z, y, x), cell edges."""

    @property
    def radius(self) -> float:
        """Radius of the ball, cell edges."""

    def density(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the density at offsets from the centre, NaN outside the particle."""


@dataclass(frozen=True, eq=False)
class Shell:
    """An ellipsoid with a membrane around a lumen.

    Attributes:
        centre: (z, y, x), cell edges.
        radius: largest semi-axis, cell edges.
        axes: rows are the principal axes (z, y, x) divided by their semi-axes: ``|axes @ offset| = 1`` is the surface.
        wall: thickness of the membrane over the radius.
        membrane: density of the membrane.
        lumen: density within.
    """

    centre: np.ndarray
    radius: float
    axes: np.ndarray
    wall: float
    membrane: float
    lumen: float

    def density(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the density at offsets from the centre (cell edges, broadcastable), NaN outside."""
        square = sum((a[0] * z + a[1] * y + a[2] * x) ** 2 for a in self.axes)
        density = np.where(square <= (1 - self.wall) ** 2, np.float32(self.lumen), np.float32(self.membrane))
        return np.where(square <= 1, density, np.float32(np.nan))


@dataclass(frozen=True, eq=False)
class Virion:
    """A small particle with a faceted icosahedral shell, spikes on its vertices and faces, and a core.

    Attributes:
        centre: (z, y, x), cell edges.
        radius: radius including the spikes, cell edges.
        turn: rotation matrix.
        shell: density of shell and spikes.
        core: density of the core.
        gap: density between shell and core.
    """

    centre: np.ndarray
    radius: float
    turn: np.ndarray
    shell: float
    core: float
    gap: float

    def density(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the density at offsets from the centre (cell edges, broadcastable), NaN outside."""
        local = [(t[0] * z + t[1] * y + t[2] * x) / np.float32(self.radius) for t in self.turn]
        distance = np.sqrt(sum(c * c for c in local))
        facet = FACET / np.maximum(largest_cosine(local, distance, FACES), FACET)  # surface with vertices at 1
        spikes = largest_cosine(local, distance, SPIKES) > SPIKE_COSINE
        density = np.full(distance.shape, np.nan, np.float32)
        density[(distance <= HULL * facet) | (spikes & (distance <= 1))] = self.shell
        density[distance <= GAP * facet] = self.gap
        density[distance <= CORE * facet] = self.core
        return density


def _icosahedron() -> tuple[np.ndarray, np.ndarray]:
    """Return the unit directions of the 12 vertices and the 20 face centres of an icosahedron."""
    golden = (1 + math.sqrt(5)) / 2
    signs = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    vertices = [np.roll((0.0, a, b * golden), k) for k in range(3) for a, b in signs]
    cube = [(float(a), float(b), float(c)) for a, b in signs for c in (-1, 1)]
    faces = cube + [tuple(np.roll((0.0, a * golden, b / golden), k)) for k in range(3) for a, b in signs]
    return np.array(vertices) / np.linalg.norm(vertices[0]), np.array(faces) / math.sqrt(3)


VERTICES, FACES = _icosahedron()
FACET = float((FACES @ VERTICES[0]).max())  # distance of the facets when the vertices are at 1
SPIKES = np.concatenate([FACES, VERTICES])


def largest_cosine(local: Sequence[np.ndarray], distance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return, per point, the largest cosine between it and any of the directions.

    Args:
        local: the points' coordinates (z, y, x), arrays of one shape.
        distance: of the points from the origin, the same shape.
        directions: unit vectors, shape (direction, 3).
    """
    best = np.full(distance.shape, -1.0, np.float32)
    for d in directions.astype(np.float32):
        np.maximum(best, d[0] * local[0] + d[1] * local[1] + d[2] * local[2], out=best)
    return best / np.maximum(distance, np.float32(1e-6))
