import h5py
import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames

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
    with pytest.raises(InputError, match=r"group 'Experiments', got \['entry'\]"):
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


def test_measured_aligned_needle(shared_data):
    series = load(shared_data("needle/HAADF_Aligned.hspy"), tilt_axis="x")
    with h5py.File(shared_data("needle/HAADF_Aligned.hspy")) as file:
        data = file["Experiments/__unnamed__/data"][...]
    assert series.images.shape == (77, 256, 256)
    np.testing.assert_allclose(series.angles_deg, np.arange(-76, 77, 2))
    assert series.pixel_size_nm == pytest.approx(3.36)
    np.testing.assert_array_equal(series.images[:, 30, 250], data[:, 5, 30])
    assert series.valid is None
