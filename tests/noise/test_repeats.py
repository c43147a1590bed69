"""Noise from repeated frames: what was put in comes out, by laws of the noise and against its truth."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tiltfield.errors import InputError
from tiltfield.metrics import jensen_shannon
from tiltfield.noise.base import Recording
from tiltfield.noise.repeats import pairs_from_repeats
from tiltfield.noise.restore import FITS, judge, mixture, total_variation, wiener
from tiltfield.observe import Observer
from tiltfield.traits import correlations, traits_of


class Heard(Observer):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module", params=[(256, 2, 0, True), (256, 2, 1, False), (256, 4, 2, True)], ids=str)
def case(request, repeats):
    known = repeats(*request.param)
    return known, pairs_from_repeats(known.frames)


def recovered(found):
    return found.pairs.noisy - found.pairs.clean


def test_the_variance_line_is_the_one_put_in(case):
    known, found = case
    traits = traits_of(found.pairs.clean, recovered(found))
    assert traits.slope == pytest.approx(known.slope, rel=0.05)
    np.testing.assert_allclose(traits.variance, known.variance(np.array(traits.intensity)), rtol=0.05)


def test_the_correlation_is_the_one_put_in(case):
    known, found = case
    noise = recovered(found)
    np.testing.assert_allclose(correlations(noise, 2, 2), correlations(known.noise, 2, 2), atol=0.03)
    np.testing.assert_allclose(correlations(noise, 1, 2), 0, atol=0.03)


def test_the_shape_is_the_one_put_in(case):
    known, found = case
    noise, shape = recovered(found), traits_of(found.pairs.clean, recovered(found))
    true = traits_of(np.broadcast_to(known.clean, known.frames.shape), known.noise)
    assert shape.skewness == pytest.approx(true.skewness, abs=0.1)
    edges = np.linspace(*np.quantile(known.noise, [1e-4, 1 - 1e-4]), 65)
    counts = [np.histogram(n, edges)[0] for n in (noise, known.noise)]
    assert jensen_shannon(*counts) < 1e-3


def test_the_noise_has_no_mean_at_any_intensity(case):
    known, found = case
    noise, clean = recovered(found), found.pairs.clean
    bins = np.digitize(clean, np.quantile(clean, np.linspace(0, 1, 9)[1:-1]))
    means = [noise[bins == k].mean() for k in range(8)]
    assert np.abs(means).max() < 0.02 * known.noise.std()


def test_the_clean_image_holds_no_noise_of_its_frame(case):
    known, found = case
    error = found.pairs.clean - known.clean
    # the filter's numbers, about 1.3 · 256 gains and 56 weights, are fitted to all frames
    assert abs(np.corrcoef(error.ravel(), known.noise.ravel())[0, 1]) < 0.035


def test_the_error_is_told_without_the_truth(case):
    known, found = case
    true = np.mean((found.pairs.clean - known.clean) ** 2) / known.noise.var()
    assert found.error_share == pytest.approx(true, abs=0.015)


def test_more_frames_give_cleaner_images(repeats):
    shares = [
        pairs_from_repeats(repeats(256, n, 2, True).frames, fits={"mixture": mixture}).error_share for n in (2, 4)
    ]
    assert shares[1] < 0.75 * shares[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mixture_beats_the_wiener_filter_and_that_a_gaussian(repeats, seed):
    frames = repeats(256, 2, seed, True).frames
    seen, wanted = frames[::-1], frames

    def gaussian(seen, wanted):
        return lambda image: gaussian_filter(image, 1.5)

    losses = [judge(fit, seen, wanted) for fit in (mixture, wiener, gaussian)]
    assert losses == sorted(losses)


def test_the_wiener_filter_of_white_noise_alone_is_the_mean():
    noise = np.random.default_rng(0).normal(5, 1, (2, 64, 64))
    flat = wiener(noise[::-1], noise)(noise[0])
    assert flat.std() < 0.15
    assert flat.mean() == pytest.approx(noise[0].mean())


def test_the_wiener_filter_leaves_what_has_no_noise():
    image = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 2)
    np.testing.assert_allclose(wiener(image[None], image[None])(image), image, atol=1e-5)


def test_total_variation_keeps_edges_better_than_the_wiener_filter():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.normal(0, 4, (8, 8)), np.ones((16, 16)))
    frames = blocks + rng.standard_normal((2, 128, 128))
    assert judge(total_variation(1.0), frames[::-1], frames) < judge(wiener, frames[::-1], frames)
    assert pairs_from_repeats(frames).denoiser.startswith("tv")


def test_a_shift_between_frames_is_said(repeats):
    frames = repeats(256, 2, 0, True).frames.copy()
    frames[1] = np.roll(frames[1], (3, -2), (0, 1))
    heard = Heard()
    found = pairs_from_repeats(frames, heard)
    assert any("frame 2 looks shifted against frame 1 by 3 rows and -2 columns" in line for line in heard.lines)
    assert list(found.notes) == heard.lines


def test_a_drift_of_the_mean_is_said_and_taken_out(repeats):
    known = repeats(256, 2, 0, True)
    heard = Heard()
    found = pairs_from_repeats(known.frames + np.array([0.0, 400.0])[:, None, None], heard)
    assert any("mean levels of the frames differ by" in line for line in heard.lines)
    straight = pairs_from_repeats(known.frames)
    np.testing.assert_allclose(
        found.pairs.noisy - found.pairs.clean, recovered(straight), atol=1e-2 * known.noise.std()
    )


def test_hum_is_said(repeats):
    frames = repeats(256, 2, 0, True).frames
    hum = 0.2 * frames.std() * np.sin(2 * np.pi * np.arange(256) / 8)[:, None] * np.array([1, -1])[:, None, None]
    notes = pairs_from_repeats(frames + hum, fits={"mixture": mixture}).notes
    assert any("period of 8 rows" in note for note in notes)


def test_good_frames_get_no_warning(repeats):
    notes = pairs_from_repeats(repeats(256, 2, 0, True).frames).notes
    assert not [n for n in notes if "clean images by" not in n]


def test_clipped_frames_stay_as_recorded(repeats):
    known = repeats(256, 2, 0, True)
    top = float(np.quantile(known.frames, 0.97))
    frames = np.minimum(known.frames, top).astype(np.float32)
    found = pairs_from_repeats(frames)
    assert found.pairs.recording.high == pytest.approx(top)
    assert np.mean(found.pairs.noisy >= np.float32(top) - 0.5) == pytest.approx(0.03, abs=2e-3)
    assert any("left as recorded (saturated at" in note for note in found.notes)


def test_coarse_grey_values_stay_as_recorded(repeats):
    frames = np.round(repeats(256, 2, 0, True).frames / 400) * 400
    found = pairs_from_repeats(frames)
    assert found.pairs.recording.quantum == 400
    assert any("grey values 400 apart" in note for note in found.notes)


def test_frames_are_told_how_their_detector_saturates(repeats):
    frames, high = repeats(256, 2, 0, True).frames, Recording(high=1e5, slack=1.0)
    found = pairs_from_repeats(frames, fits={"mixture": mixture}, recording=high)
    assert found.pairs.recording == high
    np.testing.assert_allclose(found.pairs.noisy, frames, rtol=1e-6)  # left as recorded, though nothing saturates here


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f[:1], "at least two frames"),
        (lambda f: f[0], "shape (frame, row, col)"),
        (lambda f: f[:, :20], "at least 32 pixels"),
        (lambda f: np.where(f > f.mean(), np.nan, f), "NaN"),
        (lambda f: np.stack([f[0], f[0]]), "the same to the bit"),
        (lambda f: np.stack([f[0], np.zeros_like(f[0])]), "constant"),
    ],
)
def test_frames_that_hold_no_noise_are_refused(repeats, spoil, words):
    with pytest.raises(InputError) as error:
        pairs_from_repeats(spoil(repeats(256, 2, 0, True).frames))
    assert words in str(error.value)


def test_every_denoiser_is_named_once():
    assert {"wiener", "mixture"} <= set(FITS)


@pytest.mark.parametrize("name", ["test_000", "test_001"])
def test_measured_frames(shared_data, name):
    from tiltfield.io import load_frames

    frames = load_frames(shared_data(f"repeat_pairs/{name}.mrc")).images[:, :512, :512]
    found = pairs_from_repeats(frames, fits={"mixture": mixture})
    noise = recovered(found)
    assert found.error_share < 0.1
    assert not [n for n in found.notes if "shifted" in n or "levels" in n]
    assert any("period of 10.4 rows" in n for n in found.notes)
    difference = (frames[0].astype(float) - frames[1])[None]
    np.testing.assert_allclose(correlations(noise, 2, 2), correlations(difference, 2, 2), atol=0.01)
    assert noise.var() == pytest.approx(difference.var() / 2, rel=0.01)
    traits = traits_of(found.pairs.clean, noise)
    assert traits.slope == pytest.approx(223, rel=0.05)
    assert 0.4 < traits.skewness < 0.8
