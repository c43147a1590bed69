"""Recipes of cells: how many particles of which size and density, and where they find room.

`SIMPLE` holds few particles of a size that a small cell can show. `paper_recipe` is that of Kniesel et al., CVPR 2022,
supplement: ellipsoidal shells and up to 200 virions of one kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from tiltfield.simulate.cell import Cell, Slab
from tiltfield.simulate.particles import Particle, Shell, Virion
from tiltfield.simulate.virion import MapVirion, VirionMap

CELL_STREAM = 1
TILE_STREAM = 2
THICKNESS = (0.48, 0.52)
MEDIUM = (0.12, 0.15)
ATTEMPTS = 300
NEIGHBOURS = 3  # to which a particle is placed as close as the attempts allow

Range = tuple[float, float]


@dataclass(frozen=True)
class Group:
    """Particles of one kind, placed one after the other, the largest first.

    Attributes:
        kind: shell or virion.
        count: how many to try in one cell.
        radii: smallest and largest radius, cell edges.
        snug: place them near others, so that more find room; else anywhere.
    """

    kind: str
    count: int
    radii: Range
    snug: bool = True


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a cell is made of.

    Attributes:
        groups: in the order of placing.
        membrane: densities of the shells' walls.
        lumen: densities within.
        wall: thickness of the walls over the largest semi-axis.
        semi_axes: the two smaller semi-axes over the largest.
        virion: what each virion is a copy of, or None for bare parametric ones.
    """

    groups: tuple[Group, ...]
    membrane: Range
    lumen: Range
    wall: Range
    semi_axes: Range = (0.7, 1.0)
    virion: VirionMap | None = None

    @property
    def largest(self) -> float:
        """Largest radius, cell edges."""
        return max(group.radii[1] for group in self.groups)


SIMPLE = Recipe(
    groups=(
        Group("shell", 9, (0.15, 0.22)),
        Group("shell", 14, (0.10, 0.16)),
        Group("virion", 14, (0.06, 0.09)),
        Group("shell", 12, (0.06, 0.10)),
    ),
    membrane=(0.65, 0.98),
    lumen=(0.1, 0.5),
    wall=(0.08, 0.15),
)


def paper_recipe(virion: VirionMap, radius: float) -> Recipe:
    """Return the paper's recipe.

    The order, the densities, the walls, the semi-axes and the number of virions are published; the sizes of the shells
    and their number are not, and are ours.

    Args:
        virion: the one kind of virion.
        radius: of the ball that holds it, cell edges.
    """
    return Recipe(
        groups=(
            Group("shell", 10, (0.14, 0.22)),
            Group("shell", 14, (0.09, 0.14)),
            Group("virion", 200, (radius, radius), snug=False),
            Group("shell", 80, (0.025, 0.07), snug=False),
        ),
        membrane=(0.5, 0.98),
        lumen=(0.1, 0.5),
        wall=(0.05, 0.15),
        virion=virion,
    )


def make_cell(seed: int, half_width: float = 0.5, recipe: Recipe = SIMPLE) -> Cell:
    """Draw a random cell.

    Args:
        seed: of the cell; the part within ±0.5 does not depend on `half_width`.
        half_width: how far the specimen reaches along x from the middle, cell edges, ≥ 0.5.
        recipe: what it is made of.

    Returns:
        the cell; its particles may be cut by the faces of the box in x and y, never by the surfaces of the slab.
    """
    rng = np.random.default_rng([seed, CELL_STREAM])
    slab = _draw_slab(rng)
    particles: list[Particle] = []
    _populate(rng, recipe, slab, particles, tile=0)
    for k in range(1, math.ceil(half_width - 0.5) + 1):
        for tile in (k, -k):
            _populate(np.random.default_rng([seed, TILE_STREAM, k, int(tile > 0)]), recipe, slab, particles, tile)
    return Cell(slab, tuple(particles))


def _draw_slab(rng: np.random.Generator) -> Slab:
    waves = np.empty((2, 3, 4))
    waves[..., 0] = rng.uniform(0.002, 0.006, (2, 3))
    waves[..., 1:3] = rng.uniform(-10, 10, (2, 3, 2))
    waves[..., 3] = rng.uniform(0, 2 * np.pi, (2, 3))
    return Slab(rng.uniform(*MEDIUM), rng.uniform(*THICKNESS), waves)


def _populate(rng: np.random.Generator, recipe: Recipe, slab: Slab, particles: list[Particle], tile: int) -> None:
    """Add a tile's particles to the list, large ones first; those of outer tiles stay out of the central box."""
    for group in recipe.groups:
        for radius in np.sort(rng.uniform(*group.radii, group.count))[::-1]:
            near = [p for p in particles if abs(p.centre[2] - tile) < 0.5 + 2 * recipe.largest]
            places = _free_places(rng, slab, near, tile, float(radius))
            if len(places):
                centre = _snuggest(places, near, float(radius)) if group.snug else places[0]
                particles.append(_draw_particle(rng, recipe, group.kind, centre, float(radius)))


def _free_places(rng: np.random.Generator, slab: Slab, near: list[Particle], tile: int, radius: float) -> np.ndarray:
    """Return those of many random centres (z, y, x) where a ball of this radius touches nothing."""
    room = slab.thickness / 2 - slab.roughness - radius
    trial = rng.uniform((-room, -0.5, tile - 0.5), (room, 0.5, tile + 0.5), (ATTEMPTS, 3))
    free = np.ones(ATTEMPTS, bool) if tile == 0 else np.abs(trial[:, 2]) - radius >= 0.5
    if near:
        free &= (_gaps(trial, near) - radius).min(axis=1) > 0
    return trial[free]


def _snuggest(places: np.ndarray, near: list[Particle], radius: float) -> np.ndarray:
    """Return the place that is closest to its neighbours."""
    if not near:
        return np.asarray(places[0])
    looseness = np.sort(_gaps(places, near) - radius, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    return np.asarray(places[np.argmin(looseness)])


def _gaps(points: np.ndarray, particles: list[Particle]) -> np.ndarray:
    """Return the distance of every point from the surface of every particle's ball, shape (point, particle)."""
    centres = np.array([p.centre for p in particles])
    return cdist(points, centres) - np.array([p.radius for p in particles])


def _draw_particle(rng: np.random.Generator, recipe: Recipe, kind: str, centre: np.ndarray, radius: float) -> Particle:
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix().astype(np.float32)
    if kind == "virion" and recipe.virion is not None:
        return MapVirion(centre, radius, turn, recipe.virion)
    if kind == "virion":
        return Virion(centre, radius, turn, *rng.uniform((0.7, 0.5, 0.1), (0.98, 0.9, 0.3)))
    semi_axes = radius * np.append(rng.uniform(*recipe.semi_axes, 2), 1.0)
    axes = turn / semi_axes[:, None].astype(np.float32)
    densities = rng.uniform(*recipe.wall), rng.uniform(*recipe.membrane), rng.uniform(*recipe.lumen)
    return Shell(centre, radius, axes, *densities)
