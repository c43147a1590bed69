"""One function for all denoisers: what it keeps of a series, what it drops, and what it refuses."""

import importlib
import subprocess
import sys
import types
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch

from tiltfield import denoise as package
from tiltfield.config import DenoiserName
from tiltfield.denoise import DENOISERS, Run, denoise
from tiltfield.denoise.base import find_scan, tiles
from tiltfield.errors import InputError
from tiltfield.series import TiltSeries


@pytest.fixture
def series():
    rng = np.random.default_rng(0)
    images = np.round(rng.normal(1000, 50, (5, 20, 24))).astype(np.float32)
    return TiltSeries(images, np.array([-40.0, -20, 0, 20, 40]), 0.8, quantum=1.0, name="needle")


@pytest.fixture
def mean_of_image(monkeypatch):
    """A denoiser "topaz" that lessens each pixel's distance from the mean of its image, and what it was given."""
    given = []

    def by_mean(series, run):
        given.append((series, run))
        mean = series.images.mean(axis=(1, 2), keepdims=True)
        return mean + 0.5 * (series.images - mean)

    monkeypatch.setattr(package, "DENOISERS", {**DENOISERS, "topaz": by_mean})
    return given


def test_there_is_a_denoiser_for_every_name_of_the_settings():
    assert tuple(DENOISERS) == typing.get_args(DenoiserName)


def test_what_is_kept_and_what_is_not(series, mean_of_image):
    clean = denoise(series, "topaz", seed=3)
    assert clean.images.dtype == np.float32
    np.testing.assert_allclose(clean.images.mean(axis=(1, 2)), series.images.mean(axis=(1, 2)), rtol=1e-6)
    assert clean.angles_deg is series.angles_deg
    assert clean.pixel_size_nm == 0.8
    assert clean.quantum is None
    assert clean.name == "needle, denoised by topaz"
    assert clean.sources["denoised"] == "by topaz"
    run = mean_of_image[0][1]
    assert (run.seed, run.device) == (3, torch.device("cpu"))


def test_masked_pixels_are_filled_before(series, mean_of_image):
    holed, valid = series.images.copy(), np.ones(series.images.shape, bool)
    holed[1, 4, 5], valid[1, 4, 5] = 1e6, False
    clean = denoise(replace(series, images=holed, valid=valid), "topaz")
    assert mean_of_image[0][0].images[1, 4, 5] == np.median(np.delete(holed[1, 2:7, 3:8].ravel(), 12))
    assert not clean.valid[1, 4, 5]
    assert clean.images.max() < 2000


def test_an_unknown_name_names_the_nearest(series):
    with pytest.raises(InputError, match=r"expected a denoiser of bm3d, .*, got 'bmd3'; did you mean 'bm3d'\?"):
        denoise(series, "bmd3")


@pytest.mark.parametrize(("name", "module"), [("bm3d", "bm3d"), ("topaz", "topaz.denoising.models")])
def test_a_missing_package_says_how_to_install_it(series, monkeypatch, name, module):
    found = importlib.import_module

    def gone(wanted, *rest):
        if wanted == module:
            raise ModuleNotFoundError(f"No module named '{module}'")
        return found(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(InputError, match=rf"pip install 'tiltfield\[{name}\]'"):
        denoise(series, name)


def test_optional_packages_are_imported_only_when_asked_for():
    code = "import sys, tiltfield.denoise; print([m for m in ('bm3d', 'bm4d', 'topaz') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- bm3d and topaz with stand-ins for the packages ----------------------------------------------------------------


def stand_in(monkeypatch, name, module):
    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda wanted, *r: module if wanted == name else found(wanted, *r))


def poisson_series(edge=48, slope=40.0, dark=500.0):
    rng = np.random.default_rng(1)
    counts = np.broadcast_to(np.linspace(5, 40, edge), (6, edge, edge))
    images = dark + slope * rng.poisson(counts)
    return TiltSeries(images, np.linspace(-50, 50, 6)), dark + slope * counts


def test_bm3d_sees_noise_of_the_deviation_it_is_told_and_returns_to_the_unit(monkeypatch):
    """A BM3D that knows the mean of each column: noise is the same everywhere, and the inverse has no bias."""
    noisy, clean = poisson_series()
    seen = []

    def columns(z, sigma, profile):
        assert 0 <= z.min() <= z.max() <= 1
        mean = z.mean(axis=0, keepdims=True)
        seen.append((z - mean).std(axis=0) / sigma)
        return np.broadcast_to(mean, z.shape)

    stand_in(monkeypatch, "bm3d", types.SimpleNamespace(bm3d=columns, BM3DProfile=types.SimpleNamespace))
    images = denoise(noisy, "bm3d").images
    ratios = np.mean(seen, axis=0)
    assert ratios[:24].mean() == pytest.approx(1, abs=0.15)
    assert ratios[24:].mean() == pytest.approx(1, abs=0.15)
    error = (images - clean).mean(axis=(0, 1))
    assert np.abs(error).mean() < 0.03 * np.ptp(clean)
    assert abs(error.mean()) < 0.005 * np.ptp(clean)


def test_bm3d_tells_its_licence_once(monkeypatch, told):
    from tiltfield.denoise import bm3d as adapter

    monkeypatch.setattr(adapter, "_told", set())
    module = types.SimpleNamespace(bm3d=lambda z, sigma, profile: z, BM3DProfile=types.SimpleNamespace)
    stand_in(monkeypatch, "bm3d", module)
    for _ in range(2):
        denoise(poisson_series()[0], "bm3d", observer=told)
    assert [text for text in told.said if "non-commercial" in text] == [adapter.LICENCE]
    assert [done for _, done, _ in told.done][5::6] == [1.0, 1.0]


def test_bm3d_refuses_images_smaller_than_a_block(monkeypatch, series):
    stand_in(monkeypatch, "bm3d", types.SimpleNamespace())
    with pytest.raises(InputError, match="at least 8 x 8 pixels, got 7 x 24"):
        denoise(replace(series, images=series.images[:, :7]), "bm3d")


class Halving(torch.nn.Module):
    """A network that halves every value; its images must come at mean 0 and deviation 1."""

    def __init__(self, **_widths):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.scale * x


def fake_topaz(monkeypatch, folder):
    from tiltfield.denoise import topaz as adapter

    weights = folder / "topaz" / "pretrained" / "denoise"
    weights.mkdir(parents=True)
    torch.save({"scale": torch.tensor(0.5)}, weights / adapter.MODEL)
    module = types.SimpleNamespace(UDenoiseNet=Halving, __file__=str(folder / "topaz" / "denoising" / "models.py"))
    stand_in(monkeypatch, "topaz.denoising.models", module)
    return weights / adapter.MODEL


def test_topaz_returns_to_the_unit(monkeypatch, tmp_path, series):
    fake_topaz(monkeypatch, tmp_path)
    mean = series.images.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(denoise(series, "topaz").images, mean + 0.5 * (series.images - mean), rtol=1e-5)


def test_topaz_without_its_weights_says_so(monkeypatch, tmp_path, series):
    fake_topaz(monkeypatch, tmp_path).unlink()
    with pytest.raises(InputError, match="does not hold the network unet"):
        denoise(series, "topaz")


@pytest.mark.parametrize("content", [b"", b"abc", b"404: Not Found", None])
def test_topaz_with_damaged_weights_says_so(monkeypatch, tmp_path, series, content):
    path = fake_topaz(monkeypatch, tmp_path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(InputError, match=r"does not hold the network unet .*(is damaged|zip archive)") as error:
        denoise(series, "topaz")
    assert "weights_only" not in str(error.value)


# ---- what they share -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 13), (40, 7), (1, 1)])
def test_tiles_cover_an_image_once(shape):
    count, values = np.zeros(shape, int), np.arange(np.prod(shape)).reshape(shape)
    for tile in tiles(shape, 8, 3):
        count[tile.kept] += 1
        np.testing.assert_array_equal(values[tile.seen][tile.inner], values[tile.kept])
    assert (count == 1).all()


@pytest.mark.parametrize("axis", ["x", "y"])
def test_noise_along_the_scan_is_found(cell, axis):
    made = cell(size=48, snr=0.5, scan_correlation=0.5, scan_axis=axis)
    scan = find_scan(TiltSeries(made.noisy, made.angles_deg))
    assert scan.axis == {"y": 1, "x": 2}[axis]
    assert scan.correlation[0] == pytest.approx(0.5, abs=0.1)


def test_white_noise_has_no_scan(cell):
    made = cell(size=48, snr=0.5)
    assert find_scan(TiltSeries(made.noisy, made.angles_deg)) is None


def test_a_run_has_defaults_that_do_nothing():
    Run().observer.say("nothing")
    assert Run().device.type == "cpu"


@pytest.mark.parametrize("name", ["dwk-g", "dwk-p"])
def test_the_order_of_the_tilts_does_not_matter(series, name):
    shuffled = [3, 0, 4, 2, 1]
    found = denoise(series.select(shuffled), name)
    np.testing.assert_array_equal(found.angles_deg, series.angles_deg[shuffled])
    np.testing.assert_allclose(found.images, denoise(series, name).images[shuffled], rtol=1e-5)
