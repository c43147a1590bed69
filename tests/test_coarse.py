"""What is found out before the fit."""

import numpy as np
import pytest
import torch

from tiltfield import coarse
from tiltfield.coarse import coarse_fit
from tiltfield.config import ReconstructConfig, SimulateConfig
from tiltfield.plan import first_plan
from tiltfield.problem import inside_box
from tiltfield.simulate import simulate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wide():
    """A slab that goes on beyond the images."""
    return simulate(SimulateConfig(size=48, tilts="-50:50:4", snr=2.0, wide=True)).series()


def test_a_wide_slab_gets_room_for_every_ray_and_a_margin(wide):
    found = coarse_fit(wide, first_plan(wide, "bf"), ReconstructConfig(), CPU)
    assert found.margin == round(coarse.MARGIN * 48) == 1
    assert inside_box(wide.angles_deg, 48, 48 + 2 * found.padding, found.n_z).all()
    assert not inside_box(wide.angles_deg, 48, 48 + 2 * found.padding - 4, found.n_z).all()


def test_a_given_thickness_is_taken_without_a_margin(wide):
    config = ReconstructConfig(thickness=str(30 * wide.pixel_size_nm))
    found = coarse_fit(wide, first_plan(wide, "bf"), config, CPU)
    assert (found.n_z, found.margin) == (30, 0)


def test_the_thickness_is_where_the_coarse_profile_ends():
    height = np.exp(-(((np.arange(32) - 15.5) / 6) ** 2))
    half = 6 * np.sqrt(-np.log(coarse.EDGE))
    expected = 2 * coarse.BLURRED * half * 3
    assert coarse._thickness(height, 3) == pytest.approx(expected, rel=0.02)
    ends = height.copy()
    ends[[0, -1]] = 0.8  # what no layer explains gathers there
    assert coarse._thickness(ends, 3) == pytest.approx(expected, rel=0.02)
    assert np.isfinite(coarse._thickness(np.ones(32), 3))
