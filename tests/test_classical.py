"""WBP and SIRT: the filter by hand, objects with known projections, and ASTRA as the second road."""

import math

import numpy as np
import pytest
import torch

from tiltfield.classical import angular_weights, ramp_filter, sirt, wbp
from tiltfield.geometry import SliceGeometry
from tiltfield.projector import SliceProjector

N = 48
FULL = np.arange(-88.5, 89, 3.0)  # 60 tilts all the way round


def disc(tilts, radius=14.0, density=0.05, centre=(0.0, 0.0)):
    """Projector, exact sinogram (1, tilt, N) and image (N, N) of a disc at (z, x)."""
    theta = torch.deg2rad(torch.from_numpy(np.asarray(tilts, dtype=float)))[:, None]
    u = torch.arange(N) - (N - 1) / 2
    middle = centre[1] * torch.cos(theta) + centre[0] * torch.sin(theta)
    chord = 2 * density * torch.sqrt((radius**2 - (u - middle) ** 2).clamp_min(0))
    z, x = torch.meshgrid(u, u, indexing="ij")
    image = density * ((z - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).float()
    return SliceProjector(SliceGeometry.from_degrees(N, N, N, tilts)), chord.float()[None], image


def rms(a):
    return float(torch.as_tensor(a).square().mean().sqrt())


def test_the_ramp_by_hand():
    """Kak and Slaney (1988), eq. 3.61: 1/4, -1/π², 0, -1/9π²."""
    impulse = torch.zeros(33, dtype=torch.float64)
    impulse[16] = 1
    kernel = ramp_filter(impulse, "ram-lak")[16:20]
    expected = torch.tensor([0.25, -1 / math.pi**2, 0, -1 / (9 * math.pi**2)], dtype=torch.float64)
    torch.testing.assert_close(kernel, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frequency", [0.05, 0.1, 0.25, 0.4])
@pytest.mark.parametrize(
    ("window", "gain"), [("ram-lak", lambda f: f), ("hann", lambda f: f * math.cos(math.pi * f) ** 2)]
)
def test_a_wave_is_multiplied_by_its_frequency(frequency, window, gain):
    wave = torch.cos(2 * math.pi * frequency * torch.arange(1024, dtype=torch.float64))
    middle = slice(400, 624)
    torch.testing.assert_close(
        ramp_filter(wave, window)[middle], gain(frequency) * wave[middle], atol=0.01 * gain(frequency) + 1e-4, rtol=0
    )


def test_another_window_is_refused():
    with pytest.raises(ValueError, match="hamming"):
        ramp_filter(torch.zeros(8), "hamming")


def test_angular_weights_do_not_depend_on_the_order():
    angles = torch.tensor([-1.0, -0.4, 0.0, 0.1, 0.9], dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(angular_weights(angles[order]), angular_weights(angles)[order])
    torch.testing.assert_close(angular_weights(angles)[2], torch.tensor(0.25, dtype=torch.float64))
    assert angular_weights(torch.deg2rad(torch.from_numpy(FULL))).sum().item() == pytest.approx(math.pi)


@pytest.mark.parametrize("window", ["ram-lak", "hann"])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (3.0, -5.0)])
def test_wbp_of_a_full_range_gives_the_density(window, centre):
    projector, sinogram, _ = disc(FULL, centre=centre)
    volume = wbp(projector, sinogram, window)[0]
    u = torch.arange(N) - (N - 1) / 2
    distance = torch.hypot(u[:, None] - centre[0], u[None] - centre[1])
    assert volume[distance < 10].mean().item() == pytest.approx(0.05, rel=0.02)
    assert volume[(distance > 18) & (distance < 22)].mean().abs().item() < 0.02 * 0.05


def test_hann_is_smoother_than_ram_lak():
    projector, sinogram, _ = disc(FULL)
    noisy = sinogram + 0.1 * torch.randn(sinogram.shape, generator=torch.Generator().manual_seed(0))
    noise = {w: wbp(projector, noisy, w) - wbp(projector, sinogram, w) for w in ("hann", "ram-lak")}
    assert rms(noise["hann"]) < 0.7 * rms(noise["ram-lak"])


def test_the_residual_of_sirt_falls_and_the_density_stays_positive():
    projector, sinogram, _ = disc(np.arange(-60, 61, 4.0))
    noisy = sinogram + 0.1 * torch.randn(sinogram.shape, generator=torch.Generator().manual_seed(0))
    residuals, counted = [], []
    for iterations in (1, 2, 5, 10, 30):
        density = sirt(projector, noisy, iterations, watch=counted.append)
        assert density.min() >= 0
        residuals.append(rms(noisy - projector(density)))
    assert residuals == sorted(residuals, reverse=True)
    assert counted[-30:] == list(range(1, 31))


def test_sirt_of_exact_data_comes_close_to_the_disc():
    projector, sinogram, image = disc(FULL)
    assert rms(sirt(projector, sinogram, 100)[0] - image) < 0.25 * rms(image)


def test_masked_pixels_do_not_matter_to_sirt():
    projector, sinogram, _ = disc(np.arange(-60, 61, 4.0))
    used = torch.rand(sinogram.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    broken = torch.where(used, sinogram, torch.full_like(sinogram, 1e3))
    a, b = (sirt(projector, s, 10, used=used) for s in (sinogram, broken))
    assert torch.equal(a, b)
    assert rms((projector(a) - sinogram)[used]) < 0.1 * rms(sinogram)


@pytest.mark.parametrize("algorithm", ["SIRT", "FBP"])
def test_astra_agrees(algorithm):
    """Relative root mean square difference: SIRT below 1e-3 (the same matrix), FBP below 5 %."""
    astra = pytest.importorskip("astra", reason="needs astra-toolbox: pip install 'tiltfield[astra]'")
    tilts = FULL if algorithm == "FBP" else np.arange(-60, 61, 5.0)
    projector, sinogram, _ = disc(tilts, centre=(3.0, -5.0))
    geometry = astra.create_vol_geom(N, N)
    rays = astra.create_projector("strip", astra.create_proj_geom("parallel", 1.0, N, -np.deg2rad(tilts)), geometry)
    data = astra.data2d.create("-sino", astra.projector.projection_geometry(rays), sinogram[0].numpy())
    out = astra.data2d.create("-vol", geometry, 0)
    config = astra.astra_dict(algorithm) | {"ProjectorId": rays, "ProjectionDataId": data, "ReconstructionDataId": out}
    config["option"] = {"MinConstraint": 0.0} if algorithm == "SIRT" else {"FilterType": "ram-lak"}
    task = astra.algorithm.create(config)
    astra.algorithm.run(task, 20)
    expected = torch.from_numpy(astra.data2d.get(out).copy())
    astra.algorithm.delete(task)
    astra.data2d.delete([data, out])
    astra.projector.delete(rays)
    found = sirt(projector, sinogram, 20)[0] if algorithm == "SIRT" else wbp(projector, sinogram, "ram-lak")[0]
    assert rms(found - expected) < (1e-3 if algorithm == "SIRT" else 0.05) * rms(expected)
