"""What is found out before the fit."""

import numpy as np
import pytest
import torch

from tiltfield import coarse
from tiltfield.coarse import coarse_fit
from tiltfield.config import ReconstructConfig, SimulateConfig
from tiltfield.io import load
from tiltfield.plan import first_plan
from tiltfield.problem import inside_box
from tiltfield.series import TiltSeries
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


def rod(n=128, radius=0.16, deviation=2e-4):
    """A round rod of layers along the tilt axis that tapers off, in vacuum, in images that are nearly free of noise."""
    angles = np.arange(-76.0, 77.0, 4.0)
    u = (np.arange(n) - (n - 1) / 2) / n
    taper = radius * np.clip(np.linspace(0, 2, n), 0, 1)[:, None]
    path = 2 * np.sqrt(np.clip(taper**2 - u**2, 0, None)) * (1 + 3 * (np.arange(n) // 8 % 2))[:, None]
    noise = np.random.default_rng(0).normal(0, deviation, (len(angles), n, n))
    return TiltSeries((path + noise).astype(np.float32), angles)


def test_a_rod_in_vacuum_is_not_taken_for_a_section_that_goes_on_beyond_the_images():
    series = rod()
    found = coarse_fit(series, first_plan(series, "haadf"), ReconstructConfig(), CPU)
    assert found.padding == 0
    assert 0.32 * 128 < found.n_z < 0.5 * 128


def test_the_recorded_needle_is_as_thick_as_it_is_wide(shared_data):
    series = load(shared_data("needle/HAADF_Aligned.hspy"), tilt_axis="x")
    found = coarse_fit(series, first_plan(series, "haadf"), ReconstructConfig(), CPU)
    assert found.padding == 0
    assert 80 < found.n_z < 120  # it is 80 wide


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


def test_a_slab_off_the_middle_is_widened_about_its_own():
    half = 4 * np.sqrt(-np.log(coarse.EDGE))
    for place in (15.5, 20.5, 10.5):
        height = np.exp(-(((np.arange(32) - place) / 4) ** 2))
        expected = 2 * (abs(place - 15.5) + coarse.BLURRED * half)
        assert coarse._thickness(height, 1) == pytest.approx(expected, rel=0.02)
