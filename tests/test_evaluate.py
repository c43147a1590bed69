"""What `evaluate` reports and refuses."""

import math

import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.metrics import curve_resolution, fsc, mse_minmax, psnr_affine, psnr_minmax, ssim
from tiltfield.series import Volume


@pytest.fixture
def truth():
    data = np.zeros((16, 12, 12), np.float32)
    data[4:12] = np.random.default_rng(1).uniform(0.2, 1, (8, 12, 12))
    return Volume(data, 2.0)


@pytest.fixture
def estimate(truth):
    noise = np.random.default_rng(2).normal(scale=0.1, size=truth.data.shape)
    return Volume((truth.data + noise).astype(np.float32), 2.0)


def test_figures_are_those_of_the_metrics(estimate, truth):
    a, b = estimate.data, truth.data
    assert evaluate(estimate, truth) == {
        "psnr_affine_db": psnr_affine(a, b),
        "psnr_minmax_db": psnr_minmax(a, b),
        "mse_minmax": mse_minmax(a, b),
        "ssim": ssim(a, b),
        "fsc_0.5": curve_resolution(*fsc(a, b), 0.5, 2.0),
        "fsc_0.143": curve_resolution(*fsc(a, b), 0.143, 2.0),
        "fsc_unit": "nm",
    }


@pytest.mark.parametrize("wrap", [Volume, np.asarray])
def test_inside_adds_its_figures(estimate, truth, wrap):
    mask = truth.data > 0
    figures = evaluate(estimate, truth, wrap(mask.astype(np.float32)))
    assert figures["psnr_inside_db"] == psnr_affine(estimate.data, truth.data, mask)
    assert figures["psnr_flat_slab_db"] == psnr_affine(mask, truth.data)
    assert figures["psnr_flat_slab_db"] < figures["psnr_affine_db"]


def test_truth_against_itself_is_perfect(truth):
    figures = evaluate(truth, truth)
    assert figures["psnr_minmax_db"] == math.inf
    assert figures["ssim"] == pytest.approx(1)
    assert figures["fsc_0.5"] == pytest.approx(4)  # Nyquist of 2 nm voxels


def test_resolution_is_in_voxels_where_no_size_is_known(truth):
    figures = evaluate(Volume(truth.data), Volume(truth.data))
    assert figures["fsc_unit"] == "voxels"
    assert figures["fsc_0.143"] == pytest.approx(2)


def test_the_volume_lends_its_voxel_size(truth):
    assert evaluate(Volume(truth.data, 3.0), Volume(truth.data))["fsc_0.5"] == pytest.approx(6)


def test_other_shape_is_refused_by_name(estimate, truth):
    with pytest.raises(InputError, match=r"volume has shape \(15, 12, 12\).*truth \(16, 12, 12\)"):
        evaluate(Volume(estimate.data[1:]), truth)
    with pytest.raises(InputError, match=r"inside mask has shape \(16, 12, 11\)"):
        evaluate(estimate, truth, np.ones((16, 12, 11), bool))


def test_empty_inside_is_refused(estimate, truth):
    with pytest.raises(InputError, match="mask is empty"):
        evaluate(estimate, truth, np.zeros(truth.data.shape, bool))
