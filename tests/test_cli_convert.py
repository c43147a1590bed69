"""`tiltfield convert`: names, refusals, what is printed."""

import json

import mrcfile
import numpy as np
import pytest
import tifffile

from tiltfield.io import read_volume, write_volume
from tiltfield.series import Volume


@pytest.fixture
def volume(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6), np.float32)
    return write_volume(Volume(data, 2.0), tmp_path / "cell.mrc", ["tiltfield reconstruct cell.st"])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_formats_are_written_beside_the_volume(tiltfield, volume):
    code, out, _ = tiltfield(
        "convert", volume, "--format", "mrc", "--format", "ome-zarr", "--format=tiff", "--dtype", "int16"
    )
    assert code == 0
    assert names(volume.parent) == ["cell.mrc", "cell.ome.zarr", "cell.rec", "cell.tif"]
    assert all(word in out for word in ("3dmod", "napari", "Fiji", "int16", "density ="))
    labels = mrcfile.open(volume.with_suffix(".rec")).get_labels()
    assert labels[1].startswith("tiltfield convert cell.mrc --format mrc")
    assert labels[-1] == "tiltfield reconstruct cell.st"


def test_the_ending_of_a_file_says_its_format(tiltfield, volume, tmp_path):
    assert tiltfield("convert", volume, "--out", tmp_path / "a.tif", "--dtype", "uint8", "--quiet") == (0, "", "")
    assert tifffile.imread(tmp_path / "a.tif").dtype == np.uint8


def test_an_ending_of_no_format_is_named(tiltfield, volume, tmp_path):
    code, _, err = tiltfield("convert", volume, "--out", tmp_path / "bad.xyz")
    assert code == 2
    assert "names no format" in " ".join(err.split())


def test_a_folder_takes_the_name_of_the_volume(tiltfield, volume, tmp_path):
    (tmp_path / "here").mkdir()
    tiltfield("convert", volume, "--out", tmp_path / "here", "--format", "mrc")
    np.testing.assert_array_equal(read_volume(tmp_path / "here/cell.rec").data, read_volume(volume).data)


def test_a_run_is_named_by_its_folder(tiltfield, volume):
    volume.rename(volume.with_name("volume.mrc"))
    assert tiltfield("convert", volume.parent, "--orient", "xzy")[0] == 0
    assert names(volume.parent) == ["volume.mrc", "volume.rec"]


def same_files(first, second):
    with mrcfile.open(first) as a, mrcfile.open(second) as b:
        np.testing.assert_array_equal(a.data, b.data)
        for axis in "xyz":
            assert float(a.header.origin[axis]) == pytest.approx(float(b.header.origin[axis]))


def test_a_file_that_was_turned_is_turned_back_and_turned_no_further(tiltfield, volume, tmp_path):
    turned, again, back = (tmp_path / f"{name}.mrc" for name in ("turned", "again", "back"))
    tiltfield("convert", volume, "--out", turned, "--orient", "xzy")
    tiltfield("convert", turned, "--out", again, "--orient", "xzy")
    tiltfield("convert", turned, "--out", back, "--orient", "xyz", "--format", "mrc")
    same_files(turned, again)
    same_files(volume, back)
    np.testing.assert_array_equal(read_volume(turned).data, read_volume(volume).data)


def test_what_another_program_turned_after_us_is_left_as_it_lies(tiltfield, volume, tmp_path):
    turned = tmp_path / "turned.mrc"
    tiltfield("convert", volume, "--out", turned, "--orient", "xzy")
    with mrcfile.open(turned, "r+") as file:
        file.add_label("clip: rotx - rotation by -90 about X")
        lies = file.data.copy()
    np.testing.assert_array_equal(read_volume(turned).data, lies)


def test_json_says_how_to_get_densities_back(tiltfield, volume, tmp_path):
    out = json.loads(tiltfield("convert", volume, "--out", tmp_path / "a.tif", "--dtype", "uint16", "--json")[1])
    assert out["files"] == {"tiff": str(tmp_path / "a.tif")}
    assert (out["shape"], out["axes"], out["dtype"], out["voxel_size_nm"]) == ([4, 5, 6], "xyz", "uint16", 2.0)
    back = out["density"]["per_value"] * tifffile.imread(tmp_path / "a.tif") + out["density"]["at_value_0"]
    np.testing.assert_allclose(back, read_volume(volume).data, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["cell.mrc"], ["nothing to write", "--format"]),
        (["none.mrc", "--format", "tiff"], ["none.mrc", "no such file"]),
        ([".", "--format", "tiff"], ["no volume.mrc"]),
        (["cell.mrc", "--out", "cell.mrc"], ["the volume itself"]),
        (["cell.mrc", "--out", "cell.mrc", "--overwrite"], ["the volume itself"]),
        (["cell.mrc", "--out", "old.tif"], ["old.tif", "--overwrite"]),
        (["cell.mrc", "--out", "old.zarr", "--overwrite"], ["no Zarr"]),
        (["cell.mrc", "--out", "none/x.tif"], ["does not exist"]),
        (["cell.mrc", "--out", "x.tif", "--format", "mrc"], ["--format"]),
        (["cell.mrc", "--out", "x.tif", "--dtype", "int8"], ["tiff does not hold int8"]),
        (["cell.mrc", "--out", "x.rec", "--mean-intensity", "0"], ["--mean-intensity"]),
        (["letter.txt", "--out", "x.rec"], ["letter.txt"]),
    ],
)
def test_refusals_name_what_is_wrong_and_write_nothing(tiltfield, volume, monkeypatch, words, parts):
    folder = volume.parent
    monkeypatch.chdir(folder)
    (folder / "old.tif").write_text("precious")
    (folder / "letter.txt").write_text("dear aunt")
    (folder / "old.zarr").mkdir()
    before = names(folder)
    code, out, error = tiltfield("convert", *words)
    assert (code, out) == (2, "")
    assert error.startswith("tiltfield: ")
    assert all(part in error for part in parts), error
    assert names(folder) == before
    assert (folder / "old.tif").read_text() == "precious"


def test_scaled_values_are_not_scaled_again(tiltfield, volume, tmp_path):
    tiltfield("convert", volume, "--dtype", "int16")
    code, _, error = tiltfield("convert", tmp_path / "cell.rec", "--out", tmp_path / "x.tif", "--invert")
    assert code == 2
    assert "scaled already (density = " in error
    assert (
        tiltfield("convert", tmp_path / "cell.rec", "--out", tmp_path / "x.tif")[0] == 0
    )  # as they are, they may go on
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert "density = " in file.imagej_metadata["Info"]
