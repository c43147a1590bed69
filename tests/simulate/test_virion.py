"""Virions as maps: interpolation, turns, transparency, and the built-in one."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tiltfield.simulate.particles import VERTICES
from tiltfield.simulate.virion import CORE, FLUID, LEAFLET, PROTEIN, MapVirion, VirionMap, built_in_virion

IDENTITY = np.eye(3, dtype=np.float32)


def axis(n, width=1.0):
    return (((np.arange(n) + 0.5) / n - 0.5) * width).astype(np.float32)


def grid(n, width=1.0):
    return np.ix_(axis(n, width), axis(n, width), axis(n, width))


@pytest.fixture(scope="module")
def ramp():
    """A map whose density rises linearly along x inside a ball."""
    z, y, x = np.ix_(*(np.arange(41.0) - 20,) * 3)
    solid = z**2 + y**2 + x**2 <= 18**2
    return VirionMap(np.stack([np.where(solid, 0.5 + x / 50, 0), solid]).astype(np.float32), 19.0)


def test_a_linear_density_is_interpolated_exactly(ramp):
    virion = MapVirion(np.zeros(3), 0.19, IDENTITY, ramp)
    x = np.linspace(-0.15, 0.15, 61, dtype=np.float32)
    zero = np.zeros((1,), np.float32)
    np.testing.assert_allclose(virion.density(zero, zero, x), 0.5 + x * 100 / 50, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_turn_turns_the_density(ramp, seed):
    turn = Rotation.random(random_state=seed).as_matrix().astype(np.float32)
    virion = MapVirion(np.zeros(3), 0.19, turn, ramp)
    along = 0.1 * turn[2]  # the map's x axis
    values = virion.density(*(np.array([s * a for s in (-1, 0, 1)], np.float32) for a in along))
    np.testing.assert_allclose(values, [0.3, 0.5, 0.7], atol=1e-5)


def test_the_surface_does_not_fade_and_beyond_it_is_nothing(ramp):
    density = MapVirion(np.zeros(3), 0.19, IDENTITY, ramp).density(*grid(64, 0.5))
    assert np.isfinite(density).mean() == pytest.approx(4 / 3 * np.pi * 0.18**3 / 0.5**3, rel=0.02)
    assert np.nanmin(density) > 0.5 - 20 / 50
    assert np.isnan(density[[0, -1]]).all()


def test_a_window_without_the_virion_stays_empty(ramp):
    far = np.full((1,), 0.4, np.float32)
    assert np.isnan(MapVirion(np.zeros(3), 0.19, IDENTITY, ramp).density(far, far, far)).all()


def test_the_built_in_virion_has_spikes_shell_membrane_and_core():
    virion = MapVirion(np.zeros(3), 1.0, IDENTITY, built_in_virion())
    along = np.array([0.97, 0.80, 0.745, 0.70, 0.59, 0.52, 0.2, 0.0])[:, None] * VERTICES[0]
    values = virion.density(*along.astype(np.float32).T)
    expected = [PROTEIN, PROTEIN, FLUID, LEAFLET, LEAFLET, FLUID, CORE, CORE]
    np.testing.assert_allclose(values, expected, atol=0.12)
    beside = VERTICES[0] + VERTICES[np.argsort(VERTICES @ VERTICES[0])[-2]]  # mid-edge: no spike there
    edge = 0.95 * beside / np.linalg.norm(beside)
    assert np.isnan(virion.density(*edge.astype(np.float32)[:, None]))


def test_the_built_in_virion_is_icosahedral():
    fivefold = Rotation.from_rotvec(2 * np.pi / 5 * VERTICES[0]).as_matrix().astype(np.float32)
    plain, turned = (
        MapVirion(np.zeros(3), 1.0, t, built_in_virion()).density(*grid(40, 2.0)) for t in (IDENTITY, fivefold)
    )
    both = np.isfinite(plain) & np.isfinite(turned)
    assert (np.isfinite(plain) ^ np.isfinite(turned)).mean() < 0.005
    assert np.abs(plain - turned)[both].mean() < 0.02


def test_the_built_in_virion_fits_its_ball():
    channels, n = built_in_virion().channels, built_in_virion().channels.shape[-1]
    z, y, x = np.ix_(*(np.arange(n) - (n - 1) / 2,) * 3)
    assert np.sqrt(z**2 + y**2 + x**2)[channels[1] > 0.5 * np.ones_like(channels[1])].max() <= built_in_virion().radius
    assert 0 <= channels.min() <= channels.max() <= 1
