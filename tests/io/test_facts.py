"""Tilt axis, pixel size and angles by several sources: who is believed, and that the others are told."""

import mrcfile
import numpy as np
import pytest
import samples

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames

DATA = samples.make()
AXIS = -samples.AXIS  # as tiltfield counts it


def with_angles(path):
    path.with_suffix(".rawtlt").write_text("\n".join(map(str, samples.ANGLES)))
    return path


def test_the_axis_of_an_mdoc_is_told_but_not_used_unasked(tmp_path):
    series = load(samples.mdoc(tmp_path, DATA))
    np.testing.assert_array_equal(series.images, DATA)
    assert series.sources["tilt_axis"] == "y, vertical in the images"
    warning = series.sources["warning tilt axis"]
    assert warning.startswith(f"x.st.mdoc says {AXIS:g}° (counter-clockwise from vertical, first row at the top)")
    assert "--tilt-axis file" in warning


@pytest.mark.parametrize("write", [samples.mdoc, samples.mrc_serialem])
def test_the_axis_of_the_files_is_used_when_asked_for(tmp_path, write):
    path = write(tmp_path, DATA.astype("i2"))
    asked, by_hand = load(path, tilt_axis="file"), load(path, tilt_axis=AXIS)
    np.testing.assert_array_equal(asked.images, by_hand.images)
    assert "warning tilt axis" not in asked.sources
    assert "warning tilt axis" not in by_hand.sources
    assert asked.sources["tilt_axis"].startswith(f"{AXIS:g}° from vertical, as ")
    assert asked.images.shape == (samples.N, samples.COLS, samples.ROWS)


def test_an_axis_that_imod_shows_turned_to_the_left_ends_up_vertical_with_its_upper_end_up(tmp_path):
    """IMOD draws the first row at the bottom; counter-clockwise from the vertical, the axis leans to the left there."""
    angle = np.deg2rad(30.0)
    y, x = np.mgrid[:65, :65] - 32.0
    upper = np.exp(-((x + 20 * np.sin(angle)) ** 2 + (y - 20 * np.cos(angle)) ** 2) / 12)  # y grows upwards in IMOD
    path = samples.mdoc(tmp_path, np.stack([100 * upper] * samples.N).astype("f4") + 1e-3 * x.astype("f4"))
    path.write_text(path.read_text().replace(str(samples.AXIS), "30.0"))
    image = load(path, tilt_axis="file").images[0]
    np.testing.assert_allclose(np.unravel_index(image.argmax(), image.shape), (52, 32))  # row 52: IMOD's upper half


@pytest.mark.parametrize("axis", ["y", 0, 0.5, 360])
def test_an_axis_that_agrees_is_no_reason_to_warn(tmp_path, axis):
    path = samples.mdoc(tmp_path, DATA)
    path.write_text(path.read_text().replace(str(samples.AXIS), "-0.2"))
    assert "warning tilt axis" not in load(path, tilt_axis=axis).sources


def test_an_aligned_stack_has_its_axis_upright_whatever_its_title_says(tmp_path):
    path = with_angles(samples.mrc_serialem(tmp_path, DATA.astype("i2")).rename(tmp_path / "x.ali"))
    assert "warning tilt axis" not in load(path).sources


def turning(degrees):
    """A line of transforms that makes an axis at so many degrees vertical."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return f"{cos:.7f} {-sin:.7f} {sin:.7f} {cos:.7f} 0 0\n"


def test_transforms_that_turn_the_axis_upright_leave_nothing_to_turn(tmp_path):
    path = samples.mdoc(tmp_path, DATA)
    (tmp_path / "a.xf").write_text(turning(AXIS + 0.7) * samples.N)  # solved for, a little off what the title says
    upright, asked = (load(path, transforms=tmp_path / "a.xf", tilt_axis=axis) for axis in ("y", "file"))
    assert "warning tilt axis" not in upright.sources
    np.testing.assert_array_equal(asked.images, upright.images)
    assert upright.images.shape == (samples.N, samples.COLS, samples.ROWS)


def test_transforms_that_only_shift_leave_the_axis_where_it_is(tmp_path):
    path = samples.mdoc(tmp_path, DATA)
    (tmp_path / "a.prexg").write_text("1 0 0 1 0 0\n" * samples.N)
    assert "84.1°" in load(path, transforms=tmp_path / "a.prexg").sources["warning tilt axis"]
    asked = load(path, transforms=tmp_path / "a.prexg", tilt_axis="file")
    np.testing.assert_allclose(asked.images, load(path, tilt_axis="file").images, rtol=1e-5)


def test_an_axis_that_no_file_names_cannot_be_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"--tilt-axis file asks for the axis .*; give y, x or degrees"):
        load(samples.tlt(tmp_path, DATA), tilt_axis="file")


@pytest.mark.parametrize(("label", "axis"), [("    Fei Company", -85.0), ("Fei Company", 85.0)])
def test_the_axis_of_an_old_fei_header_has_the_sign_that_imod_gives_it(tmp_path, label, axis):
    path = samples.mrc(tmp_path, DATA)
    records = np.zeros((samples.N, 32), "f4")
    records[:, 0], records[:, 10], records[:, 11] = samples.ANGLES, 85.0, 5e-10
    with mrcfile.open(path, "r+") as file:
        file.set_extended_header(np.frombuffer(records.tobytes(), "V128"))
        file.header.label[0] = label
        file.header.exttyp = bytes(4)
    with path.open("r+b") as file:
        file.seek(128)
        file.write(np.array([0, 32], "<i2").tobytes())
    raw = load_frames(path)
    assert raw.tilt_axis_deg == pytest.approx(axis)
    assert raw.sources["tilt_axis"] == "the header of x.mrc"


def test_a_pixel_size_that_is_given_goes_over_the_files_and_the_difference_is_told(tmp_path):
    path = samples.tlt(tmp_path, DATA)
    assert "warning pixel size" not in load(path, pixel_size_nm=0.5).sources
    series = load(path, pixel_size_nm=5.0)
    assert series.pixel_size_nm == 5.0
    assert series.sources["warning pixel size"].startswith("the settings say 5 nm, header of x.mrc 0.5 nm")


def test_a_pixel_size_comes_from_an_mdoc_though_the_angles_come_from_elsewhere(tmp_path):
    samples.mdoc(tmp_path, DATA)
    path = with_angles(tmp_path / "x.st")
    series = load(path)
    assert series.sources["angles"].startswith("x.rawtlt")
    assert series.pixel_size_nm == pytest.approx(samples.SIZE)
    assert series.sources["pixel_size"] == "x.st.mdoc"
    assert "x.st.mdoc says" in series.sources["warning tilt axis"]


def test_a_file_of_angles_that_is_not_there_is_named(tmp_path):
    path = samples.tlt(tmp_path, DATA)
    with pytest.raises(InputError, match=r"none\.tlt: no such file of tilt angles; check .* --angles"):
        load(path, angles=tmp_path / "none.tlt")


def test_a_file_beside_the_stack_that_cannot_be_read_is_told(tmp_path):
    path = samples.tlt(tmp_path, DATA)
    path.with_suffix(".tlt").write_text("what?")
    assert load(path).sources["warning angles"] == "x.tlt beside the stack cannot be read"


def test_measured_mdoc_names_its_axis(shared_data):
    raw = load_frames(shared_data("repeat_pairs/test_000.mrc"))
    assert raw.tilt_axis_deg == 90.0  # "Tilt axis angle = -90.0"
    assert raw.sources["tilt_axis"] == "test_000.mrc.mdoc"
    assert load_frames(shared_data("needle/HAADF.mrc")).tilt_axis_deg is None  # 0 in its header: never filled in
