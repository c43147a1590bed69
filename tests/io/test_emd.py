import json

import h5py
import numpy as np
import pytest
import samples

from tiltfield.errors import InputError
from tiltfield.io import load_frames

DATA = samples.make(dtype="u2")


def velox(path, frames, metadata, name="0"):
    with h5py.File(path, "a") as file:
        group = file.create_group(f"Data/Image/{name}")
        group["Data"] = np.moveaxis(frames, 0, 2)
        columns = np.zeros((1024, len(metadata)), np.uint8)
        for i, text in enumerate(metadata):
            columns[: len(text), i] = np.frombuffer(text, np.uint8)
        group["Metadata"] = columns
    return path


def frame(alpha, unit="m", width=2e-10, height=2e-10):
    size = {"width": str(width), "height": str(height)}
    return json.dumps(
        {"Stage": {"AlphaTilt": alpha}, "BinaryResult": {"PixelSize": size, "PixelUnitX": unit, "Detector": "BF"}}
    ).encode()


def test_velox_takes_the_detector_with_most_frames_and_says_so(tmp_path):
    path = velox(tmp_path / "x.emd", DATA[:1], [frame("0.1")], "a")
    velox(path, DATA, [frame(str(a)) for a in np.deg2rad(samples.ANGLES)], "b")
    raw = load_frames(path)
    np.testing.assert_array_equal(raw.images, DATA)
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES)
    assert raw.pixel_size_nm == pytest.approx(0.2)
    assert "detector BF, one of 2 in the file" in raw.sources["images"]


def test_a_folder_of_velox_files_is_a_series_with_its_untilted_image(tmp_path):
    folder = tmp_path / "tilts"
    folder.mkdir()
    for i, angle in enumerate(np.deg2rad(samples.ANGLES)):
        velox(folder / f"{i}.emd", DATA[i : i + 1], [frame(str(angle))])
    raw = load_frames(folder)
    np.testing.assert_array_equal(raw.images, DATA)
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES, atol=1e-9)
    assert raw.sources["angles"] == "stage tilts in each file"


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ([], None),
        ([b"{}"] * 7, None),
        ([b"not JSON"] * 7, None),
        ([b"[1, 2]"] * 7, None),
        ([frame("steep", "px")] * 7, None),
        ([frame("nan")] * 7, 0.2),
        ([frame("0.1")], 0.2),  # one for all frames: which tilt is whose?
    ],
)
def test_velox_without_tilts(tmp_path, metadata, size):
    raw = load_frames(velox(tmp_path / "x.emd", DATA, metadata))
    assert raw.angles_deg is None
    assert raw.pixel_size_nm == (None if size is None else pytest.approx(size))


def test_velox_pixels_that_are_not_square_are_told(tmp_path):
    raw = load_frames(velox(tmp_path / "x.emd", DATA, [frame("0", height=4e-10)]))
    assert raw.pixel_size_nm == pytest.approx(0.2)
    assert "not square" in raw.sources["warning pixel size"]


def test_velox_without_grey_images_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.emd", "w") as file:
        file.create_group("Data/Image/a")["Data"] = np.zeros((4, 5, 3), [("r", "f4"), ("i", "f4")])
    with pytest.raises(InputError, match=r"expected grey images .* in Data/Image"):
        load_frames(tmp_path / "x.emd")


def berkeley(path, data, dims, first=1):
    with h5py.File(path, "w") as file:
        group = file.create_group("data/stack")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for i, (name, unit, values) in enumerate(dims):
            group[f"dim{i + first}"] = values
            group[f"dim{i + first}"].attrs.update(name=name, units=unit)
    return path


X, Y, TILT = ("x", "[nm]", [0.0, 0.5]), ("y", "[nm]", [0.0, 0.5]), ("tilt", "[deg]", samples.ANGLES)


@pytest.mark.parametrize(
    ("order", "dims"),
    [
        ((0, 1, 2), [TILT, Y, X]),
        ((2, 1, 0), [X, Y, TILT]),
        ((1, 2, 0), [Y, X, TILT]),
        ((0, 2, 1), [TILT, X, Y]),
        ((0, 1, 2), [("", "[rad]", np.deg2rad(samples.ANGLES)), ("", "[nm]", [0, 0.5]), ("", "[nm]", [0, 0.5])]),
        ((2, 1, 0), [("", "nm", [0, 0.5]), ("", "nm", [0, 0.5]), ("angles", "", samples.ANGLES)]),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_axes_are_told_by_their_names_and_units(tmp_path, order, dims, first):
    raw = load_frames(berkeley(tmp_path / "x.emd", DATA.transpose(order), dims, first))
    np.testing.assert_array_equal(raw.images, DATA)
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES)
    assert raw.pixel_size_nm == 0.5


def test_axes_without_names_are_taken_as_they_come(tmp_path):
    raw = load_frames(berkeley(tmp_path / "x.emd", DATA, []))
    np.testing.assert_array_equal(raw.images, DATA)
    assert raw.angles_deg is None
    assert raw.pixel_size_nm is None


def test_a_single_image_of_berkeley(tmp_path):
    np.testing.assert_array_equal(load_frames(berkeley(tmp_path / "x.emd", DATA[0].T, [X, Y])).images, DATA[:1])


def test_a_group_without_images_is_passed_over(tmp_path):
    path = berkeley(tmp_path / "x.emd", DATA, [TILT, Y, X])
    with h5py.File(path, "r+") as file:
        empty = file.create_group("a_first")
        empty.attrs["emd_group_type"] = 1
        empty["data"] = np.zeros(3)
    np.testing.assert_array_equal(load_frames(path).images, DATA)
