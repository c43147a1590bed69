"""The hash grid: the fast road on grids gives what the slow one gives, dense or hashed, values and gradients."""

import pytest
import torch

from tiltfield.fields import hashgrid
from tiltfield.fields.base import Box, linear_weights
from tiltfield.fields.hashgrid import GridLevel, HashGrid
from tiltfield.geometry import centred
from tiltfield.kernels.window import WindowAdam

F64 = torch.float64
BOX = Box(9, 12, 14)
SIZES = {"coarsest": 6.0, "finest": 1.0, "n_levels": 3, "width": 8}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(box=BOX, *, log2_table=19, seed=0, **options):
    """A field away from its nearly constant start, in float64."""
    field = HashGrid(box, log2_table=log2_table, generator=seeded(seed), **{**SIZES, **options}).double()
    with torch.no_grad():
        for level in field.levels:
            level.table.copy_(torch.randn(level.table.shape, generator=seeded(seed), dtype=F64))
    return field


def jittered(box, rows=slice(3, 8), seed=1):
    """Axes (z, y, x) off the lattice, the outer ones beyond the box."""
    shift = (torch.rand(3, generator=seeded(seed), dtype=F64) - 0.5).tolist()
    z, y, x = (centred(n, dtype=F64) + s for n, s in zip(box.shape, shift, strict=True))
    return 1.1 * z, y[rows], 1.1 * x


def points_of(z, y, x):
    """The points (z, y, x) of a grid in the order of `slices`: (n_y, n_z, n_x, 3)."""
    return torch.stack(torch.meshgrid(y, z, x, indexing="ij"), dim=-1)[..., [1, 0, 2]]


@pytest.mark.parametrize("log2_table", [19, 7, 4])
@pytest.mark.parametrize("rows", [slice(0, 12), slice(5, 6), slice(10, 12), slice(None, None, 4)])
def test_slices_are_forward_on_the_points_of_the_grid(log2_table, rows):
    field = make(log2_table=log2_table)
    axes = jittered(BOX, rows)
    torch.testing.assert_close(field.slices(*axes), field(points_of(*axes)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("log2_table", [19, 4])
@pytest.mark.parametrize("only", [slice(0, 2), slice(3, 5), slice(1, 2)])
def test_some_slices_are_those_of_all_and_read_the_same_planes(log2_table, only):
    field = make(log2_table=log2_table)
    z, y, x = jittered(BOX)
    WindowAdam([level.table for level in field.levels], lr=1e-2)
    torch.testing.assert_close(field.slices(z, y, x, only), field.slices(z, y[only], x), rtol=1e-12, atol=1e-13)
    spans = []
    for part in (slice(None), only):
        field.slices(z, y, x, part).sum().backward()
        spans.append([(first, len(gradient)) for level in field.levels for first, gradient in level.table.windows])
        for level in field.levels:
            level.table.windows.clear()
    assert spans[0] == spans[1]


def test_the_cases_above_are_dense_mixed_and_hashed():
    assert [level.dense for level in make(log2_table=19).levels] == [True, True, True]
    assert [level.dense for level in make(log2_table=7).levels] == [True, False, False]
    assert not any(level.dense for level in make(log2_table=4).levels)


@pytest.mark.parametrize("log2_table", [19, 4])
def test_both_roads_have_the_same_gradients(log2_table):
    field = make(log2_table=log2_table)
    axes = jittered(BOX)
    given = torch.randn(5, 9, 14, generator=seeded(2), dtype=F64)
    parameters = list(field.parameters())
    fast = torch.autograd.grad((field.slices(*axes) * given).sum(), parameters)
    slow = torch.autograd.grad((field(points_of(*axes)) * given).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("log2_table", [19, 4])
def test_features_at_a_node_are_its_entry(log2_table):
    level = GridLevel(BOX, 2.0, 2, 2**log2_table, seeded(4)).double()
    z, y, x = 3, 2, 6
    node = torch.tensor([z, y, x], dtype=F64) - (torch.tensor(level.nodes) - 1) / 2
    index = level.entry(torch.tensor(z), torch.tensor(x))
    torch.testing.assert_close(level(2.0 * node), level.table[y, :, index])


def test_dense_entries_are_one_a_node():
    level = GridLevel(BOX, 2.0, 2, 2**19, seeded(4))
    axes = torch.meshgrid(*(torch.arange(level.nodes[axis]) for axis in (0, 2)), indexing="ij")
    assert sorted(level.entry(*axes).flatten().tolist()) == list(range(level.table.shape[2]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_outermost_layer_of_pixels_has_no_nodes_of_its_own(axis):
    """The features from a pixel inside a face outwards are one value, so no node is seen by the last layer alone."""
    level = GridLevel(BOX, 1.0, 2, 2**19, seeded(4)).double()
    points = torch.zeros(3, 3, dtype=F64)
    points[:, axis] = BOX.shape[axis] / 2 + torch.tensor([-1.0, -0.5, 3.0], dtype=F64)
    features = level(points)
    torch.testing.assert_close(features, features[:1].expand(3, -1))
    points[0, axis] -= 0.25
    assert not torch.allclose(level(points[:1]), features[:1])


@pytest.mark.parametrize("n", [1, 2, 9, 10])
@pytest.mark.parametrize("cell", [1.0, 1.5, 4.0])
def test_the_nodes_cover_the_box(n, cell):
    level = GridLevel(Box(n, n, n), cell, 2, 2**19, seeded(0))
    assert all((nodes - 1) * cell >= n for nodes in level.nodes)


@pytest.mark.parametrize("box", [Box(1, 1, 1), Box(5, 1, 7), Box(8, 3, 2)])
def test_thin_boxes(box):
    field = make(box)
    axes = tuple(centred(n, dtype=F64) for n in box.shape)
    density = field.slices(*axes)
    assert density.shape == (box.n_y, box.n_z, box.n_x)
    torch.testing.assert_close(density, field(points_of(*axes)))


def test_density_is_not_negative_anywhere():
    field = make(scale=3.0)
    with torch.no_grad():
        field.weights[-1].mul_(50)  # far into both tails of the softplus
    points = torch.randn(2000, 3, generator=seeded(5), dtype=F64) * 10
    density = field(points)
    assert density.min() >= 0
    assert density.max() > 3
    assert torch.isfinite(density).all()


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 1.0), (0.1, 0.02), (2.0, 3.0)])
def test_the_field_starts_near_its_mean(mean, scale):
    field = HashGrid(BOX, mean=mean, scale=scale, generator=seeded(0))
    density = field(torch.randn(500, 3, generator=seeded(1)) * 4)
    torch.testing.assert_close(density, torch.full_like(density, mean * scale), rtol=0.05, atol=0)


def test_one_seed_is_one_field():
    points = torch.randn(50, 3, generator=seeded(6), dtype=F64)
    torch.manual_seed(1)
    first = HashGrid(BOX, generator=seeded(3), **SIZES)
    torch.manual_seed(2)
    second = HashGrid(BOX, generator=seeded(3), **SIZES)
    other = HashGrid(BOX, generator=seeded(4), **SIZES)
    assert torch.equal(first(points.float()), second(points.float()))
    assert not torch.equal(first(points.float()), other(points.float()))


def test_shapes_of_points():
    field = make()
    assert field(torch.zeros(3, dtype=F64)).shape == ()
    assert field(torch.zeros(2, 5, 3, dtype=F64)).shape == (2, 5)


def test_linear_weights_by_hand():
    expected = torch.tensor([[1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=F64)
    position = torch.tensor([-1, 0.25, 1, 2, 5], dtype=F64)
    torch.testing.assert_close(linear_weights(position, 3), expected)


def test_a_window_optimiser_moves_what_the_slices_touch_and_nothing_else():
    field = make()
    (tables,) = (group for group in field.groups(1e-2) if group.pop("windowed", False))
    optimiser = WindowAdam([tables], lr=1e-2)
    before = [level.table.clone() for level in field.levels]
    field.slices(*jittered(BOX, slice(5, 7))).sum().backward()
    optimiser.step()
    for level, old in zip(field.levels, before, strict=True):
        moved = (level.table != old).any(dim=2).any(dim=1)
        assert level.table.grad is None
        assert 2 <= moved.sum() <= 4
    assert not (field.levels[-1].table != before[-1]).any(dim=2).any(dim=1)[[0, -1]].any()


@pytest.mark.parametrize("box", [Box(9, 12, 14), Box(40, 3, 70)])
@pytest.mark.parametrize(("features", "log2_table"), [(4, 25), (3, 7)])
def test_the_tables_hold_what_is_counted(box, features, log2_table, monkeypatch):
    monkeypatch.setattr(hashgrid, "LOG2_TABLE", log2_table)
    made = HashGrid(box, n_features=features, log2_table=log2_table, generator=seeded(0))
    assert hashgrid.table_numbers(box, features) == sum(level.table.numel() for level in made.levels)


def test_groups_hold_every_parameter_once():
    field = make()
    held = [id(p) for group in field.groups(1e-2) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in field.parameters())
