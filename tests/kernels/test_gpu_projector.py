"""The projector's kernels are the plain projector, and the adjoint is the map's."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, for Linux: pip install 'tiltfield[gpu]'")

from tiltfield.geometry import SliceGeometry
from tiltfield.kernels import gpu_projector
from tiltfield.kernels.gpu_projector import Strips
from tiltfield.projector import SliceProjector

TILTS = [-67.0, -1e-7, 1e-3, 45.0, 89.0]
SIZES = [(7, 15, 15), (9, 24, 15), (8, 9, 22), (3, 34, 33), (1, 6, 6), (5, 1, 4)]
CLOSE = 1e-6


def geometry(sizes, tilts=TILTS):
    return SliceGeometry.from_degrees(*sizes, np.array(tilts))


def plain(geometry):
    return SliceProjector(geometry, dtype=torch.float64, stored=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", SIZES)
def test_map_and_adjoint_are_the_plain_ones_and_belong_together(sizes, device, error):
    g = geometry(sizes)
    x, y = normal(3, *sizes[:2]), normal(3, len(TILTS), sizes[2], seed=1)
    strips, right = Strips(g, device), plain(g)
    projected, back = strips.project(x.to(device)), strips.back_project(y.to(device))
    assert error(projected, right(x.double())) < CLOSE
    assert error(back, right.adjoint(y.double())) < CLOSE
    difference = (projected.cpu() * y).sum() - (x * back.cpu()).sum()
    assert abs(difference) < CLOSE * projected.norm() * y.norm()


def test_a_share_without_slices_has_no_images(device):
    strips = Strips(geometry((4, 5, 6)), device)
    assert strips.project(normal(0, 4, 5).to(device)).shape == (0, len(TILTS), 6)
    assert strips.back_project(normal(0, len(TILTS), 6).to(device)).shape == (0, 4, 5)


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_slices_are_taken_one_two_or_four_at_a_time(batch, device, error):
    g = geometry((4, 5, 6), [-20.0, 70.0])
    x, y = normal(batch, 4, 5), normal(batch, 2, 6, seed=1)
    strips, right = Strips(g, device), plain(g)
    assert error(strips.project(x.to(device)), right(x.double())) < CLOSE
    assert error(strips.back_project(y.to(device)), right.adjoint(y.double())) < CLOSE


@pytest.mark.parametrize("tilts", [[-31.0], [62.0]])
def test_nothing_is_lost_in_wide_slices(tilts, device, error, monkeypatch):
    """Positions in float32 would be off by 6e-5 of a pixel."""
    if device.type == "cpu":  # larger tiles: the interpreter takes as long for each
        for name, size in {"LINES": 1024, "COLUMNS": 1024, "ROWS": 16, "WIDTH": 1024}.items():
            monkeypatch.setattr(gpu_projector, name, size)
    g = geometry((16, 1023, 1024), tilts)
    x, y = normal(1, 16, 1023), normal(1, 1, 1024, seed=1)
    strips, right = Strips(g, device), plain(g)
    assert error(strips.project(x.to(device)), right(x.double())) < CLOSE
    assert error(strips.back_project(y.to(device)), right.adjoint(y.double())) < CLOSE


def test_the_projector_takes_the_kernels_where_they_are_of_use(dispatched, error):
    g = geometry((6, 7, 9), [-50.0, 10.0])
    x, y = normal(2, 6, 7).to(dispatched).requires_grad_(), normal(2, 2, 9, seed=1).to(dispatched).requires_grad_()
    projector, right = SliceProjector(g, device=dispatched), plain(g)
    assert projector._strips is not None
    assert projector._matrices is None
    (by_x,) = torch.autograd.grad((projector(x) * y.detach()).sum(), x)
    (by_y,) = torch.autograd.grad((x.detach() * projector.adjoint(y)).sum(), y)
    assert error(by_x, right.adjoint(y.detach().cpu().double())) < CLOSE
    assert error(by_y, right(x.detach().cpu().double())) < CLOSE


def test_float64_and_a_matrix_asked_for_stay_with_the_plain_way(dispatched):
    assert SliceProjector(geometry((3, 3, 3)), dtype=torch.float64)._strips is None
    assert SliceProjector(geometry((3, 3, 3)), stored=True)._strips is None


def test_views_are_taken_as_they_are(device, error):
    g = geometry((4, 5, 6), [-20.0, 70.0])
    x, y = normal(5, 4, 3).to(device).permute(2, 1, 0), normal(6, 2, 3, seed=1).to(device).permute(2, 1, 0)
    strips = Strips(g, device)
    assert error(strips.project(x), strips.project(x.contiguous())) == 0
    assert error(strips.back_project(y), strips.back_project(y.contiguous())) == 0
