import numpy as np
import pytest
import tifffile

from tiltfield.errors import InputError
from tiltfield.io import load_frames

N, ROWS, COLS = 5, 12, 9


def images(dtype=np.float32):
    return np.random.default_rng(0).normal(100, 10, (N, ROWS, COLS)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i2", "u2"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}, {"metadata": None}]
)
def test_pages(tmp_path, dtype, options):
    tifffile.imwrite(tmp_path / "x.tif", images(dtype), photometric="minisblack", **options)
    raw = load_frames(tmp_path / "x.tif")
    np.testing.assert_array_equal(raw.images, images(dtype))
    assert raw.angles_deg is None
    assert raw.pixel_size_nm is None


@pytest.mark.parametrize(
    ("unit", "size"), [("nm", 0.5), ("\\u00B5m", 500.0), ("micron", 500.0), ("pixel", None), (None, None)]
)
def test_pixel_size_of_imagej(tmp_path, unit, size):
    tifffile.imwrite(
        tmp_path / "x.tif", images(), imagej=True, resolution=(2, 2), metadata={"unit": unit} if unit else {}
    )
    got = load_frames(tmp_path / "x.tif").pixel_size_nm
    assert got == (None if size is None else pytest.approx(size))


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}, 0.5),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, 500.0),  # µm unless said otherwise
        ({"PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0, "PhysicalSizeXUnit": "Å", "PhysicalSizeYUnit": "Å"}, 0.2),
        ({"PhysicalSizeX": 2.0}, None),
        (
            {"PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"},
            None,
        ),
        ({}, None),
    ],
)
def test_pixel_size_of_ome(tmp_path, sizes, size):
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, images(), ome=True, photometric="minisblack", metadata={"axes": "ZYX"} | sizes)
    assert load_frames(path).pixel_size_nm == (None if size is None else pytest.approx(size))


def test_a_resolution_of_dots_per_inch_is_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", images(), resolution=(300, 300), resolutionunit="INCH")
    assert load_frames(tmp_path / "x.tif").pixel_size_nm is None


def test_a_folder_in_natural_order(tmp_path):
    data = np.random.default_rng(0).integers(0, 9, (12, ROWS, COLS)).astype(np.uint8)
    folder = tmp_path / "tilts"
    folder.mkdir()
    for i, image in enumerate(data):
        tifffile.imwrite(folder / f"Image {i + 1}.TIF", image)
    (folder / "notes.txt").write_text("ignored")
    (folder / "series.rawtlt").write_text("\n".join(str(a) for a in range(12)))
    raw = load_frames(folder)
    np.testing.assert_array_equal(raw.images, data)
    np.testing.assert_array_equal(raw.angles_deg, range(12))
    assert "12 TIFF files in tilts, Image 1.TIF to Image 12.TIF" in raw.sources["images"]


def test_a_folder_of_different_shapes_names_the_file(tmp_path):
    for i, shape in enumerate([(5, 6), (5, 6), (6, 5)]):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.ones(shape, np.uint8))
    with pytest.raises(InputError, match=r"2\.tif: expected one image of 5 x 6 \(uint8\) as in 0\.tif, got 1 of 6 x 5"):
        load_frames(tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match="folder without images; give a stack"):
        load_frames(tmp_path)


def test_colour_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="expected grey images"):
        load_frames(tmp_path / "x.tif")


def test_pages_of_different_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write(np.zeros((20, 30), np.uint8))
        tif.write(np.zeros((30, 20), np.uint8))
    with pytest.raises(InputError, match=r"pages of one shape .* got \(20, 30\), \(30, 20\)"):
        load_frames(tmp_path / "x.tif")
