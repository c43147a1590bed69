"""The projector in C is the plain projector, and the adjoint is the map's."""

import numpy as np
import pytest
import torch

from tiltfield.geometry import SliceGeometry
from tiltfield.kernels import cpu_projector
from tiltfield.kernels.cpu_projector import Strips
from tiltfield.projector import SliceProjector

pytestmark = pytest.mark.usefixtures("compiler")

TILTS = [-89.0, -46.0, -30.0, -1e-7, 0.0, 1e-3, 41.0, 45.0, 67.0]
SIZES = [(7, 15, 15), (9, 24, 15), (8, 9, 40), (3, 34, 33), (32, 16, 48), (1, 6, 6), (5, 1, 4), (1, 1, 1)]
CLOSE = 1e-6


def geometry(sizes, tilts=TILTS):
    return SliceGeometry.from_degrees(*sizes, np.array(tilts))


def plain(geometry):
    return SliceProjector(geometry, dtype=torch.float64, stored=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("sizes", SIZES)
def test_map_and_adjoint_are_the_plain_ones_and_belong_together(sizes, error):
    g = geometry(sizes)
    x, y = normal(3, *sizes[:2]), normal(3, len(TILTS), sizes[2], seed=1)
    strips, right = Strips(g), plain(g)
    projected, back = strips.project(x), strips.back_project(y)
    assert error(projected, right(x.double())) < CLOSE
    assert error(back, right.adjoint(y.double())) < CLOSE
    difference = (projected.double() * y).sum() - (x * back.double()).sum()
    assert abs(difference) < CLOSE * projected.norm() * y.norm()


@pytest.mark.parametrize("batch", [0, 1, 2, 8, 19])
def test_any_number_of_slices_goes_together(batch):
    g = geometry((4, 5, 6), [-20.0, 70.0])
    x, y = normal(batch, 4, 5), normal(batch, 2, 6, seed=1)
    strips, right = Strips(g), plain(g)
    torch.testing.assert_close(strips.project(x), right(x.double()).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(strips.back_project(y), right.adjoint(y.double()).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tilts", [[-31.0], [-62.0], [62.0]])
def test_nothing_is_lost_in_wide_slices(tilts, error):
    """Positions in float32 would be off by 6e-5 of a pixel."""
    g = geometry((16, 1023, 1024), tilts)
    x, y = normal(1, 16, 1023), normal(1, 1, 1024, seed=1)
    strips, right = Strips(g), plain(g)
    assert error(strips.project(x), right(x.double())) < CLOSE
    assert error(strips.back_project(y), right.adjoint(y.double())) < CLOSE


@pytest.mark.usefixtures("threads")
def test_results_repeat_to_the_bit():
    g = geometry((21, 30, 33))
    x, y = normal(5, 21, 30), normal(5, len(TILTS), 33, seed=1)
    strips = Strips(g)
    assert torch.equal(strips.project(x), strips.project(x))
    assert torch.equal(strips.back_project(y), strips.back_project(y))


def test_views_are_taken_as_they_are():
    g = geometry((4, 5, 6), [-20.0, 70.0])
    x, y = normal(5, 4, 3).permute(2, 1, 0), normal(6, 2, 3, seed=1).permute(2, 1, 0)
    strips = Strips(g)
    assert torch.equal(strips.project(x), strips.project(x.contiguous()))
    assert torch.equal(strips.back_project(y), strips.back_project(y.contiguous()))


def test_the_projector_takes_the_kernels(error):
    g = geometry((6, 7, 9), [-50.0, 10.0])
    x, y = normal(2, 6, 7).requires_grad_(), normal(2, 2, 9, seed=1).requires_grad_()
    projector, right = SliceProjector(g), plain(g)
    assert isinstance(projector._strips, Strips)
    assert projector._matrices is None
    (by_x,) = torch.autograd.grad((projector(x) * y.detach()).sum(), x)
    (by_y,) = torch.autograd.grad((x.detach() * projector.adjoint(y)).sum(), y)
    assert error(by_x, right.adjoint(y.detach().double())) < CLOSE
    assert error(by_y, right(x.detach().double())) < CLOSE


def test_other_projectors_stay_with_the_plain_way(monkeypatch):
    g = geometry((3, 3, 3))
    assert SliceProjector(g, dtype=torch.float64)._strips is None
    assert SliceProjector(g, stored=True)._strips is None
    assert SliceProjector(g, stored=False)._strips is None
    monkeypatch.setattr(cpu_projector.native, "usable", lambda _: False)
    assert SliceProjector(g)._strips is None
    assert SliceProjector(g)._matrices is not None


def test_slices_of_another_type_are_refused():
    with pytest.raises(ValueError, match="float32"):
        Strips(geometry((3, 3, 3))).project(torch.ones(1, 3, 3, dtype=torch.float64))
