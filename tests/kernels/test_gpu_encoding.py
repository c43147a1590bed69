"""The encoding's kernels give the features of the plain way, and the gradient in the tables, dense or hashed."""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, for Linux: pip install 'tiltfield[gpu]'")

from tiltfield.fields import hashgrid
from tiltfield.fields.base import Box
from tiltfield.fields.hashgrid import HashGrid
from tiltfield.geometry import centred
from tiltfield.kernels.gpu_encoding import Axis, Lattice, encode
from tiltfield.rendering import slices_of

SHIFTS = (0.375, -0.21875, -0.453125)  # exact in float32
CLOSE = 2e-6


def field(box, log2_table=19, **sizes):
    given = {"coarsest": 6.0, "finest": 1.0, "n_levels": 2, "n_features": 2, "width": 8} | sizes
    made = HashGrid(box, log2_table=log2_table, generator=torch.Generator().manual_seed(0), **given)
    with torch.no_grad():
        for seed, level in enumerate(made.levels):
            level.table.copy_(torch.randn(level.table.shape, generator=torch.Generator().manual_seed(seed)))
    return made


def axes(box, stretch=1.0, rows=slice(1, 3)):
    z, y, x = (centred(n) + shift for n, shift in zip(box.shape, SHIFTS, strict=True))
    return stretch * z, y[rows], stretch * x


def plainly(made, z, y, x):
    """Features point by point, and a function that gives their gradients in the tables, in float64."""
    points = torch.stack(torch.meshgrid(y, z, x, indexing="ij"), dim=-1)[..., [1, 0, 2]].double()
    levels = made.double().levels
    features = torch.cat([level(points) for level in levels], dim=-1).permute(0, 3, 1, 2)
    tables = [level.table for level in levels]
    return features, lambda given: torch.autograd.grad((features * given.double()).sum(), tables)


def by_kernels(made, device, z, y, x):
    levels = list(made.float().to(device).levels)
    features = hashgrid._encoded(levels, z.to(device), y.to(device), x.to(device))
    tables = [level.table for level in levels]
    return features, lambda given: torch.autograd.grad((features * given.to(device)).sum(), tables)


def compare(box, device, error, stretch=1.0, rows=slice(1, 2), **sizes):
    given = axes(box, stretch, rows)
    features, gradients = by_kernels(field(box, **sizes), device, *given)
    right, right_gradients = plainly(field(box, **sizes), *given)
    assert error(features, right) < CLOSE
    along = torch.randn(right.shape, generator=torch.Generator().manual_seed(9))
    for found, expected in zip(gradients(along), right_gradients(along), strict=True):
        assert error(found, expected) < CLOSE


@pytest.mark.parametrize("log2_table", [19, 7, 4])
def test_features_and_gradients_are_the_plain_ones(log2_table, device, error):
    compare(Box(5, 8, 9), device, error, log2_table=log2_table)


def test_the_cases_above_are_dense_mixed_and_hashed():
    dense = [[level.dense for level in field(Box(5, 8, 9), log2_table=log2).levels] for log2 in (19, 7, 4)]
    assert dense == [[True, True], [True, False], [False, False]]


def test_pixels_beyond_the_reach_count_as_at_it(device, error):
    compare(Box(4, 3, 6), device, error, stretch=1.7, n_levels=1, coarsest=1.0)


@pytest.mark.parametrize("stretch", [0.4, 3.1])
def test_pixels_may_lie_closer_or_farther_apart_than_one(stretch, device, error):
    compare(Box(5, 3, 6), device, error, stretch=stretch, n_levels=1, coarsest=1.5)


@pytest.mark.parametrize("box", [Box(1, 1, 1), Box(3, 1, 2), Box(1, 3, 5)])
def test_thin_boxes(box, device, error):
    compare(box, device, error, rows=slice(0, 1))


def test_coarse_cells_gather_from_all_their_pixels(device, error):
    compare(Box(33, 3, 70), device, error, coarsest=32.0, n_levels=1, n_features=1)


def test_rows_longer_than_a_program_takes(device, error):
    compare(Box(2, 3, 300), device, error, coarsest=1.0, n_levels=1, n_features=1)


@pytest.mark.parametrize("n", [100, 1001])
def test_entries_of_far_nodes_are_those_of_the_hash(n, device, error):
    """A table that holds each entry's own number tells which entry a pixel on a node reads."""
    box = Box(3 * n, 3, 40)
    level = HashGrid(box, coarsest=1.0, n_levels=1, n_features=1, log2_table=11, generator=torch.Generator()).levels[0]
    entries = level.table.shape[2]
    z = Axis(3, level.nodes[0], 3.0 * n - 2, 1.0, 0.0, 3.0 * n)
    x = Axis(level.nodes[2], level.nodes[2], 0.0, 1.0, 0.0, level.nodes[2] - 1.0)
    numbers = torch.arange(entries, dtype=torch.float32, device=device).view(1, 1, -1)
    found = encode([numbers], [Lattice(z, x, hashgrid._PRIME)])[0, 0].cpu().long()
    node_z, node_x = torch.arange(3 * n - 2, 3 * n + 1)[:, None], torch.arange(level.nodes[2])
    assert torch.equal(found, level.entry(node_z, node_x))


def test_the_field_takes_the_kernels_where_they_are_of_use(dispatched, error, monkeypatch):
    box, calls = Box(3, 4, 5), []
    z, y, x = axes(box)
    right = field(box).double()
    expected = right.decode(plainly(right, z, y, x)[0].flatten(2)).view(2, 3, 5)
    encoded = hashgrid._encoded
    monkeypatch.setattr(hashgrid, "_encoded", lambda *given: (calls.append(1), encoded(*given))[1])
    made, given = field(box).to(dispatched), [axis.to(dispatched) for axis in (z, y, x)]
    close = 5e-5 if dispatched.type == "cuda" else CLOSE
    assert error(made.slices(*given), expected) < close
    assert error(made.slices(*given, slice(1, 2)), expected[1:]) < close
    assert calls == [1, 1]
    assert made.axes_device == torch.device("cpu")
    middle = [centred(n, device=dispatched) for n in box.shape]
    assert error(slices_of(made, box, slice(1, 3)), made.slices(*middle)[1:3]) < close
