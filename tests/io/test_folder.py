import numpy as np
import pytest
import samples
import tifffile

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames

DATA = samples.make(dtype="u1")


def test_the_kind_with_most_files_is_read_and_the_rest_is_told(tmp_path):
    folder = samples.tiff_folder(tmp_path, DATA)
    np.save(folder / "dark.npy", DATA[0])
    (folder / ".hidden.tif").write_bytes(b"")
    raw = load_frames(folder)
    np.testing.assert_array_equal(raw.images, DATA)
    assert raw.sources["warning files"] == "tilts also holds 1 NumPy, which were left out"


def test_angles_beside_the_images_come_before_those_inside(tmp_path):
    folder = samples.mrc_folder(tmp_path, DATA.astype("i2"))
    (folder / "series.rawtlt").write_text("\n".join(str(a + 1) for a in samples.ANGLES))
    series = load(folder)
    np.testing.assert_allclose(series.angles_deg, samples.ANGLES + 1)
    assert "extended header of each file -60.00°; series.rawtlt was used" in series.sources["warning angles"]


def test_an_image_without_a_tilt_leaves_the_series_without(tmp_path):
    folder = samples.mrc_folder(tmp_path, DATA.astype("i2"))
    samples.mrc(folder, DATA[3:4].astype("i2")).rename(folder / "x4.mrc")
    assert load_frames(folder).angles_deg is None


def test_another_pixel_size_is_told(tmp_path):
    folder = samples.tiff_folder(tmp_path, DATA)
    tifffile.imwrite(folder / "x5.tif", DATA[4], imagej=True, resolution=(1, 1), metadata={"unit": "nm"})
    raw = load_frames(folder)
    assert raw.pixel_size_nm == pytest.approx(samples.SIZE)
    assert "x5.tif has another pixel size than x1.tif" in raw.sources["warning pixel size"]


def test_a_stack_among_the_images_is_named(tmp_path):
    folder = samples.tiff_folder(tmp_path, DATA)
    tifffile.imwrite(folder / "x5.tif", DATA, photometric="minisblack")
    with pytest.raises(InputError, match=r"x5\.tif: expected one image of 24 x 20 .*got 7 of 24 x 20"):
        load_frames(folder)
