"""The table in docs/files.md, cell by cell: what each kind of file gives, and what it does not."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import samples
from samples import SAMPLES

from tiltfield.io import load, load_frames

TABLE = Path(__file__).resolve().parents[2] / "docs" / "files.md"


def rows():
    """The first table of the page: name of the row to its cells (images, angles, pixel size, tilt axis)."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    lines = lines[: next(i for i, line in enumerate(lines) if "---" in line and i > 1) - 1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {re.sub("`", "", row[0]): row[2:6] for row in cells}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_gives_what_it_holds(tmp_path, name):
    sample = SAMPLES[name]
    if sample.needs:
        pytest.importorskip(sample.needs)
    data = samples.make(dtype=sample.dtype)
    raw = load_frames(sample.write(tmp_path, data))
    np.testing.assert_array_equal(raw.images, data)
    assert raw.images.dtype == data.dtype
    assert not isinstance(raw.images, np.memmap)
    if sample.angles:
        np.testing.assert_allclose(raw.angles_deg, samples.ANGLES, atol=0.005)
        assert "angles" in raw.sources
    else:
        assert raw.angles_deg is None
    assert raw.pixel_size_nm == (None if sample.size is None else pytest.approx(sample.size))
    assert raw.tilt_axis_deg == (None if sample.axis is None else pytest.approx(sample.axis))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_loads_as_a_series(tmp_path, name):
    sample = SAMPLES[name]
    if sample.needs:
        pytest.importorskip(sample.needs)
    data = samples.make(dtype=sample.dtype)
    path = sample.write(tmp_path, data)
    angles = tmp_path / "angles.txt"
    angles.write_text("\n".join(f"{a}" for a in samples.ANGLES))
    series = load(path, angles=None if sample.angles else angles)
    np.testing.assert_array_equal(series.images, data.astype(np.float32))
    assert series.quantum == (None if data.dtype.kind == "f" else 1.0)


def test_the_table_says_what_the_samples_show():
    table = rows()
    assert set(table) == {sample.row for sample in SAMPLES.values()}
    for row, (_, angles, size, axis) in table.items():
        shown = [sample for sample in SAMPLES.values() if sample.row == row]
        assert (angles != "–") == any(sample.angles for sample in shown), row
        assert (size != "–") == any(sample.size for sample in shown), row
        assert (axis != "–") == any(sample.axis is not None for sample in shown), row


@pytest.mark.parametrize("name", ["DM3", "DM4", "Velox EMD", "EMD by RosettaSciIO", "hspy by RosettaSciIO"])
def test_rosettasciio_reads_the_same(tmp_path, name):
    pytest.importorskip("rsciio")
    import rsciio.digitalmicrograph
    import rsciio.emd
    import rsciio.hspy

    readers = {".dm3": rsciio.digitalmicrograph, ".dm4": rsciio.digitalmicrograph, ".emd": rsciio.emd}
    path = SAMPLES[name].write(tmp_path, samples.make(dtype=SAMPLES[name].dtype))
    other = readers.get(path.suffix, rsciio.hspy).file_reader(str(path))[0]
    raw = load_frames(path)
    np.testing.assert_array_equal(raw.images, other["data"])
    units = {"nm": 1.0, "µm": 1000.0}
    assert raw.pixel_size_nm == pytest.approx(other["axes"][-1]["scale"] * units[other["axes"][-1]["units"]])


@pytest.mark.parametrize("name", ["OME-Zarr 0.5 by zarr", "OME-Zarr 0.4 by zarr"])
def test_the_ome_samples_are_valid(tmp_path, name):
    models = pytest.importorskip("ome_zarr_models")
    assert models.open_ome_zarr(str(SAMPLES[name].write(tmp_path, samples.make())), version=name.split()[1])


def test_the_zspy_sample_is_laid_out_as_the_hspy_one(tmp_path):
    zarr, _ = pytest.importorskip("zarr"), pytest.importorskip("rsciio")
    data = samples.make()
    with h5py.File(samples.hspy(tmp_path, data)) as file:
        names = {name for name in file["Experiments/series"] if name.startswith(("axis", "data", "metadata"))}
    assert names <= set(zarr.open_group(samples.zspy(tmp_path, data), mode="r")["Experiments/series"])
