import struct

import h5py
import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames
from tiltfield.io.hdf5 import check_heaps

N, ROWS, COLS = 5, 12, 9
ANGLES = np.linspace(-40, 40, N)


def images(dtype=np.float32):
    return np.random.default_rng(0).normal(100, 10, (N, ROWS, COLS)).astype(dtype)


def write(path, data, axes=("nm", 0.5), tilts=None, where="metadata/Tomography/_sig_tilts/data", **options):
    """Lay a HyperSpy file out by hand."""
    units, scale = axes
    with h5py.File(path, "w") as file:
        group = file.create_group("Experiments/series")
        group.create_dataset("data", data=data, **options)
        for i, n in enumerate(data.shape):
            tilt = i == 0 and data.ndim == 3
            group.create_group(f"axis-{i}").attrs.update(
                {"name": "tilt" if tilt else "xy"[i % 2], "size": n, "navigate": tilt, "offset": 0.0}
                | ({"scale": 1.0, "units": "<undefined>"} if tilt else {"scale": scale, "units": units})
            )
        if tilts is not None:
            group[where] = tilts
    return path


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<u2", "i1"])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (1, ROWS, COLS)}])
def test_number_types_and_compression(tmp_path, dtype, options):
    data = images(dtype)
    series = load(write(tmp_path / "x.hspy", data, tilts=ANGLES[:, None], **options))
    np.testing.assert_array_equal(series.images, data.astype(np.float32))
    np.testing.assert_allclose(series.angles_deg, ANGLES)
    assert series.pixel_size_nm == 0.5
    assert "_sig_tilts" in series.sources["angles"]


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        (("nm", 2.0), 2.0),
        (("Å", 2.0), 0.2),
        (("\u212b", 2.0), 0.2),
        (("µm", 0.002), 2.0),
        (("\u03bcm", 0.002), 2.0),
        ((b"um", 0.002), 2.0),
        (("m", 2e-9), 2.0),
        (("nm", -2.0), 2.0),
        (("px", 1.0), None),
        (("<undefined>", 1.0), None),
        (("nm", 0.0), None),
        (("nm", np.nan), None),
    ],
)
def test_units_of_length(tmp_path, axes, size):
    got = load_frames(write(tmp_path / "x.hspy", images(), axes)).pixel_size_nm
    assert got == (None if size is None else pytest.approx(size))


@pytest.mark.parametrize(
    "where",
    [
        "metadata/Tomography/_sig_tilts",
        "metadata/Tomography/tilts",
        "metadata/Acquisition_instrument/TEM/Stage/tilt_alpha",
        "original_metadata/fei_header/a_tilt",
    ],
)
def test_places_of_tilts(tmp_path, where):
    padded = np.pad(ANGLES, (0, 1019)) if "header" in where or "Stage" in where else ANGLES
    np.testing.assert_allclose(
        load_frames(write(tmp_path / "x.hspy", images(), tilts=padded, where=where)).angles_deg, ANGLES
    )


def test_tilts_as_an_attribute(tmp_path):
    path = write(tmp_path / "x.hspy", images())
    with h5py.File(path, "r+") as file:
        file["Experiments/series"].create_group("metadata/Tomography").attrs["tilts"] = ANGLES
    np.testing.assert_allclose(load_frames(path).angles_deg, ANGLES)


def test_tilts_from_an_axis_in_degrees_wherever_it_is(tmp_path):
    data = images()
    path = write(tmp_path / "x.hspy", data.transpose(1, 2, 0))
    with h5py.File(path, "r+") as file:
        for i in range(3):
            file[f"Experiments/series/axis-{i}"].attrs.update(name="xyz"[i], units="nm", scale=0.5, navigate=False)
        file["Experiments/series/axis-2"].attrs.update(units="degrees", scale=20.0, offset=-40.0)
    raw = load_frames(path)
    np.testing.assert_array_equal(raw.images, data)
    np.testing.assert_allclose(raw.angles_deg, ANGLES)
    assert raw.pixel_size_nm == 0.5


@pytest.mark.parametrize("tilts", [np.zeros(N), np.full(N, np.nan), np.full(N, 999.0), ANGLES[:3], np.arange(2.0 * N)])
def test_what_are_no_tilts(tmp_path, tilts):
    assert load_frames(write(tmp_path / "x.hspy", images(), tilts=tilts)).angles_deg is None


def test_a_single_image(tmp_path):
    assert load_frames(write(tmp_path / "x.hspy", images()[0])).images.shape == (1, ROWS, COLS)


def test_foreign_hdf5_says_what_is_in_it(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["entry/data"] = images()
    with pytest.raises(InputError, match=r"HyperSpy .*Velox .*EMD .*got \['entry'\]"):
        load_frames(tmp_path / "x.h5")
    with pytest.raises(InputError, match=r"series: \(5,\) float64"):
        load_frames(write(tmp_path / "y.hspy", ANGLES))


def test_data_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "x.hspy", "w") as file:
        file.create_group("Experiments/e").create_dataset("data", (10**5, 10**5, 10**5), "f4", chunks=(1, 100, 100))
    with pytest.raises(InputError, match="GB of memory"):
        load_frames(tmp_path / "x.hspy")
    with h5py.File(tmp_path / "y.hspy", "w") as file:
        file.create_group("Experiments/e").create_dataset("data", (9, 99, 99), "f4")
    with pytest.raises(InputError, match="holds 0 of them"):
        load_frames(tmp_path / "y.hspy")


def test_the_file_is_closed_after_a_failure(tmp_path):
    path = write(tmp_path / "x.hspy", ANGLES)
    with pytest.raises(InputError):
        load_frames(path)
    with h5py.File(path, "r+"):
        pass


def test_chunks_that_were_never_written_are_told(tmp_path):
    path = write(tmp_path / "x.hspy", images(), tilts=ANGLES)
    with h5py.File(path, "r+") as file:
        group = file["Experiments/series"]
        del group["data"]
        group.create_dataset("data", (N, ROWS, COLS), "f4", chunks=(1, ROWS, COLS))[:3] = images()[:3]
    assert "2 of 5 chunks of the images are not there" in load_frames(path).sources["warning chunks"]


def heap(*objects, size=4096):
    """A global heap of objects (index, size that is written), each with as much room as it truly takes."""
    text = b"GCOL\1\0\0\0" + struct.pack("<Q", size)
    for index, length in objects:
        text += struct.pack("<HHIQ", index, 0, 0, length) + bytes((length + 7) // 8 * 8 if index else 0)
    return text.ljust(size, b"\0")


SUPERBLOCK = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0"
FREE = 4096 - 16  # of an empty heap


@pytest.mark.parametrize("before", [0, 2**20 - 16 - 2, 2**20 - 16])  # across the border between two pieces, too
@pytest.mark.parametrize(
    ("objects", "good"),
    [
        ([(1, 5), (2, 8), (0, FREE - 24 - 24)], True),
        ([(1, 5), (2, 8), (0, 0)], False),  # no way on
        ([(1, 5), (2, 8), (0, 8)], False),
        ([(1, 5), (0, FREE)], False),  # out of the heap
        ([(1, 2**64 - 16)], False),  # around the corner
        ([(1, 2**64 - 1)], False),
    ],
)
def test_strings_that_would_be_read_for_ever(tmp_path, before, objects, good):
    written = heap(*[(index, length if length < 2**63 else 0) for index, length in objects])
    if objects[0][1] >= 2**63:
        written = written[:24] + struct.pack("<Q", objects[0][1]) + written[32:]
    path = tmp_path / "x.hspy"
    path.write_bytes(SUPERBLOCK + bytes(before) + written)
    if good:
        check_heaps(path)
    else:
        with pytest.raises(InputError, match=rf"strings at byte {16 + before} are damaged"):
            check_heaps(path)


def test_a_damaged_string_of_a_real_file(tmp_path):
    path = write(tmp_path / "x.hspy", images())
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16 + 8
    content[at : at + 8] = struct.pack("<Q", FREE - 32)  # the next object is now in the zeros at the end
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.hspy: the strings at byte \d+ are damaged"):
        load_frames(path)


def test_lengths_that_are_not_of_eight_bytes(tmp_path):
    (tmp_path / "x.hspy").write_bytes(SUPERBLOCK.replace(b"\x08\x08", b"\x08\x04") + bytes(99))
    with pytest.raises(InputError, match="lengths of 8 bytes"):
        load_frames(tmp_path / "x.hspy")


def test_measured_aligned_needle(shared_data):
    series = load(shared_data("needle/HAADF_Aligned.hspy"), tilt_axis="x")
    with h5py.File(shared_data("needle/HAADF_Aligned.hspy")) as file:
        data = file["Experiments/__unnamed__/data"][...]
    assert series.images.shape == (77, 256, 256)
    np.testing.assert_allclose(series.angles_deg, np.arange(-76, 77, 2))
    assert series.pixel_size_nm == pytest.approx(3.36)
    np.testing.assert_array_equal(series.images[:, 30, 250], data[:, 5, 30])
    assert series.valid is None
