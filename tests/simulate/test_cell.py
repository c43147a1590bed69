"""The synthetic cell: ranges, no overlaps, one specimen at every sampling and width."""

import numpy as np
import pytest

from tiltfield.simulate.particles import FACES, FACET, VERTICES, Shell, Virion
from tiltfield.simulate.population import SIMPLE, make_cell, paper_recipe
from tiltfield.simulate.virion import MapVirion, built_in_virion


def axis(n, width=1.0):
    return ((np.arange(n) + 0.5) / n - 0.5) * width


def painted(cell, z, y, x):
    """Density and slab of a cell on a grid, shape (z, x, y)."""
    density = np.empty((len(z), len(x), len(y)), np.float32)
    return density, cell.over(y, x).paint(z, density)


@pytest.fixture(scope="module")
def cell():
    return make_cell(3)


def test_particles_do_not_overlap(cell):
    centres = np.array([p.centre for p in cell.particles])
    radii = np.array([p.radius for p in cell.particles])
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2) - radii[:, None] - radii
    assert gaps[~np.eye(len(radii), dtype=bool)].min() > 0


def test_particles_lie_between_the_surfaces(cell):
    grid = axis(40, 1.5)
    low, high = cell.slab.surfaces(grid[:, None], grid[None, :])
    assert all(low.max() <= p.centre[0] - p.radius for p in cell.particles)
    assert all(p.centre[0] + p.radius <= high.min() for p in cell.particles)
    assert -cell.slab.reach <= low.min() < high.max() <= cell.slab.reach


def test_there_are_shells_of_all_sizes_and_virions(cell):
    shells = [p.radius for p in cell.particles if isinstance(p, Shell)]
    virions = [p.radius for p in cell.particles if isinstance(p, Virion)]
    assert len(shells) > 12
    assert len(virions) > 5
    assert 0.15 < max(shells) <= 0.22
    assert min(shells) < 0.1


def test_densities_keep_to_their_ranges(cell):
    density, inside = painted(cell, axis(48), axis(48), axis(48))
    assert density.dtype == np.float32
    np.testing.assert_array_equal(density[~inside], 0)
    assert density[inside].min() >= SIMPLE.lumen[0] - 1e-6
    assert density.max() <= SIMPLE.membrane[1] + 1e-6
    assert 0.4 < inside.mean() < 0.6


def test_paint_is_ordered_z_x_y(cell):
    z, y, x = axis(24), axis(20), axis(16)
    whole, _ = painted(cell, z, y, x)
    assert whole.shape == (24, 16, 20)
    for k, i, j in [(10, 3, 5), (12, 8, 19), (14, 15, 0)]:
        point, _ = painted(cell, z[[k]], y[[j]], x[[i]])
        assert whole[k, i, j] == point[0, 0, 0]


def test_a_shell_is_painted_where_its_axes_say():
    shell = Shell(np.zeros(3), 0.4, np.diag([1 / 0.4, 1 / 0.2, 1 / 0.3]).astype(np.float32), 0.1, 0.9, 0.2)
    z, y, x = (np.array(v, np.float32) for v in ([0, 0.35, 0.37, 0.41], 0.0, 0.0))
    np.testing.assert_allclose(shell.density(z, y, x), [0.2, 0.2, 0.9, np.nan], rtol=1e-6)
    np.testing.assert_allclose(shell.density(y, z / 2, x), [0.2, 0.2, 0.9, np.nan], rtol=1e-6)


def test_the_volume_of_a_shell_is_that_of_its_ellipsoid():
    shell = Shell(np.zeros(3), 0.4, np.diag([1 / 0.4, 1 / 0.2, 1 / 0.3]).astype(np.float32), 0.1, 0.9, 0.2)
    grid = axis(64).astype(np.float32)
    density = shell.density(grid[:, None, None], grid[None, :, None], grid[None, None, :])
    ball = 4 / 3 * np.pi * 0.4 * 0.2 * 0.3
    assert np.isfinite(density).mean() == pytest.approx(ball, rel=0.01)
    assert (density == np.float32(0.2)).mean() == pytest.approx(ball * 0.9**3, rel=0.01)


def test_icosahedron_has_three_vertices_around_each_face():
    cosine = FACES @ VERTICES.T
    np.testing.assert_allclose(np.linalg.norm(FACES, axis=1), 1)
    np.testing.assert_array_equal(np.isclose(cosine, FACET).sum(axis=1), 3)
    np.testing.assert_array_equal(np.isclose(cosine, FACET).sum(axis=0), 5)
    assert cosine.max() == pytest.approx(FACET)
    assert pytest.approx(0.79465, abs=1e-5) == FACET  # inradius over circumradius


def test_a_virion_has_core_gap_shell_and_spikes():
    virion = Virion(np.zeros(3), 0.1, np.eye(3, dtype=np.float32), 0.9, 0.7, 0.2)
    along = np.array([0.0, 0.4, 0.6, 0.75, 0.95, 1.05])[:, None] * 0.1 * VERTICES[0]
    values = virion.density(*along.astype(np.float32).T)
    np.testing.assert_allclose(values, [0.7, 0.7, 0.2, 0.9, 0.9, np.nan], rtol=1e-6)
    beside = VERTICES[0] + VERTICES[np.argsort(VERTICES @ VERTICES[0])[-2]]  # mid-edge: no spike there
    edge = 0.095 * beside / np.linalg.norm(beside)
    assert np.isnan(virion.density(*edge.astype(np.float32)[:, None]))


def test_the_wide_cell_keeps_its_centre(cell):
    wide = make_cell(3, half_width=2.2)
    grid = axis(32)
    assert len(wide.particles) > 3 * len(cell.particles)
    for a, b in zip(painted(wide, grid, grid, grid), painted(cell, grid, grid, grid), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wider_cell_only_adds(cell):
    wide, wider = make_cell(3, 1.4), make_cell(3, 3.4)
    assert all(np.array_equal(a.centre, b.centre) for a, b in zip(wide.particles, wider.particles, strict=False))


def test_seeds_give_different_cells(cell):
    assert not np.array_equal(make_cell(4).particles[0].centre, cell.particles[0].centre)


@pytest.fixture(scope="module")
def paper():
    return make_cell(0, recipe=paper_recipe(built_in_virion(), 0.035))


def test_the_paper_cell_holds_what_the_paper_says(paper):
    shells = [p for p in paper.particles if isinstance(p, Shell)]
    virions = [p for p in paper.particles if isinstance(p, MapVirion)]
    assert len(shells) + len(virions) == len(paper.particles)
    assert 150 <= len(virions) <= 200
    assert len({p.turn.tobytes() for p in virions}) == len(virions)
    for s in shells:
        semi_axes = 1 / np.linalg.norm(s.axes, axis=1)
        assert 0.7 - 1e-6 <= semi_axes.min() / semi_axes.max() <= 1
        assert semi_axes.max() == pytest.approx(s.radius)
        assert 0.5 <= s.membrane <= 0.98
        assert 0.1 <= s.lumen <= 0.5
        assert 0.05 <= s.wall <= 0.15


def test_the_paper_cell_is_filled_from_the_large_to_the_small(paper):
    kinds = "".join("v" if isinstance(p, MapVirion) else "S" if p.radius >= 0.09 else "s" for p in paper.particles)
    assert kinds == "S" * kinds.count("S") + "v" * kinds.count("v") + "s" * kinds.count("s")
    assert min(kinds.count("S"), kinds.count("s")) > 10


@pytest.mark.parametrize("half_width", [0.5, 1.6])
def test_nothing_overlaps_in_the_paper_cell(half_width):
    particles = make_cell(2, half_width, paper_recipe(built_in_virion(), 0.035)).particles
    centres, radii = np.array([p.centre for p in particles]), np.array([p.radius for p in particles])
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2) - radii[:, None] - radii
    assert gaps[~np.eye(len(radii), dtype=bool)].min() > 0


def test_the_paper_cell_repeats_and_keeps_its_range(paper):
    again = make_cell(0, recipe=paper_recipe(built_in_virion(), 0.035))
    density, inside = painted(paper, axis(40), axis(40), axis(40))
    assert density.tobytes() == painted(again, axis(40), axis(40), axis(40))[0].tobytes()
    np.testing.assert_array_equal(density[~inside], 0)
    assert density[inside].min() >= 0.1
    assert density.max() <= 0.98


def test_planes_painted_one_by_one_are_those_painted_at_once(paper):
    z, y, x = axis(24), axis(20), axis(28)
    whole, slab = painted(paper, z, y, x)
    painter = paper.over(y, x)
    for k in range(len(z)):
        plane = np.empty((1, 28, 20), np.float32)
        inside = painter.paint(z[[k]], plane)
        np.testing.assert_array_equal(plane[0], whole[k])
        np.testing.assert_array_equal(inside[0], slab[k])
