import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io.sidecars import read_sidecar

MDOC = """PixelSpacing = 7.88
ImageFile = C:\\data\\x.st

[T = SerialEM: somewhere]
[ZValue = 1]
TiltAngle = 2.5
Binning = 1

[ZValue = 0]
TiltAngle = -2.5
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ["-2\n0\n2", " -2.00\r\n 0.00\r\n 2.00\r\n", "# tilts\n\n-2 # first\n0,\n2\n\n", "\ufeff-2\n0\n2\n"]
)
@pytest.mark.parametrize("name", ["x.rawtlt", "x.tlt", "angles.txt"])
def test_lists_of_angles(tmp_path, text, name):
    np.testing.assert_array_equal(read_sidecar(write(tmp_path / name, text)).angles_deg, [-2, 0, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-2\nzero\n2", "line 2: expected one tilt angle in degrees, got 'zero'"),
        ("1\n2\n3 4", "line 3: .* got '3 4'"),
        ("nan", "line 1"),
        ("\n# nothing\n", "empty file"),
        ("", "empty file"),
        ("1\0\2", "binary"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_sidecar(write(tmp_path / "x.tlt", text))


def test_mdoc_is_in_the_order_of_zvalue(tmp_path):
    sidecar = read_sidecar(write(tmp_path / "x.st.mdoc", MDOC))
    np.testing.assert_array_equal(sidecar.angles_deg, [-2.5, 2.5])
    assert sidecar.pixel_size_nm == pytest.approx(0.788)
    assert sidecar.image_file == "x.st"


def test_mdoc_under_another_name_is_known_by_its_content(tmp_path):
    np.testing.assert_array_equal(read_sidecar(write(tmp_path / "x.txt", MDOC)).angles_deg, [-2.5, 2.5])


def test_frame_sets_are_in_the_order_of_the_file(tmp_path):
    text = "[FrameSet = 0]\nTiltAngle = 3\nPixelSpacing = 2\n[FrameSet = 0]\nTiltAngle = -3\n"
    sidecar = read_sidecar(write(tmp_path / "x.mdoc", text))
    np.testing.assert_array_equal(sidecar.angles_deg, [3, -3])
    assert sidecar.pixel_size_nm == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PixelSpacing = 1\n", "expected .ZValue = n. .* got none"),
        (MDOC.replace("TiltAngle = 2.5\n", ""), "section 1 has no TiltAngle"),
        (MDOC.replace("2.5\nB", "steep\nB"), "section 1 has TiltAngle = steep"),
        (MDOC + MDOC, "section 1 is there twice"),
        (MDOC.replace("ZValue = 1", "ZValue = one"), "got 'one'"),
    ],
)
def test_bad_mdocs_name_the_section(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_sidecar(write(tmp_path / "x.mdoc", text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.tlt: cannot read the tilt angles"):
        read_sidecar(tmp_path / "no.tlt")


@pytest.mark.parametrize(
    ("title", "rotation", "axis"),
    [
        ("[T =     Tilt axis angle = 84.1, binning = 1  spot = 9  camera = 0]", "174.1", -84.1),
        ("[T =     Tilt axis angle = -90.0, binning = 2]", "0", 90.0),
        ("[T = Tomography: TiltAxisAngle = -175.60 Binning = 1]", "85.6", -85.6),  # IMOD, too, takes RotationAngle then
        ("[T = SerialEM: somewhere]", "12.0", None),
        ("[T = Tilt axis angle = steep]", "12.0", None),
    ],
)
def test_the_tilt_axis_of_a_title(tmp_path, title, rotation, axis):
    text = f"PixelSpacing = 1\n{title}\n\n[ZValue = 0]\nTiltAngle = 1\nRotationAngle = {rotation}\n"
    got = read_sidecar(write(tmp_path / "x.mdoc", text)).tilt_axis_deg
    assert got == (None if axis is None else pytest.approx(axis))
