import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tiltfield.errors import InputError
from tiltfield.screening import fill, quantile, screen

N, SIZE, SNR = 20, 96, 0.7


def clean(seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(rng.random((SIZE, SIZE)), 4) for _ in range(N)])
    return 0.2 + 0.8 * (smooth - smooth.min()) / np.ptp(smooth)


def poisson_gaussian(seed=0):
    scene, rng = clean(seed), np.random.default_rng(seed + 100)
    return scene + rng.normal(0, scene.std() / np.sqrt(SNR), scene.shape) * np.sqrt(scene / scene.mean())


def electrons(dose, seed=0):
    return np.random.default_rng(seed).poisson(dose * clean(seed))


HEAVY = {
    "poisson-gaussian": poisson_gaussian,
    "clipped": lambda: np.clip(poisson_gaussian(), 0, 1),
    "clipped, 8 bit": lambda: np.round(255 * np.clip(poisson_gaussian(), 0, 1)).astype(np.uint8),
    "clipped hard": lambda: np.clip(poisson_gaussian(), 0.3, 0.5),
    "one electron a pixel": lambda: electrons(1.0),
    "a tenth of an electron": lambda: electrons(0.1),
    "a hundredth": lambda: electrons(0.01),
    "exponential": lambda: np.random.default_rng(0).exponential(1, (N, SIZE, SIZE)),
    "long tails": lambda: np.random.default_rng(0).lognormal(0, 1, (N, SIZE, SIZE)),
    "along the scan": lambda: gaussian_filter(poisson_gaussian(), (0, 0, 0.8)),
    "no noise": clean,
    "empty around": lambda: np.where(clean() > 0.6, poisson_gaussian(), 0.0),
    "saturated particles": lambda: np.minimum(poisson_gaussian() + 5 * (clean() > 0.9), 3.0),
}


@pytest.mark.parametrize("name", HEAVY)
def test_no_pixel_is_masked_in_noisy_data(name):
    out, valid, _ = screen(HEAVY[name]())
    assert valid is None
    assert out.dtype == np.float32


@pytest.mark.parametrize("blur", [0.6, 0.8, 1.5])
def test_small_bright_particles_stay(blur):
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:SIZE, :SIZE]
    given = rng.normal(0, 1, (N, SIZE, SIZE))
    for image in given:
        for row, col in rng.uniform(4, SIZE - 5, (6, 2)):
            image += 60 * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * blur**2))
    assert screen(given)[1] is None


@pytest.mark.parametrize("make", [poisson_gaussian, lambda: np.clip(poisson_gaussian(), 0, 1), lambda: electrons(50.0)])
def test_hot_pixels_are_found_in_noise(make):
    given = np.asarray(make(), dtype=np.float64)
    rng = np.random.default_rng(2)
    hot = np.zeros(given.shape, bool)
    hot[rng.integers(0, N, 40), rng.integers(0, SIZE, 40), rng.integers(0, SIZE, 40)] = True
    given[hot] += np.ceil(20 * given.std())
    before = given.copy()
    out, valid, report = screen(given)
    assert (~valid & hot).sum() >= 0.95 * hot.sum()
    assert not (~valid & ~hot).any()
    np.testing.assert_array_equal(given, before)
    assert abs(out[~valid].mean() - np.median(out)) < given.std()
    assert "hot or dead pixel" in report[0]


@pytest.mark.parametrize("value", [0.0, 0.6, 255.0, np.nan, np.inf, -np.inf])
def test_a_pixel_dead_in_every_tilt_is_found(value):
    given = poisson_gaussian().astype(np.float32)
    given[:, [7, 40], [9, 0]] = value
    out, valid, report = screen(given)
    assert np.argwhere(~valid.all(axis=0)).tolist() == [[7, 9], [40, 0]]
    assert not valid[:, 7, 9].any()
    assert np.isfinite(out).all()
    assert np.all(np.abs(out[:, 7, 9] - clean()[:, 7, 9]) < 0.6)
    assert len(report) == 1


def test_vacuum_at_saturation_is_not_dead():
    given = np.clip(poisson_gaussian(), 0, 1)
    given[:, 30:40, 30:60] = 1.0
    given[:, 80, 80:] = 0.0
    assert screen(given)[1] is None


def test_lost_pixels_are_filled_with_what_is_around():
    given = np.add.outer(np.zeros(4), np.add.outer(np.arange(40.0), np.arange(40.0)))
    given[2, 10:13, 10:13] = np.nan
    out, valid, report = screen(given)
    assert out[2, 11, 11] == pytest.approx(22, abs=2)
    assert (~valid).sum() == 9
    assert "9 pixels without a number" in report[0]


def test_a_hole_wider_than_the_window_takes_the_median_of_the_image():
    given = poisson_gaussian()
    given[0, 20:28, 20:28] = np.inf
    out, _, _ = screen(given)
    assert out[0, 23, 23] == pytest.approx(np.median(given[0][np.isfinite(given[0])]), rel=1e-5)


def test_an_image_with_many_nan_is_named():
    given = poisson_gaussian()
    given[3, 5:7, 1:-1] = np.nan
    with pytest.raises(InputError, match=r"image 4 \(counted from 1, at 13\.00°\): 2\.0 % .* NaN"):
        screen(given, np.arange(10.0, 10 + N))


def test_a_constant_image_is_named():
    given = poisson_gaussian()
    given[1] = 5
    given[1, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"image 2 \(counted from 1\) is constant: every pixel is 5"):
        screen(given)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((3, 4, 4), complex), np.zeros((0, 4, 4))])
def test_what_is_no_stack_is_refused(bad):
    with pytest.raises(InputError, match="shape"):
        screen(bad)


def test_values_beyond_float32_are_masked_not_warned_about():
    given = poisson_gaussian()
    given[0, 5, 5] = 1e300
    _, valid, _ = screen(given)
    assert np.argwhere(~valid).tolist() == [[0, 5, 5]]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.995])
@pytest.mark.parametrize("size", [2, 25, 1000])
def test_the_quantile_is_that_of_numpy(share, size):
    for kind in (np.float32, np.float64):
        values = np.random.default_rng(size).normal(size=size).astype(kind)
        assert quantile(values, share) == np.quantile(values, share)


def test_filling_in_place_is_filling():
    given, valid = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32), np.ones((3, 8, 8), bool)
    valid[1, 2:4, 3] = valid[2, 0, 0] = False
    kept = given.copy()
    filled = fill(given, valid)
    np.testing.assert_array_equal(given, kept)
    assert fill(given, valid, in_place=True) is given
    np.testing.assert_array_equal(given, filled)
    assert np.array_equal(given != kept, ~valid)
