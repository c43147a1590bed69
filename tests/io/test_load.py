import tracemalloc
from functools import partial

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames, series_shape, write_stack

N, ROWS, COLS = 7, 24, 20
ANGLES = np.linspace(-60, 60, N)


def images(dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(100, 10, (N, ROWS, COLS)).astype(dtype)


def write_hspy(path, data, **options):
    with h5py.File(path, "w") as file:
        group = file.create_group("Experiments/e")
        group.create_dataset("data", data=data, **options)
        group["metadata/Tomography/_sig_tilts/data"] = ANGLES[:, None]


def write_tiff(beside, data):
    path = beside.with_name("x.tif")
    tifffile.imwrite(path, data, photometric="minisblack")
    return path


def write_angles(path, values=ANGLES):
    path.write_text("\n".join(f"{v:.2f}" for v in values))
    return path


@pytest.fixture
def stack(tmp_path):
    return write_stack(images(), tmp_path / "x.mrc", 0.5)


SIDECARS = ["x.rawtlt", "x.mrc.rawtlt", "x.tlt", "x.mrc.tlt", "x.mdoc", "x.mrc.mdoc", "x.st.mdoc"]


@pytest.mark.parametrize("name", SIDECARS)
def test_angles_beside_the_stack_are_found(stack, name):
    beside = stack.with_name(name)
    if name.endswith("mdoc"):
        beside.write_text("".join(f"[ZValue = {i}]\nTiltAngle = {a}\n" for i, a in enumerate(ANGLES)))
    else:
        write_angles(beside)
    series = load(stack)
    np.testing.assert_allclose(series.angles_deg, ANGLES)
    assert series.sources["angles"] == f"{name}, beside the stack"
    assert series.pixel_size_nm == pytest.approx(0.5)
    assert series.name == "x"


def test_given_angles_come_before_those_beside_and_the_difference_is_told(stack):
    write_angles(stack.with_name("x.rawtlt"))
    series = load(stack, angles=write_angles(stack.with_name("mine.txt"), ANGLES + 1))
    np.testing.assert_allclose(series.angles_deg, ANGLES + 1)
    assert series.sources["angles"] == "mine.txt, as given"
    assert "x.rawtlt -60.00°; mine.txt was used" in series.sources["warning angles"]


def test_a_sidecar_comes_before_the_header_and_the_difference_is_told(tmp_path):
    write_hspy(tmp_path / "x.hspy", images())
    write_angles(tmp_path / "x.tlt", ANGLES + 0.04)
    assert "warning angles" not in load(tmp_path / "x.hspy").sources
    write_angles(tmp_path / "x.tlt", ANGLES[::-1])
    series = load(tmp_path / "x.hspy")
    np.testing.assert_allclose(series.angles_deg, ANGLES[::-1])
    assert "_sig_tilts" in series.sources["warning angles"]


def test_an_aligned_stack_prefers_refined_angles(tmp_path):
    write_stack(images(), tmp_path / "x_ali.mrc")
    write_angles(tmp_path / "x.rawtlt")
    write_angles(tmp_path / "x.tlt", ANGLES + 1)
    assert load(tmp_path / "x_ali.mrc").sources["angles"].startswith("x.tlt")


def test_missing_angles_say_where_was_looked_and_what_to_do(stack):
    with pytest.raises(
        InputError, match=r"no tilt angles found.*x\.rawtlt.*x\.tlt.*x\.mrc\.mdoc.*header.*--angles FILE"
    ):
        load(stack)


def test_a_wrong_count_gives_both(stack):
    with pytest.raises(InputError, match=r"mine\.txt has 5 tilt angles, the stack has 7 images"):
        load(stack, angles=write_angles(stack.with_name("mine.txt"), ANGLES[:5]))


def test_an_mdoc_leads_to_its_stack(stack):
    mdoc = stack.with_name("other.mdoc")
    sections = "".join(f"[ZValue = {i}]\nTiltAngle = {a}\n" for i, a in enumerate(ANGLES))
    mdoc.write_text(f"ImageFile = D:\\raw\\x.mrc\nPixelSpacing = 8\n{sections}")
    series = load(mdoc)
    np.testing.assert_allclose(series.angles_deg, ANGLES)
    assert "other.mdoc says 0.8 nm, the stack 0.5 nm" in series.sources["warning pixel size"]
    stack.unlink()
    with pytest.raises(InputError, match=r"looked for other and x\.mrc"):
        load(mdoc)


@pytest.mark.parametrize("axis", ["y", "x", 90, "180", -12.5])
def test_the_tilt_axis_turns_images_and_mask(stack, axis):
    given = images()
    given[3, 10, 8] = np.nan
    series = load(write_tiff(stack, given), angles=write_angles(stack.with_name("a.txt")), tilt_axis=axis)
    assert series.images.shape == ((N, COLS, ROWS) if axis in ("x", 90) else (N, ROWS, COLS))
    spot = {"y": (10, 8), "x": (8, ROWS - 11), "180": (ROWS - 11, COLS - 9)}.get(axis)
    if spot:
        assert np.argwhere(~series.valid).tolist() == [[3, *spot]]
    elif axis == -12.5:
        assert not series.valid[0, 0, 0]
        assert series.valid[0].mean() > 0.6
        assert (~series.valid[3]).sum() > (~series.valid[0]).sum()


def test_a_turned_series_without_bad_pixels_masks_its_corners(stack):
    series = load(stack, angles=write_angles(stack.with_name("a.txt")), tilt_axis=20.0)
    assert not series.valid[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert series.valid[:, ROWS // 2, COLS // 2].all()
    assert series.quantum is None


@pytest.mark.parametrize("axis", ["z", None, float("nan")])
def test_a_tilt_axis_that_is_none(stack, axis):
    with pytest.raises(InputError, match="tilt axis must be y"):
        load(stack, tilt_axis=axis)


def test_settings_override_the_file_and_binning_follows(stack):
    series = load(stack, angles=write_angles(stack.with_name("a.txt")), pixel_size_nm=3.0, bin=2)
    assert series.pixel_size_nm == 6.0
    assert series.images.shape == (N, ROWS // 2, COLS // 2)
    assert series.sources["pixel_size"] == "the settings"


def test_bad_pixels_are_reported(stack):
    given = images()
    given[2, 5, 5] = np.nan
    series = load(write_tiff(stack, given), angles=write_angles(stack.with_name("a.txt")))
    assert "1 pixel without a number" in series.sources["bad pixels"]


@pytest.mark.parametrize("value", [5.0, np.nan])
def test_an_image_without_a_picture_is_named_with_its_angle(stack, value):
    given = images()
    given[2] = value
    path = write_tiff(stack, given)
    with pytest.raises(InputError, match=r"x\.tif: image 3 \(counted from 1, at -20\.00°\)"):
        load(path, angles=write_angles(stack.with_name("a.txt")))


def test_content_counts_more_than_the_name(stack):
    renamed = stack.rename(stack.with_name("x.tif"))
    np.testing.assert_array_equal(load_frames(renamed).images, images())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.mrc", b"", "1024 bytes, the file only 0"),
        ("x.raw", b"\0\0\0\3" * 999, "unknown kind of file; tiltfield reads Zarr .*HDF5 .*MRC"),
        ("x.dm3", b"nothing but a name of DigitalMicrograph", "tags of DigitalMicrograph"),
        ("x.dm4", b"", "expected a file of DigitalMicrograph, got 0 bytes"),
        ("x.npy", b"nothing", "cannot be read"),
        ("x.zspy", b"nothing", "cannot be read"),
        ("x.hspy", b"nothing", "expected an HDF5 file"),
        ("x.tif", b"nothing", "cannot be read"),
        ("x.rawtlt", b"1\n2\n", "a list of tilt angles; give the stack"),
        ("x.st", b"\xff" * 5000, "expected an MRC header"),
    ],
)
def test_foreign_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / name)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.mrc: no such file"):
        load(tmp_path / "none.mrc")
    with pytest.raises(InputError, match=r"none\.mdoc: no such file"):
        load(tmp_path / "none.mdoc")


@pytest.mark.parametrize("dtype", ["f4", "i2", "i1"])
@pytest.mark.parametrize("name", ["x.mrc", "x.tif", "x.npy"])
def test_memory_stays_near_one_copy(tmp_path, dtype, name):
    """Whatever the number type: what is not float32 stays in the file while it becomes so."""
    data = np.random.default_rng(0).normal(60, 10, (40, 128, 128)).astype(dtype)
    path = tmp_path / name
    write = {"x.mrc": mrcfile.write, "x.npy": np.save}.get(name, partial(tifffile.imwrite, photometric="minisblack"))
    write(path, data)
    angles = write_angles(tmp_path / "a.txt", np.linspace(-60, 60, 40))
    load(path, angles=angles)
    tracemalloc.start()
    series = load(path, angles=angles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * series.images.nbytes


def test_masked_pixels_are_filled_without_a_second_copy(tmp_path):
    given = np.random.default_rng(0).integers(900, 1100, (40, 256, 256)).astype(np.int16)
    given[3, 100, 100] = 30000
    path = write_stack(given, tmp_path / "x.mrc", 1.0)
    write_angles(tmp_path / "x.rawtlt", np.linspace(-60, 60, 40))
    load(path)
    tracemalloc.start()
    series = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.argwhere(~series.valid).tolist() == [[3, 100, 100]]
    assert peak < 1.5 * series.images.nbytes


def test_an_array_that_may_not_be_written_to_is_filled_all_the_same(tmp_path, monkeypatch):
    given = images()
    given[3, 10, 10] = 1e6
    given.flags.writeable = False
    monkeypatch.setattr("tiltfield.io.in_memory", lambda *_: given)
    write_angles(tmp_path / "x.rawtlt")
    series = load(write_stack(given, tmp_path / "x.mrc", 1.0))
    assert np.argwhere(~series.valid).tolist() == [[3, 10, 10]]
    assert given[3, 10, 10] == 1e6


@pytest.mark.parametrize(
    "how", [{}, {"tilt_axis": "x"}, {"tilt_axis": 80.0, "exclude": [2, 5]}, {"bin": 2, "tilt_axis": "x"}, {"bin": 5}]
)
def test_the_shape_is_told_without_loading(stack, how):
    write_angles(stack.with_name("x.rawtlt"))
    assert series_shape(stack, **how) == load(stack, **how).images.shape


def test_the_shape_knows_transforms_that_turn_the_images(stack):
    write_angles(stack.with_name("x.rawtlt"))
    turned = stack.with_name("turned.xf")
    turned.write_text("0 -1 1 0 0 0\n" * N)
    shape = series_shape(stack, transforms=turned)
    assert shape == load(stack, transforms=turned).images.shape == (N, COLS, ROWS)


@pytest.mark.parametrize("given", [{"path": np.zeros((3, 4, 5))}, {"angles": [0.0, 1.0]}, {"transforms": 3}])
def test_what_is_no_path_is_refused(given, tmp_path):
    with pytest.raises(InputError, match=r"expected the path of a file.*TiltSeries"):
        load(**{"path": tmp_path / "x.mrc", **given})
