"""BM3D and Topaz themselves, where they are installed."""

import numpy as np
import pytest
import torch

from tiltfield.denoise import denoise
from tiltfield.series import TiltSeries


def needs(module, extra):
    return pytest.importorskip(module, reason=f"needs pip install 'tiltfield[{extra}]', which CI leaves out")


def gain(made, name):
    """Return how many times the squared error against the truth is less than before."""
    series = TiltSeries(1000 + 50 * made.noisy, made.angles_deg)
    clean = 1000 + 50 * made.clean
    images = denoise(series, name).images
    assert np.all(np.isfinite(images))
    return float(np.mean((series.images - clean) ** 2) / np.mean((images - clean) ** 2))


def test_bm3d_lowers_the_error(cell):
    needs("bm3d", "bm3d")
    assert gain(cell(size=48, tilts="-40:40:20", snr=0.5), "bm3d") > 5


@pytest.mark.parametrize("axis", ["x", "y"])
def test_bm3d_knows_noise_along_the_scan(cell, axis):
    needs("bm3d", "bm3d")
    assert gain(cell(size=48, tilts="-20:20:10", snr=0.5, scan_correlation=0.6, scan_axis=axis), "bm3d") > 3


def test_bm3d_gives_the_same_twice(cell):
    needs("bm3d", "bm3d")
    made = cell(size=24, tilts="-40:40:40", snr=0.5)
    series = TiltSeries(made.noisy, made.angles_deg)
    first, second = (denoise(series, "bm3d").images for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_topaz_lowers_the_error_and_prints_nothing(cell, capfd):
    needs("topaz.denoising.models", "topaz")
    assert gain(cell(size=48, tilts="-40:40:20", snr=0.5), "topaz") > 1.5
    assert capfd.readouterr() == ("", "")


def test_topaz_works_as_its_own_pipeline_away_from_the_edges(cell):
    needs("topaz.denoising.models", "topaz")
    from topaz.denoise import Denoise

    from tiltfield.denoise.topaz import _load

    made = cell(size=128, tilts="-40:40:40", snr=1.0)
    theirs = Denoise(torch.nn.Sequential(_load())).denoise(made.noisy[1].copy())
    ours = denoise(TiltSeries(made.noisy, made.angles_deg), "topaz").images[1]
    middle = (slice(48, 80), slice(48, 80))
    np.testing.assert_allclose(ours[middle], theirs[middle], atol=0.05 * np.ptp(made.clean))
