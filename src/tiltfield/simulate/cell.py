"""A synthetic cell: a slab of medium that holds particles, painted on request.

Everything is measured in edges of the cubic cell, with the origin at its centre, so that one seed gives the same
specimen at every sampling. Voxels are painted a few planes of z at a time. The recipes are in `population`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tiltfield.simulate.particles import Particle


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


@dataclass(frozen=True, eq=False)
class Cell:
    """A slab and what it holds.

    Attributes:
        slab: the layer of medium.
        particles: shells and virions, none overlapping another.
    """

    slab: Slab
    particles: tuple[Particle, ...]

    def over(self, y: np.ndarray, x: np.ndarray) -> Painter:
        """Return what paints the cell plane by plane.

        Args:
            y: increasing coordinates, cell edges, shape (n_y,).
            x: as `y`, shape (n_x,).
        """
        low, high = self.slab.surfaces(x[:, None], y[None, :])
        return Painter(self, y, x, low, high, tuple(_columns(self.particles, y, x)))


@dataclass(frozen=True, eq=False)
class Painter:
    """A cell over a regular grid of y and x.

    Attributes:
        cell: the cell.
        y: increasing coordinates, cell edges, shape (n_y,).
        x: as `y`, shape (n_x,).
        low: z of the lower surface, shape (n_x, n_y).
        high: z of the upper surface.
        columns: the part of the grid under each particle that lies over the grid.
    """

    cell: Cell
    y: np.ndarray
    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    columns: tuple[Columns, ...]

    def paint(self, z: np.ndarray, density: np.ndarray) -> np.ndarray:
        """Paint planes of z into an array and return where the slab is.

        Args:
            z: increasing coordinates, cell edges, shape (n_z,).
            density: what to paint into, float32, shape (n_z, n_x, n_y).

        Returns:
            bool, the same shape.
        """
        height = z[:, None, None]
        inside = (height >= self.low) & (height <= self.high)
        np.multiply(inside, np.float32(self.cell.slab.medium), out=density)
        for columns in self.columns:
            columns.paint(z, density)
        return inside


@dataclass(frozen=True, eq=False)
class Columns:
    """The part of a grid of y and x under a particle.

    Attributes:
        particle: what to paint.
        x: indices.
        y: indices.
        beside_x: distance from the centre along x, float32, shape (1, n_x, 1).
        beside_y: the same along y, shape (1, 1, n_y).
    """

    particle: Particle
    x: slice
    y: slice
    beside_x: np.ndarray
    beside_y: np.ndarray

    def paint(self, z: np.ndarray, density: np.ndarray) -> None:
        """Paint the particle into planes of density (z, x, y)."""
        above, along_z = _window(z, float(self.particle.centre[0]), self.particle.radius)
        if above.start < above.stop:
            values = self.particle.density(along_z[:, None, None], self.beside_y, self.beside_x)
            np.copyto(density[above, self.x, self.y], values, where=~np.isnan(values))


def _columns(particles: tuple[Particle, ...], y: np.ndarray, x: np.ndarray) -> Iterator[Columns]:
    for p in particles:
        (in_x, beside_x), (in_y, beside_y) = (_window(a, p.centre[k], p.radius) for a, k in ((x, 2), (y, 1)))
        if in_x.start < in_x.stop and in_y.start < in_y.stop:
            yield Columns(p, in_x, in_y, beside_x[None, :, None], beside_y[None, None, :])


def _window(axis: np.ndarray, centre: float, radius: float) -> tuple[slice, np.ndarray]:
    """Return the indices within a radius of a centre, and the coordinates there from the centre."""
    window = slice(*np.searchsorted(axis, (centre - radius, centre + radius)))
    return window, (axis[window] - centre).astype(np.float32)
