"""Learning a law from pairs: a known one is found again, and what is truer is likelier on images held out."""

import functools
import math

import numpy as np
import pytest
import torch

from tiltfield.errors import InputError
from tiltfield.noise.base import Recording
from tiltfield.noise.estimate import NoiseLine, autocorrelation
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.learn import LEARNABLE, Pairs, fit_line, learn, log_likelihood
from tiltfield.noise.paper import PaperFlow
from tiltfield.noise.poisson import Poisson
from tiltfield.noise.scan import Scan

LOW, HIGH = 200.0, 1000.0  # grey values
SLOPE, FLOOR = 20.0, 3000.0
LAGS = [0.51, 0.17, 0.06, 0.02]
SKEW = 0.4  # s of the lognormal


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def clean_images(frames=2, rows=64, cols=64):
    """Smooth images that fill LOW to HIGH evenly."""
    y, x = np.mgrid[:rows, :cols]
    wave = (np.arange(frames)[:, None, None] / frames + y / 37 + x / 61) % 2.0
    return (LOW + (HIGH - LOW) * np.abs(wave - 1)).astype(np.float32)


def pairs_of(model, seed=0, **size):
    """Pairs whose noise is drawn from a model."""
    clean = clean_images(**size)
    noisy = model.sample(torch.from_numpy(clean), seeded(seed)).numpy()
    return Pairs(clean, noisy, model.recording)


def scan(marginal):
    model = Scan(marginal)
    model.correlate_(torch.tensor(LAGS))
    return model


class Lognormal(PoissonGaussian):
    """σ(c) (exp(s z) - exp(s²/2)), skewed by 1.3 and of mean zero."""

    def to_normal(self, noise, clean):
        sigma = self.log_deviation(clean).exp()
        e = noise / sigma + math.exp(SKEW**2 / 2)
        z = e.clamp_min(1e-30).log() / SKEW
        return z, -(e.clamp_min(1e-30) * SKEW * sigma).log()

    def from_normal(self, z, clean):
        return (torch.exp(SKEW * z) - math.exp(SKEW**2 / 2)) * self.log_deviation(clean).exp()


TRUTH = scan(Lognormal(SLOPE, FLOOR)).requires_grad_(False)


@functools.cache
def learned(name, seed=0, steps=80):
    """A model learned from skewed noise that is correlated along the scan."""
    return learn(name, pairs_of(TRUTH, rows=48), seed=seed, steps=steps)


@functools.cache
def held_out(name):
    """The log-likelihood per pixel of other images, by a learned model or by the truth."""
    pairs = pairs_of(TRUTH, seed=1)
    model = TRUTH if name == "truth" else learned(name)
    with torch.no_grad():
        return model.log_prob(torch.from_numpy(pairs.noisy), torch.from_numpy(pairs.clean)).mean().item()


@pytest.mark.parametrize(
    ("worse", "better", "gain"),
    [
        ("gaussian", "poisson-gaussian", 0.005),
        ("poisson-gaussian", "flow", 0.05),
        ("flow", "scan-flow", 0.1),
        ("scan-flow", "truth", 0.0),
    ],
)
def test_what_is_truer_is_likelier_on_images_held_out(worse, better, gain):
    assert held_out(better) > held_out(worse) + gain


def test_a_scan_flow_comes_near_the_truth():
    assert held_out("scan-flow") > held_out("truth") - 0.03


def test_the_published_flow_learns_skewed_noise_too():
    assert held_out("gaussian") + 0.02 < held_out("flow-paper") < held_out("truth")


def test_a_learned_scan_flow_has_the_correlation_and_the_deviation_of_the_truth():
    model, clean = learned("scan-flow"), torch.linspace(LOW, HIGH, 9)
    assert model.autocorrelation(4).tolist() == pytest.approx(LAGS, abs=0.03)
    torch.testing.assert_close(model.deviation(clean), TRUTH.deviation(clean), rtol=0.08, atol=0)
    z = torch.linspace(-2, 2, 9).repeat(2)
    there = torch.tensor([400.0, 800.0]).repeat_interleave(9)
    error = model.from_normal(z, there) - TRUTH.from_normal(z, there)
    assert (error.abs() / TRUTH.deviation(there)).max() < 0.15


@pytest.mark.parametrize("name", ["gaussian", "poisson-gaussian", "flow", "scan-flow"])
def test_on_independent_normal_noise_every_model_finds_its_deviation(name):
    truth = PoissonGaussian(SLOPE, FLOOR) if name != "gaussian" else Gaussian(90.0)
    model = learn(name, pairs_of(truth), steps=60)
    clean = torch.linspace(LOW, HIGH, 9)
    torch.testing.assert_close(model.deviation(clean), truth.deviation(clean), rtol=0.06, atol=0)
    if name == "scan-flow":
        assert model.autocorrelation(4).abs().max() < 0.03


def test_slope_and_floor_are_found():
    model = learn("poisson-gaussian", pairs_of(PoissonGaussian(SLOPE, FLOOR), frames=8), steps=60)
    assert model.log_slope.exp().item() == pytest.approx(SLOPE, rel=0.1)
    shot = model.log_slope.exp().item() * model.dark  # the floor is that of the dark level, wherever that is
    assert model.log_floor.exp().item() - shot == pytest.approx(FLOOR, rel=0.25)


@pytest.mark.parametrize(("low", "high"), [(250.0, 900.0), (None, 700.0)])
def test_saturation_does_not_bias_the_deviation(low, high):
    truth = PoissonGaussian(SLOPE, FLOOR, recording=Recording(low, high))
    model = learn("poisson-gaussian", pairs_of(truth, frames=4), steps=150)
    assert model.recording == Recording(pytest.approx(low) if low else None, pytest.approx(high))
    clean = torch.linspace(LOW, HIGH, 9)
    torch.testing.assert_close(model.deviation(clean), truth.deviation(clean), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("gain", "offset", "spread"),
    [(40.0, 150.0, True), (8.0, 120.0, True), (8.0, 120.0, False), (2.0, -300.0, True), (2.0, -300.0, False)],
)
def test_the_gain_and_the_offset_of_counts_are_found(gain, offset, spread):
    pairs = pairs_of(Poisson(gain, offset), frames=12)
    noisy = pairs.noisy if spread else offset + gain * np.round((pairs.noisy - offset) / gain)
    noisy = noisy.astype(np.float32)
    model = learn("poisson", Pairs(pairs.clean, noisy))
    assert model.gain.item() == pytest.approx(gain, rel=0.05)
    for intensity, within in ((LOW, 0.08), (600.0, 0.03), (HIGH, 0.03)):
        variance = model.gain.item() * (intensity - model.offset.item())
        assert variance == pytest.approx(gain * (intensity - offset), rel=within)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("units", [1.0, 1e-4])
def test_every_pixel_that_counts_were_learned_from_is_possible(seed, units):
    # a tenth of an electron in the dark: the darkest pixels lie where the law ends
    pairs = pairs_of(Poisson(40.0, 196.0), seed=seed, frames=4)
    clean, noisy = pairs.clean * np.float32(units), pairs.noisy * np.float32(units)
    model = learn("poisson", Pairs(clean, noisy))
    assert torch.isfinite(model.log_prob(torch.from_numpy(noisy), torch.from_numpy(clean))).all()


@pytest.mark.parametrize("name", LEARNABLE)
def test_one_seed_is_one_model_whatever_else_was_drawn(name):
    pairs, states = pairs_of(TRUTH, rows=32, cols=32), []
    for seed in (3, 3, 4):
        torch.manual_seed(len(states))
        np.random.seed(len(states))  # noqa: NPY002
        states.append(learn(name, pairs, seed=seed, steps=4).state_dict())
    first, same, other = (torch.cat([v.flatten().double() for v in state.values()]) for state in states)
    assert torch.equal(first, same)
    assert torch.equal(first, other) == (name == "poisson")  # which looks at all pixels of images so small


KINDS = {
    "gaussian": Gaussian,
    "poisson": Poisson,
    "poisson-gaussian": PoissonGaussian,
    "flow-paper": PaperFlow,
    "flow": RadialFlow,
    "scan-flow": Scan,
}


@pytest.mark.parametrize("name", LEARNABLE)
def test_it_is_in_the_units_of_the_images_and_learns_no_more(name):
    pairs = pairs_of(PoissonGaussian(SLOPE, FLOOR), rows=32, cols=32)
    model = learn(name, pairs, steps=4)
    scaled = learn(name, Pairs(pairs.clean / 500, pairs.noisy / 500), steps=4)
    assert type(model) is KINDS[name]
    assert not any(p.requires_grad for p in model.parameters())
    clean = torch.linspace(LOW, HIGH, 5)
    torch.testing.assert_close(model.deviation(clean) / 500, scaled.deviation(clean / 500), rtol=0.02, atol=0)
    assert (model.deviation(clean) / PoissonGaussian(SLOPE, FLOOR).deviation(clean) - 1).abs().max() < 1


def test_eight_layers_as_in_the_supplement():
    assert learned("scan-flow").marginal.n_pairs == learned("flow").n_pairs == len(learned("flow-paper").free) == 4


def test_progress_is_told_to_the_end():
    heard = []
    learn("poisson-gaussian", pairs_of(TRUTH), steps=5, progress=lambda *args: heard.append(args))
    assert [fraction for fraction, _ in heard] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(math.isfinite(value) for _, value in heard)


def test_a_model_is_asked_about_a_few_rows_at_a_time(monkeypatch):
    pairs, sizes, to_normal = pairs_of(TRUTH, frames=3), [], Lognormal.to_normal

    def watched(self, noise, clean):
        sizes.append(noise.shape)
        return to_normal(self, noise, clean)

    whole = log_likelihood(TRUTH, pairs)
    assert len(list(pairs.chunks())) == 3
    monkeypatch.setattr("tiltfield.noise.learn.CHUNK", 640)
    monkeypatch.setattr(Lognormal, "to_normal", watched)
    assert log_likelihood(TRUTH, pairs) == pytest.approx(whole, rel=1e-6)
    assert set(sizes) == {(10, 64), (4, 64)}
    for k, side in enumerate((pairs.noisy, pairs.clean)):
        np.testing.assert_array_equal(torch.cat([part[k] for part in pairs.chunks()]), side.reshape(-1, 64))


def test_some_rows_tell_the_correlation_to_start_from(monkeypatch):
    from tiltfield.noise import learn as module

    pairs, seen = pairs_of(TRUTH, rows=256), []
    monkeypatch.setattr(module, "CHUNK", 128 * 64)
    monkeypatch.setattr(
        module, "autocorrelation", lambda z, *rest: seen.append((z.shape, autocorrelation(z, *rest))) or seen[-1][1]
    )
    learn("scan-flow", pairs, steps=1)
    shape, lags = seen[0]
    assert shape == (128, 64)
    assert lags.tolist() == pytest.approx(LAGS, abs=0.06)


def test_the_line_is_that_of_the_variance():
    clean = clean_images(frames=16)
    noise = np.random.default_rng(0).standard_normal(clean.shape) * np.sqrt(FLOOR + SLOPE * clean)
    line = fit_line(clean, clean + noise)
    for intensity in (LOW, 600.0, HIGH):
        assert line.deviation(intensity) == pytest.approx(math.sqrt(FLOOR + SLOPE * intensity), rel=0.02)
    assert line.dark == 0.0


def test_the_line_by_hand():
    # 40 bins of two pixels, one up and one down by sqrt(2 + 3 c): the variance of every bin is the line's
    clean = np.repeat(np.arange(1.0, 41.0), 2)
    noisy = clean + np.sqrt(2 + 3 * clean) * np.tile([1, -1], 40)
    line = fit_line(clean, noisy)
    assert (line.slope, line.floor, line.dark) == pytest.approx((3.0, 2.0, 0.0))


def test_no_noise_or_a_falling_variance_still_give_a_positive_line():
    clean = clean_images()
    for noisy in (clean.copy(), clean + (HIGH - clean) * np.where(np.arange(64) % 2, 1, -1)):
        line = fit_line(clean, noisy)
        assert isinstance(line, NoiseLine)
        assert line.slope > 0
        assert line.floor > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "scan-flo"}, "unknown noise model 'scan-flo', expected one of gaussian.*did you mean 'scan-flow'"),
        ({"name": "l2"}, "unknown noise model 'l2'"),
        ({"clean": clean_images()[0]}, r"one shape \(frame, row, col\), got \(64, 64\) and \(2, 64, 64\)"),
        ({"clean": clean_images()[:1]}, r"got \(1, 64, 64\) and \(2, 64, 64\)"),
        ({"clean": clean_images() * np.nan}, "numbers in every pixel.*NaN or infinity"),
        ({"noisy": clean_images() + np.inf}, "numbers in every pixel.*NaN or infinity"),
        ({"clean": np.full((2, 64, 64), 3.0)}, r"the clean images are constant \(3\)"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change, message):
    given = {"name": "flow", "clean": clean_images(), "noisy": clean_images() + 1, **change}
    with pytest.raises(InputError, match=message):
        learn(given["name"], Pairs(given["clean"], given["noisy"]), steps=1)


def test_a_likelihood_that_is_not_a_number_ends_the_fit(monkeypatch):
    monkeypatch.setattr(Gaussian, "log_deviation", lambda self, clean: self.log_sigma * math.nan)
    with pytest.raises(InputError, match="infinite or NaN after 0 steps; try another --seed or --model"):
        learn("gaussian", pairs_of(PoissonGaussian(SLOPE, FLOOR)), steps=2)
