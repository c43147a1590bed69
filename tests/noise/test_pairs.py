"""Pairs of clean and noisy images: given, joined, halved, and refused."""

import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.noise.base import Recording
from tiltfield.noise.learn import Pairs
from tiltfield.noise.pairs import centre, given, halves, join, joint, recording_of


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def test_one_clean_image_serves_all_noisy_ones():
    pairs = given(images(1, 40, 50), images(3, 40, 50, seed=1))
    assert pairs.clean.shape == (3, 40, 50)
    assert np.all(pairs.clean == pairs.clean[0])


@pytest.mark.parametrize(
    ("clean", "noisy", "words"),
    [
        (images(2, 40, 40), images(2, 40, 41), "one shape"),
        (images(2, 40, 40), images(2, 40, 40), "the same"),
        (images(40, 40), images(40, 40), "(frame, row, col)"),
        (images(1, 8, 40), images(1, 8, 40, seed=1), "32 pixels"),
        (images(1, 40, 40), np.full((1, 40, 40), np.nan), "NaN"),
    ],
)
def test_what_is_no_pair_is_refused(clean, noisy, words):
    with pytest.raises(InputError) as error:
        given(clean, noisy)
    assert words in str(error.value)


def test_saturation_and_grey_values_are_told():
    noisy = np.clip(np.round(images(2, 64, 64) / 4) * 4, 84, 120)
    assert recording_of(noisy, 10.0) == Recording(84.0, 120.0, 4.0, pytest.approx(3e-5 * 36))
    assert recording_of(images(2, 64, 64), 10.0) == Recording()
    assert recording_of(np.round(images(2, 64, 64)), 10.0) == Recording()  # steps of a tenth of the deviation


def test_fields_of_different_size_are_cut_to_the_smallest():
    parts = [given(images(2, *size), images(2, *size, seed=1)) for size in ((40, 60), (50, 48))]
    joined = join(parts)
    assert joined.clean.shape == joined.noisy.shape == (4, 40, 48)
    np.testing.assert_array_equal(joined.noisy[:2], parts[0].noisy[:, :, 6:54])
    np.testing.assert_array_equal(joined.noisy[2:], parts[1].noisy[:, 5:45])


def test_fields_recorded_differently_do_not_join():
    parts = [Pairs(images(1, 40, 40), images(1, 40, 40, seed=1), Recording(high=top)) for top in (120.0, 130.0)]
    with pytest.raises(InputError, match="not recorded alike"):
        join(parts)
    with pytest.raises(InputError, match="at least one"):
        join([])


def test_what_one_field_tells_of_the_detector_holds_for_all():
    told = [Recording(), Recording(high=120.0, slack=0.003), Recording(low=3.0, slack=0.002), Recording(quantum=2.0)]
    assert joint(told) == Recording(3.0, 120.0, 2.0, 0.003)
    assert joint(told[:1]) == Recording()
    for other in (Recording(low=4.0), Recording(high=119.0), Recording(quantum=4.0)):
        with pytest.raises(InputError, match="not recorded alike"):
            joint([*told, other])


def test_a_field_without_saturated_pixels_joins_one_with():
    parts = [Pairs(images(1, 40, 40), images(1, 40, 40, seed=1), r) for r in (Recording(), Recording(high=120.0))]
    joined = join(parts)
    assert joined.recording == Recording(high=120.0)
    assert joined.noisy.max() == 120.0 < parts[0].noisy.max()


def test_halves_share_no_row_nor_neighbours():
    pairs = Pairs(*(np.tile(np.arange(100.0)[None, :, None], (1, 1, 40)) + i for i in (0, 1)))
    upper, lower = halves(pairs)
    assert upper.clean.shape == lower.clean.shape == (1, 46, 40)
    assert lower.clean.min() - upper.clean.max() == 9
    with pytest.raises(InputError, match=r"72 are needed.*--train-repeats, or --train-clean and --train-noisy"):
        halves(Pairs(pairs.clean[:, :70], pairs.noisy[:, :70]))


def test_the_centre():
    np.testing.assert_array_equal(centre(np.arange(25).reshape(1, 5, 5), 3, 1)[0, :, 0], [7, 12, 17])
