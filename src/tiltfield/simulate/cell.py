"""A synthetic cell: a slab of medium that holds ellipsoidal shells and virions.

Everything is parametric and measured in edges of the cubic cell, with the origin at its centre, so that one seed gives
the same specimen at every sampling. Voxels are painted on request, a few rows of y at a time. The recipe is that of
Kniesel et al., CVPR 2022, supplement, with a parametric virion in place of the measured one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

CELL_STREAM = 1
TILE_STREAM = 2
THICKNESS = (0.48, 0.52)
MEDIUM = (0.12, 0.15)
MEMBRANE = (0.65, 0.98)
LUMEN = (0.1, 0.5)
WALL = (0.08, 0.15)
SEMI_AXES = (0.7, 1.0)
ATTEMPTS = 300
NEIGHBOURS = 3  # to which a particle is placed as close as the attempts allow
HULL, GAP, CORE = 0.86, 0.68, 0.5  # vertices of a virion's surfaces over its radius
SPIKE_COSINE = 0.965
# (what, how many to try in one cell, smallest and largest radius in cell edges), large ones first
POPULATION = (
    ("shell", 9, 0.15, 0.22),
    ("shell", 14, 0.10, 0.16),
    ("virion", 14, 0.06, 0.09),
    ("shell", 12, 0.06, 0.10),
)
LARGEST = max(largest for *_, largest in POPULATION)


@dataclass(frozen=True, eq=False)
class Slab:
    """A layer of constant density between two gently undulating surfaces.

    Attributes:
        medium: density of the medium, 0 to 1.
        thickness: mean distance of the surfaces, cell edges.
        waves: shape (surface, wave, 4): amplitude (cell edges), wave numbers along x and y (radians per edge), phase.
    """

    medium: float
    thickness: float
    waves: np.ndarray

    @property
    def roughness(self) -> float:
        """Largest possible departure of a surface from its mean, cell edges."""
        return float(self.waves[:, :, 0].sum(axis=1).max())

    @property
    def reach(self) -> float:
        """Distance from the middle plane beyond which there is nothing, cell edges."""
        return self.thickness / 2 + self.roughness

    def surfaces(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z of the lower and the upper surface.

        Args:
            x: coordinates in cell edges.
            y: coordinates in cell edges, broadcastable with `x`.

        Returns:
            lower and upper z, cell edges.
        """
        bumps = [sum(a * np.sin(p * x + q * y + phase) for a, p, q, phase in surface) for surface in self.waves]
        return -self.thickness / 2 + bumps[0], self.thickness / 2 + bumps[1]

    def mask(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return where the points are inside the slab (coordinates in cell edges, broadcastable)."""
        low, high = self.surfaces(x, y)
        return (z >= low) & (z <= high)


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
        facet = FACET / np.maximum(_largest_cosine(local, distance, FACES), FACET)  # surface with vertices at 1
        spikes = _largest_cosine(local, distance, SPIKES) > SPIKE_COSINE
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


def _largest_cosine(local: Sequence[np.ndarray], distance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return, per point, the largest cosine between it and any of the unit directions."""
    best = np.full(distance.shape, -1.0, np.float32)
    for d in directions.astype(np.float32):
        np.maximum(best, d[0] * local[0] + d[1] * local[1] + d[2] * local[2], out=best)
    return best / np.maximum(distance, np.float32(1e-6))


@dataclass(frozen=True, eq=False)
class Cell:
    """A slab and what it holds.

    Attributes:
        slab: the layer of medium.
        particles: shells and virions, none overlapping another.
    """

    slab: Slab
    particles: tuple[Particle, ...]

    def paint(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return density and slab mask on a regular grid.

        Args:
            z: increasing coordinates, cell edges, shape (n_z,).
            y: as `z`, shape (n_y,).
            x: as `z`, shape (n_x,).

        Returns:
            density, float32, and inside, bool, both of shape (n_z, n_x, n_y): y runs fastest.
        """
        inside = self.slab.mask(z[:, None, None], y[None, None, :], x[None, :, None])
        density = np.where(inside, np.float32(self.slab.medium), np.float32(0))
        for particle in self.particles:
            _paint_particle(density, particle, (z, x, y))
        return density, inside


def _paint_particle(density: np.ndarray, particle: Particle, axes: tuple[np.ndarray, ...]) -> None:
    """Paint one particle, in its bounding box only, into density (z, x, y)."""
    centre = particle.centre[[0, 2, 1]]
    window = tuple(
        slice(*np.searchsorted(a, (c - particle.radius, c + particle.radius)))
        for a, c in zip(axes, centre, strict=True)
    )
    if any(w.start >= w.stop for w in window):
        return
    z, x, y = np.ix_(*((a[w] - c).astype(np.float32) for a, w, c in zip(axes, window, centre, strict=True)))
    values = particle.density(z, y, x)
    np.copyto(density[window], values, where=~np.isnan(values))


def make_cell(seed: int, half_width: float = 0.5) -> Cell:
    """Draw a random cell.

    Args:
        seed: of the cell; the part within ±0.5 does not depend on `half_width`.
        half_width: how far the specimen reaches along x from the middle, cell edges, ≥ 0.5.

    Returns:
        the cell; its particles may be cut by the faces of the box in x and y, never by the surfaces of the slab.
    """
    rng = np.random.default_rng([seed, CELL_STREAM])
    slab = _draw_slab(rng)
    particles: list[Particle] = []
    _populate(rng, slab, particles, tile=0)
    for k in range(1, math.ceil(half_width - 0.5) + 1):
        for tile in (k, -k):
            _populate(np.random.default_rng([seed, TILE_STREAM, k, int(tile > 0)]), slab, particles, tile)
    return Cell(slab, tuple(particles))


def _draw_slab(rng: np.random.Generator) -> Slab:
    waves = np.empty((2, 3, 4))
    waves[..., 0] = rng.uniform(0.002, 0.006, (2, 3))
    waves[..., 1:3] = rng.uniform(-10, 10, (2, 3, 2))
    waves[..., 3] = rng.uniform(0, 2 * np.pi, (2, 3))
    return Slab(rng.uniform(*MEDIUM), rng.uniform(*THICKNESS), waves)


def _populate(rng: np.random.Generator, slab: Slab, particles: list[Particle], tile: int) -> None:
    """Add a tile's particles to the list, large ones first; those of outer tiles stay out of the central box."""
    for kind, count, smallest, largest in POPULATION:
        for radius in np.sort(rng.uniform(smallest, largest, count))[::-1]:
            centre = _free_place(rng, slab, particles, tile, float(radius))
            if centre is not None:
                particles.append(_draw_particle(rng, kind, centre, float(radius)))


def _free_place(
    rng: np.random.Generator, slab: Slab, particles: list[Particle], tile: int, radius: float
) -> np.ndarray | None:
    """Return a centre (z, y, x) where a ball of this radius fits, snug to its neighbours, or None if none was found."""
    room = slab.thickness / 2 - slab.roughness - radius
    trial = rng.uniform((-room, -0.5, tile - 0.5), (room, 0.5, tile + 0.5), (ATTEMPTS, 3))
    free = np.ones(ATTEMPTS, bool) if tile == 0 else np.abs(trial[:, 2]) - radius >= 0.5
    looseness = np.zeros(ATTEMPTS)
    near = [p for p in particles if abs(p.centre[2] - tile) < 0.5 + 2 * LARGEST]
    if near:
        gaps = _gaps(trial, near) - radius
        free &= gaps.min(axis=1) > 0
        looseness = np.sort(gaps, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    return trial[np.argmin(np.where(free, looseness, np.inf))] if free.any() else None


def _gaps(points: np.ndarray, particles: list[Particle]) -> np.ndarray:
    """Return the distance of every point from the surface of every particle's ball, shape (point, particle)."""
    centres = np.array([p.centre for p in particles])
    return cdist(points, centres) - np.array([p.radius for p in particles])


def _draw_particle(rng: np.random.Generator, kind: str, centre: np.ndarray, radius: float) -> Particle:
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix().astype(np.float32)
    if kind == "virion":
        return Virion(centre, radius, turn, *rng.uniform((0.7, 0.5, 0.1), (0.98, 0.9, 0.3)))
    semi_axes = radius * np.append(rng.uniform(*SEMI_AXES, 2), 1.0)
    axes = turn / semi_axes[:, None].astype(np.float32)
    return Shell(centre, radius, axes, rng.uniform(*WALL), rng.uniform(*MEMBRANE), rng.uniform(*LUMEN))
