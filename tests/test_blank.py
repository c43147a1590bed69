"""Images that hold no picture, or not everywhere."""

import numpy as np
import pytest

from tiltfield.blank import ImageName, constant_images, image_names, one_value, without_number
from tiltfield.errors import InputError
from tiltfield.screening import screen

NAME = ImageName(4, 13.0)


def frame(width, shape=(20, 30)):
    bad = np.ones(shape, bool)
    bad[width:-width, width:-width] = False
    return bad


def test_names_count_from_one_or_as_in_the_file():
    assert str(NAME) == "image 4 (counted from 1, at 13.00°)"
    assert [str(n) for n in image_names(2, None, None)] == [f"image {i} (counted from 1)" for i in (1, 2)]
    assert image_names(3, np.array([5.0]), np.array([2, 4, 7])) == [ImageName(2, 5.0), ImageName(4), ImageName(7)]


def test_one_value_is_that_of_an_image_without_contrast():
    assert one_value(np.full((3, 4), 2.5)) == 2.5
    assert one_value(np.arange(4.0)) is None


def test_constant_images_are_named_all_at_once():
    one = constant_images({NAME: 5.0})
    assert one.startswith("image 4 (counted from 1, at 13.00°) is constant: every pixel is 5")
    assert one.endswith("leave it out with --exclude 4")
    several = constant_images({ImageName(i): float(i) for i in (2, 5, 6, 7)})
    assert several.startswith("images 2, 5-7 (counted from 1) are constant")
    assert several.endswith("leave them out with --exclude 2,5-7")


def test_pixels_without_a_number_are_told_within_and_beside_the_picture():
    few = np.zeros((20, 30), bool)
    few[0, 0] = few[5, 5] = True
    assert without_number(NAME, few) == (2, 0)
    bad = frame(2)
    bad[10, 10] = True
    assert without_number(NAME, bad) == (1, frame(2).sum())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (~frame(8), r"9.3 % .*at most 1 % can be replaced"),
        (frame(5), "66.7 % .*at most 50 % can be left out at its edges"),
        (np.ones((20, 30), bool), "100.0 % .*--exclude 4"),
    ],
)
def test_more_is_refused(bad, words):
    with pytest.raises(InputError, match=words):
        without_number(NAME, bad)


def test_a_series_that_was_aligned_with_nan_beside_the_picture_is_masked_there():
    rng = np.random.default_rng(0)
    given = rng.normal(10, 1, (5, 40, 40))
    given[1, :, :6] = np.nan
    given[3, -4:] = np.nan
    out, valid, report = screen(given)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(valid, np.isfinite(given))
    assert report == [f"{6 * 40 + 4 * 40} pixels without a number at the edges of the picture, in 2 images masked"]
