"""The slice projector: exact adjoint, closed forms, two roads to one answer, and ASTRA as a witness."""

import math

import numpy as np
import pytest
import torch

from tiltfield.geometry import SliceGeometry, centred, detector_coordinate
from tiltfield.projector import Rays, SliceProjector
from tiltfield.rays import stratified

TILTS = np.array([-70.0, -45.0, -33.3, -1e-7, 0.0, 1e-3, 12.5, 45.0, 61.0, 89.0])
SIZES = [
    (16, 16, 16),
    (9, 20, 20),
    (21, 8, 8),
    (7, 15, 15),
    (12, 24, 15),
    (11, 25, 14),
    (10, 9, 22),
    (1, 6, 6),
    (5, 1, 4),
]
F64 = torch.float64


def make(sizes, tilts=TILTS, **options):
    return SliceProjector(SliceGeometry.from_degrees(*sizes, np.asarray(tilts)), dtype=F64, **options)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def gaussian(z, x, sigma, centre=(0.0, 0.0)):
    return torch.exp(-((z - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * sigma**2))


def on_grid(density, n_z, n_x, step=1.0):
    return density(centred(n_z, dtype=F64)[:, None] * step, centred(n_x, dtype=F64) * step)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_adjoint_is_exact(sizes, stored):
    a = make(sizes, stored=stored)
    x, y = normal(3, *sizes[:2]), normal(3, len(TILTS), sizes[2], seed=1)
    left, right = (a(x) * y).sum(), (x * a.adjoint(y)).sum()
    assert abs(left - right) < 1e-10 * a(x).norm() * y.norm()


@pytest.mark.parametrize("sizes", SIZES)
def test_stored_and_matrix_free_agree(sizes):
    kept, free = make(sizes, stored=True), make(sizes, stored=False)
    x, y = normal(2, *sizes[:2]), normal(2, len(TILTS), sizes[2], seed=1)
    torch.testing.assert_close(kept(x), free(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(kept.adjoint(y), free.adjoint(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stored", [True, False])
def test_the_gradient_is_the_adjoint_and_the_adjoints_the_map(stored):
    a = make((9, 13, 10), stored=stored)
    x, y = normal(2, 9, 13).requires_grad_(), normal(2, len(TILTS), 10, seed=1).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad((a(x) * y).sum(), x)[0], a.adjoint(y))
    torch.testing.assert_close(torch.autograd.grad((x * a.adjoint(y)).sum(), y)[0], a(x))
    small = make((3, 4, 5), [-40.0, 20.0], stored=stored)
    assert torch.autograd.gradcheck(small, normal(2, 3, 4).requires_grad_())
    assert torch.autograd.gradgradcheck(small, normal(2, 3, 4).requires_grad_())


@pytest.mark.parametrize("sizes", [(9, 9, 31), (12, 17, 38), (14, 6, 27)])
def test_mass_is_conserved_on_a_wide_detector(sizes):
    x = normal(1, *sizes[:2]).abs()
    torch.testing.assert_close(make(sizes)(x).sum(-1), x.sum().expand(1, len(TILTS)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [8, 9])
def test_zero_tilt_sums_along_the_beam(n):
    x = normal(2, 5, n)
    torch.testing.assert_close(make((5, n, n), [0.0])(x)[:, 0], x.sum(1), rtol=0, atol=1e-14)


def test_a_pixel_at_45_degrees_by_hand():
    # The footprint is the triangle of half width 1/√2 and height √2; beyond ±1/2 lie two tails of (1/√2 - 1/2)² each.
    tail = (math.sqrt(0.5) - 0.5) ** 2
    expected = torch.tensor([[[tail, 1 - 2 * tail, tail]]], dtype=F64)
    torch.testing.assert_close(make((1, 1, 3), [45.0])(torch.ones(1, 1, 1, dtype=F64)), expected)


@pytest.mark.parametrize("sizes", [(64, 64, 64), (61, 70, 63), (60, 96, 65)])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (9.0, -4.0), (-6.5, 7.25)])
def test_a_gaussian_blob_has_its_closed_form(sizes, centre):
    tilts, sigma = np.array([-60.0, -30.0, 0.0, 17.0, 50.0, 62.0]), 3.0
    projected = make(sizes, tilts)(on_grid(lambda z, x: gaussian(z, x, sigma, centre), *sizes[:2])[None])[0]
    theta = torch.deg2rad(torch.tensor(tilts))[:, None]
    z, x = (torch.tensor(c, dtype=F64) for c in centre)
    distance = centred(sizes[2], dtype=F64) - detector_coordinate(x, z, theta)
    # The pixel's footprint and the column's width add 1/12 each; but at zero tilt, where all pixels of a column of the
    # slice lie at the same offset d from a detector column, together d (1 - d).
    offset = (sizes[1] - sizes[2]) / 2 % 1
    variance = torch.where(theta == 0, sigma**2 + offset * (1 - offset), sigma**2 + 1 / 6)
    mass = 2 * math.pi * sigma**2
    expected = mass / (2 * math.pi * variance).sqrt() * torch.exp(-(distance**2) / (2 * variance))
    torch.testing.assert_close(projected, expected, rtol=0, atol=2e-4 * float(expected.max()))


def test_positive_tilt_moves_the_far_side_to_greater_columns():
    slices = torch.zeros(1, 21, 21, dtype=F64)
    slices[0, 18, 10] = 1  # x = 0, z = 8
    projected = make((21, 21, 21), [-30.0, 30.0])(slices)[0]
    assert projected.argmax(-1).tolist() == [10 - 4, 10 + 4]


def test_a_constant_disc_projects_to_its_chords():
    n, radius, fine = 64, 24.0, 8
    i = (torch.arange(n * fine, dtype=F64) + 0.5) / fine - n / 2
    inside = (i[:, None] ** 2 + i**2 <= radius**2).to(F64)
    disc = inside.reshape(n, fine, n, fine).mean((1, 3))
    edge = (torch.arange(n + 1, dtype=F64) - n / 2).clamp(-radius, radius)
    chord = (edge * (radius**2 - edge**2).sqrt() + radius**2 * torch.asin(edge / radius)).diff()  # ∫ 2√(R² - u²) du
    error = make((n, n, n))(disc[None])[0] - chord
    assert error.abs().max() < 0.03 * 2 * radius
    assert error[:, centred(n).abs() < 0.9 * radius].abs().max() < 0.01 * 2 * radius
    assert error.abs().mean() < 0.002 * 2 * radius


@pytest.mark.parametrize(("n_x", "n_u", "wide"), [(24, 10, 16), (25, 11, 17), (24, 11, 17), (25, 10, 16)])
def test_a_narrow_detector_sees_the_middle_of_a_wide_one(n_x, n_u, wide):
    x = normal(2, 9, n_x)
    torch.testing.assert_close(make((9, n_x, n_u))(x), make((9, n_x, wide))(x)[..., 3:-3])


def test_padding_with_nothing_changes_nothing():
    x = normal(2, 9, 12)
    padded = torch.nn.functional.pad(x, (5, 5, 2, 2))
    torch.testing.assert_close(make((13, 22, 14))(padded), make((9, 12, 14))(x))


def test_reversing_x_and_u_reverses_the_tilt():
    x, tilts = normal(2, 9, 12), [-50.0, -20.0, 35.0]
    mirrored = make((9, 12, 13), np.negative(tilts))(x.flip(-1)).flip(-1)
    torch.testing.assert_close(make((9, 12, 13), tilts)(x), mirrored)


def analytic(points):
    """Three blobs that also vary along y; points (z, y, x)."""
    z, y, x = points.unbind(-1)
    parts = [(1.0, 5.0, (0, 0)), (0.7, 3.5, (7, -9)), (1.2, 4.0, (-6, 8))]
    return sum(w * gaussian(z, x, sigma, centre) for w, sigma, centre in parts) * torch.exp(-((y / 20) ** 2))


def rays(u, tilts, y=3.0, *, n_samples, generator=None, half_length=45.0):
    """∫ρ ds ≈ Σ ρ(x_i, y, z_i) δ, as the published methods sample it."""
    theta = torch.deg2rad(torch.tensor(tilts, dtype=F64)).repeat_interleave(len(u))
    end = torch.full_like(theta, half_length)
    s = stratified(-end, end, n_samples, generator)
    points = Rays(torch.full_like(theta, y), u.repeat(len(tilts)), theta).points(s)
    return (analytic(points).sum(-1) * 2 * half_length / n_samples).reshape(len(tilts), len(u))


def test_ray_sampler_and_slice_projector_meet_as_the_grid_gets_finer():
    tilts, errors = [-65.0, -20.0, 0.0, 38.0, 70.0], []
    for fine in (1, 2):
        n, step = 80 * fine, 1 / fine
        y = torch.tensor(3.0, dtype=F64)
        slices = on_grid(lambda z, x: analytic(torch.stack(torch.broadcast_tensors(z, y, x), -1)), n, n, step)  # noqa: B023
        u = centred(n, dtype=F64) * step
        expected = rays(u, tilts, n_samples=400)
        projected = make((n, n, n), tilts)(slices[None])[0] * step
        errors.append(float((projected - expected).abs().max() / expected.max()))
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # second order


def test_stratified_rays_scatter_about_the_midpoint_rule():
    u, tilts = centred(20, dtype=F64) * 2, [-30.0, 60.0]
    expected = rays(u, tilts, n_samples=400)
    draws = [rays(u, tilts, n_samples=64, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for draw in draws:
        torch.testing.assert_close(draw, expected, rtol=0, atol=0.05 * float(expected.max()))
    mean = torch.stack(
        [rays(u, tilts, n_samples=64, generator=torch.Generator().manual_seed(s)) for s in range(50)]
    ).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.005 * float(expected.max()))


@pytest.mark.parametrize("sizes", [(32, 32, 32), (21, 40, 33), (30, 25, 24)])
def test_astra_agrees(sizes):
    astra = pytest.importorskip("astra", reason="needs astra-toolbox: pip install 'tiltfield[astra]'")
    tilts = np.array([-70.0, -45.5, -20.0, 3.0, 30.0, 64.0])
    x = normal(1, *sizes[:2]).abs()
    volume = astra.create_vol_geom(sizes[0], sizes[1])
    # φ = -θ, as in geometry's table; rows of ASTRA's volume grow downwards, as z does
    detector = astra.create_proj_geom("parallel", 1.0, sizes[2], -np.deg2rad(tilts))
    projector = astra.create_projector("strip", detector, volume)
    data, expected = astra.create_sino(x[0].numpy().astype(np.float32), projector)
    astra.data2d.delete(data)
    astra.projector.delete(projector)
    projected = make(sizes, tilts)(x)[0].numpy()
    assert np.abs(projected - expected).max() < 1e-4 * expected.max()
