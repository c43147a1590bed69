"""A volume: its files by their endings, its box, its scale."""

import mrcfile
import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.metrics import mse_affine
from tiltfield.series import Volume


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize("size", [None, 0.1, 0.336, 12.5])
def test_a_volume_survives_its_file(tmp_path, size):
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    path = Volume(data, size).save(tmp_path / "v.mrc")
    back = Volume.load(path)
    np.testing.assert_array_equal(back.data, data)
    assert back.voxel_size_nm == (None if size is None else pytest.approx(size, rel=1e-6))
    assert [p.name for p in tmp_path.iterdir()] == ["v.mrc"]
    assert mrcfile.validate(path)


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (np.zeros((4, 5)), None, r"shape \(z, y, x\)"),
        (np.full((2, 2, 2), np.nan), None, "8 of 8 voxels are NaN"),
        (np.zeros((2, 2, 2)), 0.0, "voxel size must be a positive"),
    ],
)
def test_a_volume_is_checked(data, size, message):
    with pytest.raises(InputError, match=message):
        Volume(data, size)


def test_a_volume_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Volume.load(tmp_path / "none.mrc")
    with pytest.raises(InputError, match="cannot write"):
        Volume(np.zeros((2, 2, 2))).save(tmp_path / "no" / "v.mrc")


@pytest.mark.parametrize("ending", [".mrc", ".rec", ".MAP", ".ome.zarr", ".zarr", ".tif", ".TIFF"])
def test_the_ending_says_how_a_volume_is_written(tmp_path, ending):
    volume = Volume(random(4, 5, 6), 2.5)
    path = tmp_path / f"v{ending}"
    for _ in range(2):  # what is there is replaced
        assert volume.save(path) == path
    back = Volume.load(path)
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.voxel_size_nm == pytest.approx(2.5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert (path / "zarr.json").is_file() == ending.endswith("zarr")
    assert (path.is_file() and path.read_bytes()[:2] in (b"II", b"MM")) == (ending in (".tif", ".TIFF"))


@pytest.mark.parametrize("name", ["v", "v.st", "v.npy", "v.nii.gz"])
def test_another_ending_is_refused_by_naming_those_there_are(tmp_path, name):
    with pytest.raises(InputError, match=r"expected one of \.rec, \.mrc, .*\.ome\.zarr, .*\.tif"):
        Volume(random(2, 2, 2)).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_centred_volume_keeps_its_middle():
    volume = Volume(random(5, 3, 4), 2.0)
    wide = volume.centred(9)
    np.testing.assert_array_equal(wide.data[2:7], volume.data)
    assert wide.data[:2].max() == wide.data[7:].max() == 0
    np.testing.assert_array_equal(wide.centred(5).data, volume.data)
    np.testing.assert_array_equal(volume.centred(1).data, volume.data[2:3])
    assert wide.voxel_size_nm == 2.0


@pytest.mark.parametrize("depth", [0, -1, 4, 6])
def test_a_middle_between_voxels_is_refused(depth):
    with pytest.raises(InputError, match=f"differs by an even number, got {depth}"):
        Volume(random(5, 3, 4)).centred(depth)


def test_a_volume_is_fitted_by_the_least_squares():
    truth = Volume(random(8, 5, 6), 2.0)
    np.testing.assert_allclose(Volume(3 * truth.data - 2).fitted_to(truth).data, truth.data, atol=1e-5)
    rough = Volume(truth.data + random(8, 5, 6, seed=1))
    fitted = rough.fitted_to(truth)
    assert np.mean((fitted.data - truth.data) ** 2) == pytest.approx(mse_affine(rough.data, truth.data), rel=1e-4)
    thin = rough.centred(4)
    assert thin.fitted_to(truth).data.shape == truth.data.shape
    assert evaluate(thin, truth)["psnr_affine_db"] == pytest.approx(evaluate(thin.centred(8), truth)["psnr_affine_db"])
    with pytest.raises(InputError):
        rough.fitted_to(Volume(random(8, 5, 5)))
