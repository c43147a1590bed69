"""Tilts that are left out: numbered from 1, as in the file, everywhere."""

import numpy as np
import pytest

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.io import load, write_stack
from tiltfield.parse import parse_numbers
from tiltfield.series import TiltSeries

N = 7
ANGLES = np.linspace(-60, 60, N)


@pytest.fixture
def stack(tmp_path):
    images = np.random.default_rng(0).normal(100, 10, (N, 16, 12)).astype(np.float32)
    images[4] = 3.0  # the shutter was closed
    (tmp_path / "x.rawtlt").write_text("\n".join(f"{a:.2f}" for a in ANGLES))
    return write_stack(images, tmp_path / "x.mrc", 0.5)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("none", ()), ("23", (23,)), ("17, 3,40-42", (3, 17, 40, 41, 42)), ("2-2,2", (2,)), ("1 - 3", (1, 2, 3))],
)
def test_lists_are_those_of_imod(text, numbers):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["0", "0-3", "5-3", "-3", "3;4", "a", "1,,2", "1.5", "1-2-3"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(InputError, match="exclude: expected none, or numbers counted from 1"):
        ReconstructConfig.parse({"exclude": text}, "settings")


@pytest.mark.parametrize(("value", "text"), [(23, "23"), ([3, 17], "3,17"), ([], "none"), ("3,17", "3,17")])
def test_yaml_may_hold_a_number_or_a_list(value, text):
    assert ReconstructConfig.parse({"exclude": value}, "settings").exclude == text


def test_a_bad_image_that_is_left_out_does_not_matter(stack):
    with pytest.raises(InputError, match=r"image 5 \(counted from 1, at 20\.00°\) is constant.*--exclude 5"):
        load(stack)
    series = load(stack, exclude=(5,))
    np.testing.assert_allclose(series.angles_deg, np.delete(ANGLES, 4))
    assert series.tilt_numbers.tolist() == [1, 2, 3, 4, 6, 7]
    assert any(line == "excluded: tilt 5 (counted from 1), as asked for" for line in series.summary())


def test_messages_name_the_number_in_the_file_when_others_are_left_out(stack):
    with pytest.raises(InputError, match=r"image 5 .*--exclude 5"):
        load(stack, exclude=(1, 3))


def test_the_settings_say_how_to_read(stack):
    config = ReconstructConfig(exclude="5-6", bin=2)
    series = load(stack, **config.reading)
    assert series.tilt_numbers.tolist() == [1, 2, 3, 4, 7]
    assert series.images.shape == (5, 8, 6)


def test_numbers_beyond_the_stack_and_too_many_are_refused(stack):
    with pytest.raises(InputError, match="cannot leave out image 8: there are 7, counted from 1"):
        load(stack, exclude=(5, 8))
    with pytest.raises(InputError, match="at least 3 tilts, got 2"):
        load(stack, exclude=(1, 2, 3, 4, 5))


def test_numbers_stay_with_their_images():
    series = TiltSeries(np.random.default_rng(0).random((N, 4, 4)), ANGLES)
    assert series.select([5, 0, 3]).select([2, 1, 0]).tilt_numbers.tolist() == [4, 1, 6]


def test_the_flag_leaves_tilts_out_and_the_run_remembers(stack, tmp_path, tiltfield):
    out = tmp_path / "run"
    wbp = ("reconstruct", stack, "--out", out, "--method", "wbp", "--mode", "haadf")
    assert tiltfield(*wbp)[0] == 2
    assert tiltfield(*wbp, "--exclude", "5,1-2")[0] == 0
    assert "exclude: 5,1-2" in (out / "config.yaml").read_text()
