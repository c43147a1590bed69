import time
import tracemalloc

import numpy as np
import pytest
import samples
from dm_bytes import DM_TYPES, dm_file, dm_tree

from tiltfield.errors import InputError
from tiltfield.io import dm, load, load_frames


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("kind", DM_TYPES)
def test_types_versions_and_byte_orders(tmp_path, kind, version, order):
    data = samples.make(dtype=kind)
    raw = load_frames(dm_file(tmp_path / f"x.dm{version}", data, version, samples.ANGLES, 0.5, order))
    np.testing.assert_array_equal(raw.images, data)
    assert raw.images.dtype == np.dtype(kind)
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES)
    assert raw.pixel_size_nm == pytest.approx(0.5)


def rewritten(monkeypatch, change):
    """Change the tags of the image before they are written."""

    def tree(*given):
        tags = dm_tree(*given)
        change(tags["ImageList"][1])
        return tags

    monkeypatch.setattr("dm_bytes.dm_tree", tree)


def test_tilts_from_the_calibration_of_the_third_dimension(tmp_path, monkeypatch):
    def calibrate(image):
        del image["ImageTags"]["Meta Data"]
        image["ImageData"]["Calibrations"]["Dimension"][2] = {"Origin": 3.0, "Scale": 20.0, "Units": "deg"}

    rewritten(monkeypatch, calibrate)
    raw = load_frames(dm_file(tmp_path / "x.dm4", samples.make(), 4, samples.ANGLES, 0.5))
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES)
    assert "calibration of the third dimension" in raw.sources["angles"]


def test_a_list_of_tilts_with_a_gap_is_none(tmp_path, monkeypatch):
    rewritten(monkeypatch, lambda image: image["ImageTags"]["Meta Data"]["Dimension info"]["2"]["Data"].pop("3"))
    assert load_frames(dm_file(tmp_path / "x.dm3", samples.make(), 3, samples.ANGLES, 0.5)).angles_deg is None


def test_an_image_without_stage_or_calibration(tmp_path, monkeypatch):
    def strip(image):
        image["ImageTags"], image["ImageData"]["Calibrations"] = {}, {}

    rewritten(monkeypatch, strip)
    raw = load_frames(dm_file(tmp_path / "x.dm3", samples.make(1), 3, [5.0], 0.5))
    assert raw.angles_deg is None
    assert raw.pixel_size_nm is None


@pytest.mark.parametrize(
    ("key", "value"), [("DataType", 23), ("DataType", 1), ("Dimensions", [4, 5, 6]), ("Dimensions", [])]
)
def test_what_is_no_grey_image(tmp_path, monkeypatch, key, value):
    rewritten(monkeypatch, lambda image: image["ImageData"].update({key: value}))
    with pytest.raises(InputError, match="expected a grey image of two or three dimensions, got data types 23"):
        load_frames(dm_file(tmp_path / "x.dm3", samples.make(), 3, samples.ANGLES, 0.5))


def longer(content):
    """A text, the unit of a pixel, that says it is as long as half the file."""
    at = content.index("µm".encode("utf-16-le")) - 4
    return content[:at] + (len(content) // 4).to_bytes(4, "big") + content[at + 4 :]


def renamed(content):
    """Pixels under another name, so that they look like a tag of many numbers."""
    at = content.rindex(b"\x15\x00\x04Data")
    return content[: at + 3] + b"Eata" + content[at + 7 :]


def nested(content):
    """A group within a group, without end."""
    group = b"\1\0\0\0\0\1" + b"\x14\0\1g"
    return content[:12] + group * (len(content) // len(group))


@pytest.mark.parametrize("damage", [longer, renamed, nested])
def test_damage_costs_neither_time_nor_memory(tmp_path, damage):
    path = dm_file(tmp_path / "x.dm3", samples.make(4, 512, 512), 3, samples.tilts(4), 0.5)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(InputError, match=r"x\.dm3: "):
        dm.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(content) / 4
    assert time.perf_counter() - began < 5


def test_measured_single_images_are_a_series(shared_data):
    folder = shared_data("dm3")
    raw = load_frames(folder)
    np.testing.assert_allclose(raw.angles_deg, [-72, -69, -66], atol=0.01)
    assert raw.sources["angles"] == "Stage Alpha in each file"
    assert raw.pixel_size_nm == pytest.approx(19.1087, abs=1e-4)
    assert raw.images.shape == (3, 128, 128)
    with pytest.raises(InputError, match=r"images 1-3 .* are constant, expected pictures"):
        load(folder)  # they were blanked before they were given away
    reader = pytest.importorskip("rsciio.digitalmicrograph")
    for image, path in zip(raw.images, sorted(folder.glob("*.dm3")), strict=True):
        np.testing.assert_array_equal(image, reader.file_reader(str(path))[0]["data"])
