"""The pictures: what is in them, in which scale."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.reconstruct import Reconstruction
from tiltfield.report import compare_figure, preview, save_preview
from tiltfield.report.preview import round_length
from tiltfield.series import TiltSeries, Volume


def make(shape=(5, 12, 20), depth=6, pixel=2.0, valid=None):
    rng = np.random.default_rng(0)
    images = rng.random(shape, np.float32)
    series = TiltSeries(images, np.array([-40.0, -20.0, 1.0, 20.0, 40.0]), pixel, valid=valid, name="needle")
    volume = Volume(rng.random((depth, *shape[1:]), np.float32), pixel)
    rendered = (images + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    return series, Reconstruction(volume, rendered, {}, ReconstructConfig())


def pictures(figure):
    return [axes.get_images()[0] for axes in figure.axes[:6]]


def test_the_panels_show_what_their_titles_say():
    series, result = make()
    figure = preview(series, result)
    data, twin, residual, xy, xz, yz = (np.asarray(p.get_array()) for p in pictures(figure))
    assert "1.0°" in figure.axes[0].get_title()
    np.testing.assert_array_equal(data, series.images[2])
    np.testing.assert_array_equal(twin, result.rendered[2])
    np.testing.assert_allclose(residual * (data - twin).std(), data - twin, rtol=1e-4)
    np.testing.assert_array_equal(xy, result.volume.data[3])
    np.testing.assert_array_equal(xz, result.volume.data[:, 6])
    np.testing.assert_array_equal(yz, result.volume.data[:, :, 10])


def test_data_and_twin_share_one_grey_scale_and_the_sections_another():
    limits = [p.get_clim() for p in pictures(preview(*make()))]
    assert limits[0] == limits[1]
    assert limits[2] == (-4.0, 4.0)
    assert limits[3] == limits[4] == limits[5]


def test_invalid_pixels_are_left_out_of_the_residual():
    valid = np.ones((5, 12, 20), bool)
    valid[2, :, :3] = False
    series, result = make(valid=valid)
    result.rendered[2, :, :3] = 1e6
    residual = pictures(preview(series, result))[2].get_array()
    assert residual.mask[:, :3].all()
    assert not residual.mask[:, 3:].any()
    assert residual.std() == pytest.approx(1.0)


@pytest.mark.parametrize(("pixel", "unit"), [(2.0, "10 nm"), (None, "5 px")])
def test_the_scale_bar_has_a_round_length(pixel, unit):
    texts = [t.get_text() for t in preview(*make(pixel=pixel)).axes[0].findobj() if hasattr(t, "get_text")]
    assert unit in texts


@pytest.mark.parametrize(("limit", "length"), [(1, 1), (1.99, 1), (2, 2), (49.9, 20), (500, 500), (0.07, 0.05)])
def test_round_lengths_are_one_two_or_five(limit, length):
    assert round_length(limit) == pytest.approx(length)


@pytest.mark.parametrize(("shape", "depth"), [((5, 7, 40), 3), ((5, 40, 7), 2), ((5, 9, 9), 1)])
def test_any_shape_makes_a_picture(tmp_path, shape, depth):
    picture = imread(save_preview(tmp_path / "preview.png", *make(shape, depth)))
    assert picture.ndim == 3
    assert picture.std() > 0.05


def test_a_constant_volume_makes_a_picture(tmp_path):
    series, result = make()
    flat = Reconstruction(Volume(np.zeros_like(result.volume.data)), series.images, {}, result.config)
    assert save_preview(tmp_path / "preview.png", series, flat).exists()


def test_the_headline_says_what_was_done():
    series, result = make()
    headline = preview(series, result).get_suptitle()
    assert "needle: 5 tilts, neural (hashgrid, auto), volume 6 × 12 × 20" in headline
    told = replace(result, metrics={"noise": {"model": "/somewhere/noise.json"}})
    assert "(hashgrid, noise.json)" in preview(series, told).get_suptitle()


def test_a_comparison_ignores_scale_and_shift(tmp_path):
    truth = Volume(np.random.default_rng(0).random((6, 8, 10), np.float32))
    scaled = Volume(3 * truth.data - 5)
    picture = imread(compare_figure(truth, {"same": scaled}, tmp_path / "c.png"))
    again = imread(compare_figure(truth, {"same": truth}, tmp_path / "d.png"))
    np.testing.assert_allclose(picture, again, atol=0.02)


def test_a_comparison_refuses_another_shape(tmp_path):
    truth = Volume(np.random.default_rng(0).random((6, 8, 10), np.float32))
    with pytest.raises(InputError, match="shape"):
        compare_figure(truth, {"other": Volume(truth.data[:, :4])}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
