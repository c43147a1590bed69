"""Voxels: their values at the centres, linear in between, and the same on both roads."""

import pytest
import torch

from tiltfield.fields.base import Box
from tiltfield.fields.voxels import Voxels
from tiltfield.geometry import centred

F64 = torch.float64
BOX = Box(7, 6, 9)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(box=BOX, **options):
    field = Voxels(box, **options).double()
    with torch.no_grad():
        field.values.copy_(torch.randn(field.values.shape, generator=seeded(0), dtype=F64) * 2)
    return field


def points_of(z, y, x):
    """The points (z, y, x) of a grid in the order of `slices`: (n_y, n_z, n_x, 3)."""
    return torch.stack(torch.meshgrid(y, z, x, indexing="ij"), dim=-1)[..., [1, 0, 2]]


def axes_of(box, shift=(0.0, 0.0, 0.0)):
    return tuple(centred(n, dtype=F64) + s for n, s in zip(box.shape, shift, strict=True))


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.3, -0.4, 0.2), (-0.45, 0.1, -0.25)])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 3), slice(4, 6), slice(None, None, 3)])
def test_slices_are_forward_on_the_points_of_the_grid(shift, rows):
    field = make()
    z, y, x = axes_of(BOX, shift)
    density = field.slices(1.2 * z, y[rows], 1.2 * x)  # the outer ones beyond the box
    torch.testing.assert_close(density, field(points_of(1.2 * z, y[rows], 1.2 * x)), rtol=1e-12, atol=1e-13)


def test_both_roads_have_the_same_gradient():
    field, axes = make(), axes_of(BOX, (0.3, -0.4, 0.2))
    given = torch.randn(6, 7, 9, generator=seeded(1), dtype=F64)
    (fast,) = torch.autograd.grad((field.slices(*axes) * given).sum(), field.values)
    (slow,) = torch.autograd.grad((field(points_of(*axes)) * given).sum(), field.values)
    torch.testing.assert_close(fast, slow)


def test_at_the_centres_the_density_is_the_voxels():
    field = make(scale=2.0)
    expected = 2 * torch.nn.functional.softplus(field.values)
    torch.testing.assert_close(field.slices(*axes_of(BOX)), expected)


def test_some_slices_are_those_of_all():
    field, (z, y, x) = make(), axes_of(BOX)
    torch.testing.assert_close(field.slices(z, y, x, slice(1, 3)), field.slices(z, y, x)[1:3])


def test_between_centres_it_is_linear():
    field = make()
    z, y, x = axes_of(BOX)
    whole = field.slices(z, y, x)
    half = field.slices(z[:1], y[2:3] + 0.25, x[4:5])
    torch.testing.assert_close(half, (0.75 * whole[2, 0, 4] + 0.25 * whole[3, 0, 4]).reshape(1, 1, 1))


@pytest.mark.parametrize("box", [Box(1, 1, 1), Box(5, 1, 7), Box(1, 4, 3), Box(4, 3, 1)])
def test_thin_boxes(box):
    field, axes = make(box), axes_of(box, (0.2, -0.3, 0.1))
    density = field.slices(*axes)
    assert density.shape == (box.n_y, box.n_z, box.n_x)
    torch.testing.assert_close(density, field(points_of(*axes)))


def test_density_is_not_negative():
    field = make()
    with torch.no_grad():
        field.values.mul_(100)
    density = field.slices(*axes_of(BOX))
    assert density.min() >= 0
    assert torch.isfinite(density).all()


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 1.0), (0.1, 0.02), (2.0, 3.0)])
def test_the_field_starts_at_its_mean(mean, scale):
    density = Voxels(BOX, mean=mean, scale=scale)(torch.randn(20, 3, generator=seeded(2)))
    torch.testing.assert_close(density, torch.full_like(density, mean * scale))


def test_shapes_of_points():
    field = make()
    assert field(torch.zeros(3, dtype=F64)).shape == ()
    assert field(torch.zeros(2, 5, 3, dtype=F64)).shape == (2, 5)
