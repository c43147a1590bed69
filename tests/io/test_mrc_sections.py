"""MRC written block by block: what mrcfile reads of it, and what it finds wrong with it."""

import io
import struct

import mrcfile
import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io.mrc import open_volume, read_volume
from tiltfield.io.mrc_sections import About, label_lines, write_sections, write_volume
from tiltfield.series import Volume


@pytest.mark.parametrize("is_volume", [True, False])
@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.int8])
def test_blocks_become_one_valid_file(tmp_path, kind, is_volume):
    data = (np.random.default_rng(0).random((7, 5, 4)) * 100).astype(kind)
    path = write_sections(tmp_path / "x.mrc", iter(np.split(data, [2, 3])), About(1.5, is_volume))
    assert mrcfile.validate(path, print_file=io.StringIO())
    with mrcfile.open(path) as mrc:
        assert mrc.data.dtype == kind
        np.testing.assert_array_equal(mrc.data, data)
        assert (mrc.is_volume(), mrc.is_image_stack()) == (is_volume, not is_volume)
        assert [float(mrc.voxel_size[a]) for a in "xy"] == [15.0, 15.0]
        np.testing.assert_allclose([mrc.header.dmin, mrc.header.dmax], [data.min(), data.max()])
        np.testing.assert_allclose([mrc.header.dmean, mrc.header.rms], [data.mean(), data.std()], rtol=1e-5)


def test_a_volume_in_blocks_reads_as_one_written_at_once(tmp_path):
    data = np.random.default_rng(1).random((4, 3, 5), dtype=np.float32)
    whole = read_volume(write_volume(Volume(data, 0.1), tmp_path / "whole.mrc"))
    blocks = read_volume(write_sections(tmp_path / "blocks.mrc", [data[:1], data[1:]], About(0.1, True)))
    np.testing.assert_array_equal(whole.data, blocks.data)
    assert blocks.voxel_size_nm == pytest.approx(whole.voxel_size_nm)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, bad):
    data = np.zeros((3, 2, 2), np.float32)
    data[1, 1, 0] = bad
    with pytest.raises(InputError, match="finite"):
        write_sections(tmp_path / "x.mrc", [data[:1], data[1:]], About(1.0, True))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_sections(tmp_path / "none" / "x.mrc", [np.zeros((1, 2, 2), np.float32)], About(1.0, True))


# ---- what the header says besides ----------------------------------------------------------------------------------


def test_labels_are_ten_lines_of_eighty_ascii_characters():
    lines = label_lines(
        About(1.0, True, labels=["tiltfield reconstruct Rö.st " + "--flag value " * 99, "x" * 200, *"abcdef"])
    )
    assert len(lines) == 10
    assert all(len(line) <= 80 and line.isascii() for line in lines)
    assert lines[0].startswith("tiltfield ")
    assert lines[5].endswith("...")  # a long line leaves room for the others
    assert lines[6] == "x" * 80


def test_a_command_can_be_read_off_the_labels(tmp_path):
    command = "tiltfield reconstruct cell.st " + " ".join(f"--flag-{k} value" for k in range(12))
    path = write_volume(Volume(np.zeros((2, 2, 2)), 1.0), tmp_path / "x.mrc", [command])
    with mrcfile.open(path) as mrc:
        assert " ".join(mrc.get_labels()[1:]) == command


def test_the_origin_of_a_volume_is_on_the_tilt_axis_and_that_of_images_at_zero(tmp_path):
    data = np.zeros((5, 4, 3), np.float32)
    for is_volume, z in ((True, -2 * 15.0), (False, 0.0)):
        with mrcfile.open(write_sections(tmp_path / "x.mrc", [data], About(1.5, is_volume))) as mrc:
            assert [float(mrc.header.origin[a]) for a in "xyz"] == [0.0, 0.0, z]


def test_a_volume_of_unknown_size_begins_at_zero_and_stays_unknown(tmp_path):
    path = write_volume(Volume(np.zeros((5, 4, 3)), None), tmp_path / "x.mrc")
    file = open_volume(path)
    assert (file.volume.voxel_size_nm, file.origin_nm) == (None, None)
    assert "unknown" in file.labels[0]


def test_an_opened_volume_is_the_one_read_but_stays_in_its_file(tmp_path):
    data = np.random.default_rng(2).random((4, 3, 5), np.float32)
    about = About(0.1, True, (1.0, -2.0, 3.0), ["tiltfield reconstruct x.st"])
    path = write_sections(tmp_path / "x.mrc", [data], about)
    file = open_volume(path)
    np.testing.assert_array_equal(file.volume.data, data)
    assert not file.volume.data.flags.writeable
    assert not file.volume.data.flags.owndata
    assert file.volume.voxel_size_nm == pytest.approx(0.1)
    assert file.origin_nm == pytest.approx((1.0, -2.0, 3.0))
    assert file.labels[1] == "tiltfield reconstruct x.st"


@pytest.mark.parametrize("order", "<>")
def test_an_opened_volume_has_its_axes_and_byte_order_put_right(tmp_path, order):
    raw = bytearray(1024)
    struct.pack_into(order + "10i", raw, 0, 2, 3, 4, 1, 0, 0, 0, 2, 3, 4)
    struct.pack_into(order + "6f", raw, 40, 20, 30, 40, 90, 90, 90)
    struct.pack_into(order + "3i", raw, 64, 3, 1, 2)  # columns are z, rows are x, sections are y
    raw[208:214] = b"MAP DD" if order == "<" else b"MAP \x11\x11"
    values = np.arange(24, dtype=order + "i2").reshape(4, 3, 2)
    (tmp_path / "x.mrc").write_bytes(bytes(raw) + values.tobytes())
    opened = open_volume(tmp_path / "x.mrc").volume
    np.testing.assert_array_equal(opened.data, read_volume(tmp_path / "x.mrc").data)
    np.testing.assert_array_equal(opened.data, values.transpose(2, 0, 1))
