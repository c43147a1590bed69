import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io import load
from tiltfield.series import TiltSeries, quantum_of, screen


def images(n=5, rows=12, cols=10, seed=0):
    return np.random.default_rng(seed).normal(100, 10, (n, rows, cols)).astype(np.float32)


def angles(n=5):
    return np.linspace(-60, 60, n)


def test_a_good_series_keeps_its_values():
    given = images()
    series = TiltSeries(given, angles(), pixel_size_nm=2.0)
    assert series.images is given
    assert series.angles_deg.dtype == np.float64


def test_integers_become_float32():
    assert TiltSeries(np.arange(60, dtype=np.int16).reshape(3, 4, 5), angles(3)).images.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": images()[0]}, r"expected images of shape \(tilt, row, col\)"),
        ({"images": images(2), "angles_deg": angles(2)}, "at least 3 tilts, got 2"),
        ({"angles_deg": angles(4)}, "each of the 5 images, got 4"),
        ({"angles_deg": np.array([0, 1, np.nan, 3, 4])}, "angle 3 .* is not a number"),
        ({"angles_deg": np.full(5, 7.0)}, r"all 5 tilt angles are equal \(7°\)"),
        ({"angles_deg": np.array([-90.0, 0, 1, 2, 3])}, r"within ±89°, got -90° for image 1"),
        ({"valid": np.ones((5, 12, 9), bool)}, r"mask .* shape \(5, 12, 9\)"),
        ({"pixel_size_nm": 0.0}, "pixel size must be a positive"),
        ({"pixel_size_nm": float("nan")}, "pixel size must be a positive"),
        ({"numbers": np.arange(4)}, "a number for each of 5 images"),
        ({"quantum": -1.0}, "spacing of the grey values must be positive"),
        ({"images": np.full((5, 12, 10), "a")}, "array of real numbers"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    with pytest.raises(InputError, match=message):
        TiltSeries(**{"images": images(), "angles_deg": angles(), **change})


def test_all_problems_are_listed_at_once():
    with pytest.raises(InputError, match="at least 3 tilts") as info:
        TiltSeries(images(2), np.zeros(2), pixel_size_nm=-1.0)
    assert "are equal" in str(info.value)
    assert "positive number of nm" in str(info.value)


@pytest.mark.parametrize(("value", "message"), [(3.0, "image 3 .*at 0.00°.* constant"), (np.nan, "image 3 .* NaN")])
def test_an_image_without_a_picture_is_named(value, message):
    bad = images()
    bad[2] = value
    with pytest.raises(InputError, match=message):
        TiltSeries(bad, angles())


def test_binning_averages_blocks_and_scales_the_pixel():
    given, valid = images(3, 9, 11), np.ones((3, 9, 11), bool)
    valid[1, 1, 1] = valid[2, 4, 0] = valid[2, 8, 5] = False
    series = TiltSeries(given, angles(3), 2.0, valid, quantum=1.0).binned(3)
    assert series.images.shape == (3, 3, 3)
    np.testing.assert_allclose(series.images[1, 2, 2], given[1, 6:9, 7:10].mean(), rtol=1e-6)
    assert series.pixel_size_nm == 6.0
    assert series.quantum is None
    assert np.argwhere(~series.valid).tolist() == [[1, 0, 0], [2, 2, 1]]


def test_blocks_between_two_columns_weigh_the_outer_ones_by_half():
    given, valid = images(3, 8, 9), np.ones((3, 8, 9), bool)
    valid[1, 0, 4] = False
    series = TiltSeries(given, angles(3), 2.0, valid).binned(4)
    assert series.images.shape == (3, 2, 2)
    row = given[:, 4:8].mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(series.images[:, 1, 0], row[:, :5] @ [0.125, 0.25, 0.25, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(series.images[:, 1, 1], row[:, 4:] @ [0.125, 0.25, 0.25, 0.25, 0.125], rtol=1e-6)
    assert np.argwhere(~series.valid).tolist() == [[1, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("n", range(2, 9))
def test_a_rod_on_the_tilt_axis_stays_there_when_binned(n):
    for cols in range(90, 101):
        u = np.arange(cols) - (cols - 1) / 2
        rod = np.tile(np.exp(-((u / 20) ** 2)), (3, n + 1, 1))
        seen = TiltSeries(rod, angles(3)).binned(n).images[1, 0].astype(np.float64)
        middle = (len(seen) - 1) / 2
        assert abs(seen @ (np.arange(len(seen)) - middle)) < 1e-6 * seen.sum()
        assert cols - 2 * n < n * len(seen) <= cols


@pytest.mark.parametrize(("cols", "n", "wide"), [(10, 9, 1), (10, 10, 1), (97, 3, 31), (95, 3, 31), (94, 3, 30)])
def test_a_block_is_given_up_only_for_an_even_rest_and_never_the_last(cols, n, wide):
    assert TiltSeries(images(3, 30, cols), angles(3)).binned(n).images.shape[2] == wide


def test_noise_shared_by_blocks_has_the_correlation_that_is_told():
    binned = TiltSeries(images(20, 64, 1001), angles(20)).binned(2).images.astype(np.float64) - 100
    assert np.mean(binned[..., 1:] * binned[..., :-1]) / np.mean(binned**2) == pytest.approx(1 / 6, abs=0.01)
    assert np.mean(binned[:, 1:] * binned[:, :-1]) / np.mean(binned**2) == pytest.approx(0, abs=0.01)


def test_binning_by_one_changes_nothing():
    series = TiltSeries(images(), angles(), quantum=1.0)
    assert series.binned(1) is series


@pytest.mark.parametrize("n", [0, -1, 11, 1.5, True])
def test_binning_needs_a_whole_number_that_fits(n):
    with pytest.raises(InputError, match="whole number from 1 to 10"):
        TiltSeries(images(), angles()).binned(n)


@pytest.mark.parametrize("which", [[4, 0, 2], np.array([True, False, True, True, False])])
def test_selection_keeps_images_and_angles_together(which):
    series = TiltSeries(images(), angles(), valid=np.ones((5, 12, 10), bool))
    chosen = series.select(which)
    order = np.flatnonzero(which) if np.asarray(which).dtype == bool else which
    np.testing.assert_array_equal(chosen.images, series.images[order])
    np.testing.assert_array_equal(chosen.angles_deg, series.angles_deg[order])
    assert chosen.valid.shape == chosen.images.shape


def test_a_slice_selects_and_the_length_is_the_number_of_tilts():
    series = TiltSeries(images(9), angles(9))
    chosen = series.select(slice(None, None, 3))
    assert (len(series), len(chosen)) == (9, 3)
    assert chosen.tilt_numbers.tolist() == [1, 4, 7]
    np.testing.assert_array_equal(chosen.images, series.images[::3])


def test_cropping_cuts_images_and_masks_and_keeps_the_axis_in_the_middle():
    series = TiltSeries(images(), angles(), 2.0, valid=images() > 90, quantum=None)
    small = series.cropped(rows=(1, 7), columns=(2, 8))
    np.testing.assert_array_equal(small.images, series.images[:, 1:7, 2:8])
    np.testing.assert_array_equal(small.valid, series.valid[:, 1:7, 2:8])
    assert small.pixel_size_nm == 2.0
    assert "rows 1 to 6, columns 2 to 7" in small.sources["cropped"]
    np.testing.assert_array_equal(series.cropped(rows=(0, 3)).images, series.images[:, :3])


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (None, (0, 8), r"tilt axis stays .* got 0 and 2"),
        (None, (2, 11), "columns .* within 0 and 10"),
        ((5, 5), None, "rows .* within 0 and 12"),
        ((-1, 5), None, "rows .* within 0 and 12"),
    ],
)
def test_cropping_beside_the_axis_or_beyond_the_images(rows, columns, message):
    with pytest.raises(InputError, match=message):
        TiltSeries(images(), angles()).cropped(rows, columns)


@pytest.mark.parametrize("size", [None, 2.5])
def test_a_series_survives_its_file_unscreened(tmp_path, size):
    given = images(5, 32, 32)
    given[1, 3, 3] = 1e6  # screening would take it for a hot pixel
    series = TiltSeries(given, angles(), size, valid=images(5, 32, 32, seed=1) > 100)
    back = load(series.save(tmp_path / "s.npz"))
    np.testing.assert_array_equal(back.images, series.images)
    np.testing.assert_array_equal(back.angles_deg, series.angles_deg)
    np.testing.assert_array_equal(back.valid, series.valid)
    assert back.pixel_size_nm == size
    assert load(TiltSeries(given, angles()).save(tmp_path / "t.npz")).valid is None
    with pytest.raises(InputError, match=r"ends in \.npz"):
        series.save(tmp_path / "s.mrc")


def test_masked_pixels_do_not_hide_that_data_are_counted(tmp_path):
    counts = np.rint(images())
    valid = np.ones(counts.shape, bool)
    valid[0, 0, 0], counts[0, 0, 0] = False, 99.5
    path = TiltSeries(counts, angles(), valid=valid, quantum=1.0).save(tmp_path / "s.npz")
    assert load(path).quantum == 1.0
    left = load(path, exclude=[2])
    np.testing.assert_array_equal(left.valid, valid[[0, 2, 3, 4]])


@pytest.mark.parametrize("which", [[0, 1, 5], [0.5, 1, 2], [[0, 1, 2]], [0, 1]])
def test_selection_of_what_is_not_there(which):
    with pytest.raises(InputError):
        TiltSeries(images(), angles()).select(which)


def test_the_summary_says_where_things_come_from():
    sources = {"angles": "x.rawtlt", "warning angles": "x.mdoc differs"}
    text = "\n".join(TiltSeries(images(), angles(), 2.0, quantum=1.0, name="x", sources=sources).summary())
    assert "5 images of 12 x 10 pixels" in text
    assert "-60° to 60°, in steps of 30° (from x.rawtlt)" in text
    assert "2 nm" in text
    assert "warning angles: x.mdoc differs" in text
    assert "steps of 1" in text
    assert "unknown" in "\n".join(TiltSeries(images(), angles()).summary())


@pytest.mark.parametrize(
    ("values", "spacing"),
    [
        (np.arange(24, dtype=np.int16), 1.0),
        (np.arange(24, dtype=np.uint8) * 4 + 3, 4.0),
        (np.arange(24, dtype=np.float32) * 2, 2.0),
        (np.arange(24, dtype=np.float32) / 2, None),
        (np.array([np.nan, *range(23)], dtype=np.float32), 1.0),
        (np.arange(24) * 1e9, None),
        (np.full(24, np.nan), None),
    ],
)
def test_counted_data_are_told_from_measured(values, spacing):
    assert quantum_of(values.reshape(2, 3, 4)) == spacing


def test_screening_good_data_returns_them():
    given = images(5, 32, 32)
    out, valid, report = screen(given)
    assert out is given
    assert valid is None
    assert report == []


def test_radians_are_refused():
    angles = np.deg2rad(np.arange(-60.0, 61.0, 10.0))
    with pytest.raises(InputError, match="radians"):
        TiltSeries(np.random.default_rng(0).random((len(angles), 4, 5)), angles)


def test_an_empty_stack_is_refused_in_words():
    with pytest.raises(InputError):
        TiltSeries(np.zeros((0, 4, 5)), np.zeros(0))
