"""The paper's MLP, its parameters counted by hand; and the registry of fields."""

import math
from typing import get_args

import pytest
import torch

from tiltfield.config import FieldName
from tiltfield.errors import InputError
from tiltfield.fields import FIELDS, make_field
from tiltfield.fields.base import Box
from tiltfield.fields.mlp import MLP
from tiltfield.geometry import centred

F64 = torch.float64
BOX = Box(6, 4, 8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(seed=0, **options):
    return MLP(BOX, generator=seeded(seed), **{"width": 16, "depth": 7, "n_frequencies": 3, **options}).double()


def count(field):
    return sum(p.numel() for p in field.parameters())


def test_the_papers_parameters_by_hand():
    first, inner, sixth, last = 60 * 256 + 256, 256 * 256 + 256, (256 + 60) * 256 + 256, 256 + 1
    # nine hidden layers: the first, the sixth, which takes the encoded point again, and seven others
    assert count(MLP(BOX, generator=seeded(0))) == first + sixth + 7 * inner + last == 557_569


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (2, (12 * 8 + 8) + (8 * 8 + 8) + (8 + 1)),
        (5, (12 * 8 + 8) + 4 * (8 * 8 + 8) + (8 + 1)),
        (6, (12 * 8 + 8) + 4 * (8 * 8 + 8) + (20 * 8 + 8) + (8 + 1)),
    ],
)
def test_a_smaller_one_by_hand(depth, expected):
    assert count(make(width=8, depth=depth, n_frequencies=2)) == expected


def test_the_encoding_by_hand():
    encoded = make(n_frequencies=2).encode(
        torch.tensor([3.0, 0.0, -2.0], dtype=F64)
    )  # on a face, in the middle, half way
    s = [math.pi, 2 * math.pi, 0, 0, -math.pi / 2, -math.pi]
    expected = [math.sin(v) for v in s] + [math.cos(v) for v in s]
    torch.testing.assert_close(encoded, torch.tensor(expected, dtype=F64))


def test_the_network_by_hand():
    field = make(depth=6, n_frequencies=1, width=5, scale=2.0)
    point = torch.tensor([0.7, -1.1, 2.3], dtype=F64)
    encoded = hidden = field.encode(point)
    for layer in range(5):
        hidden = (field.weights[layer] @ hidden + field.biases[layer]).clamp_min(0)
    hidden = (field.weights[5] @ torch.cat([hidden, encoded]) + field.biases[5]).clamp_min(0)
    torch.testing.assert_close(field(point), 2 / (1 + torch.exp(-(field.weights[6] @ hidden + field.biases[6])[0])))


def test_slices_are_forward_on_the_points_of_the_grid():
    field = make()
    z, y, x = (centred(n, dtype=F64) + s for n, s in zip(BOX.shape, (0.2, -0.3, 0.4), strict=True))
    density = field.slices(z, y, x)
    assert density.shape == (4, 6, 8)
    torch.testing.assert_close(field.slices(z, y, x, slice(1, 3)), density[1:3])
    for j, k, i in [(0, 0, 0), (3, 5, 7), (1, 4, 2)]:
        torch.testing.assert_close(density[j, k, i], field(torch.stack([z[k], y[j], x[i]])))


def test_density_lies_between_zero_and_scale():
    field = make(scale=0.3)
    with torch.no_grad():
        field.weights[-1].mul_(1e3)
    density = field(torch.randn(500, 3, generator=seeded(1), dtype=F64) * 5)
    assert density.min() >= 0
    assert density.max() <= 0.3


def test_one_seed_is_one_field_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    points = torch.randn(20, 3, generator=seeded(1), dtype=F64)
    assert torch.equal(first(points), make(3)(points))
    assert not torch.equal(first(points), make(4)(points))


@pytest.mark.parametrize("mean", [0.0, 1.0, 2.0])
def test_a_mean_that_a_sigmoid_cannot_take_is_refused(mean):
    with pytest.raises(InputError, match=r"within \(0, 1\)"):
        make(mean=mean)


def test_the_registry_has_the_names_of_the_settings():
    assert set(FIELDS) == set(get_args(FieldName))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("scale", "mean"), [(1.0, 0.5), (0.02, 0.2)])
def test_made_by_name_every_field_starts_at_its_mean(name, scale, mean):
    box = Box(24, 8, 24)
    field = make_field(name, box, scale=scale, mean=mean, generator=seeded(0))
    density = field.slices(*(centred(n) for n in box.shape))
    assert field.box == box
    assert density.shape == (8, 24, 24)
    assert density.mean().item() == pytest.approx(scale * mean, rel=0.15)


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(
        InputError, match="unknown field 'voxel', expected one of hashgrid, mlp, voxels; did you mean 'voxels'"
    ):
        make_field("voxel", BOX, scale=1.0, mean=0.5, generator=seeded(0))
