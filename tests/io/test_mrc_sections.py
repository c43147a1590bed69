"""MRC written block by block: what mrcfile reads of it, and what it finds wrong with it."""

import io

import mrcfile
import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io.mrc import read_volume, write_volume
from tiltfield.io.mrc_sections import write_sections
from tiltfield.series import Volume


@pytest.mark.parametrize("is_volume", [True, False])
@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.int8])
def test_blocks_become_one_valid_file(tmp_path, kind, is_volume):
    data = (np.random.default_rng(0).random((7, 5, 4)) * 100).astype(kind)
    path = write_sections(tmp_path / "x.mrc", iter(np.split(data, [2, 3])), 1.5, is_volume=is_volume)
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
    blocks = read_volume(write_sections(tmp_path / "blocks.mrc", [data[:1], data[1:]], 0.1, is_volume=True))
    np.testing.assert_array_equal(whole.data, blocks.data)
    assert blocks.voxel_size_nm == pytest.approx(whole.voxel_size_nm)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, bad):
    data = np.zeros((3, 2, 2), np.float32)
    data[1, 1, 0] = bad
    with pytest.raises(InputError, match="finite"):
        write_sections(tmp_path / "x.mrc", [data[:1], data[1:]], 1.0, is_volume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_sections(tmp_path / "none" / "x.mrc", [np.zeros((1, 2, 2), np.float32)], 1.0, is_volume=True)
