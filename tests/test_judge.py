"""Judging noise models: the true one passes, wrong ones fail where they are wrong, and all by the same bins."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from tiltfield.errors import InputError
from tiltfield.judge import BEHAVIOUR, DISTANCES, compare, noise_cdf, tables
from tiltfield.noise.base import Recording
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.learn import Pairs
from tiltfield.noise.poisson import Poisson
from tiltfield.noise.scan import Scan

N = 128 * 256
RECORDINGS = {
    "plain": Recording(),
    "saturated": Recording(low=20.0, high=90.0),
    "quantised": Recording(quantum=4.0),
    "both": Recording(20.0, 92.0, 4.0),
}


def clean_images():
    ramp = np.linspace(10, 100, 256, dtype=np.float32)
    return np.broadcast_to(ramp, (1, 128, 256)).copy()


def line(recording=None):
    return PoissonGaussian(1.0, 4.0, recording=recording)


def scan(recording=None):
    model = Scan(line(recording))
    with torch.no_grad():
        model.correlate_(torch.tensor([0.5, 0.16, 0.06, 0.02]))
    return model


def drawn(model, seed=1):
    clean = clean_images()
    observed = model.sample(torch.from_numpy(clean), torch.Generator().manual_seed(seed)).numpy()
    return Pairs(clean, observed, model.recording)


@pytest.fixture(scope="module")
def verdicts():
    """Several models on noise of the scan model."""
    models = {"true": scan(), "white": line(), "gaussian": Gaussian(7.5)}
    return {v.name: v for v in compare(models, drawn(scan())).verdicts}


KOLMOGOROV = 1.95  # over √n: exceeded once in 1000


def test_the_true_model_passes(verdicts):
    true = verdicts["true"]
    assert true.pit_gap < KOLMOGOROV / math.sqrt(N)
    assert np.abs([*true.whitened_along, *true.whitened_across]).max() < 4 / math.sqrt(N)
    assert true.slope_ratio == pytest.approx(1, abs=0.05)
    assert true.variance_ratio == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(true.traits.along[:2], [0.5, 0.16], atol=0.02)
    np.testing.assert_allclose(true.pit, 0.05, atol=0.003)


def test_a_model_without_correlation_is_found_out(verdicts):
    white, true = verdicts["white"], verdicts["true"]
    assert white.whitened_along[0] == pytest.approx(0.5, abs=0.02)
    assert white.traits.along[0] == pytest.approx(0, abs=0.02)
    assert white.log_likelihood < true.log_likelihood - 0.1
    assert white.distances == true.distances  # its law of a single pixel is right


def test_a_model_of_one_deviation_is_found_out(verdicts):
    gaussian, white = verdicts["gaussian"], verdicts["white"]
    assert gaussian.slope_ratio == pytest.approx(0, abs=0.05)
    assert gaussian.distances.jsd_binned > 5 * white.distances.jsd_binned
    assert gaussian.log_likelihood < white.log_likelihood


def test_the_true_model_is_as_near_as_chance_allows(verdicts):
    """A histogram of n counts in K bins is about (K - 1) / (8 n ln 2) bits from its law; two halves four times that."""
    comparison = compare({"white": line()}, drawn(line()))
    one, floor = comparison.verdicts[0].distances, comparison.floor
    assert one.jsd == pytest.approx(100 / (8 * N * math.log(2)), rel=0.5)
    assert one.jsd < floor.jsd
    assert one.jsd_binned < floor.jsd_binned
    assert floor.jsd == pytest.approx(4 * 100 / (8 * N * math.log(2)), rel=0.5)


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
@pytest.mark.parametrize("make", [line, scan])
def test_calibration_holds_for_recorded_data(make, recording):
    verdict = compare({"true": make(recording)}, drawn(make(recording))).verdicts[0]
    exact = make is line or recording == Recording()
    assert verdict.pit_gap < (KOLMOGOROV / math.sqrt(N) if exact else 0.02)  # atoms beside a pixel are approximated
    assert verdict.distances.jsd < 1e-3
    assert verdict.impossible == 0


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_every_model_is_judged_by_how_the_data_were_recorded(recording):
    """A model that was fitted without knowing of saturation and grey values is told."""
    pairs = drawn(line(recording))
    unknowing, knowing = compare({"a": line(), "b": line(recording)}, pairs).verdicts
    assert dataclasses.replace(unknowing, name="b") == knowing


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_the_distribution_function_is_that_of_samples(recording):
    model = line(recording)
    clean = torch.full((40_000,), 30.0)
    noise = (model.sample(clean, torch.Generator().manual_seed(3)) - clean).sort().values.double()
    at = torch.tensor([-10.0, -9.5, -6.0, -2.0, 0.1, 3.0, 8.0, 20.0], dtype=torch.float64)
    share = torch.searchsorted(noise, at, right=True) / len(noise)
    cdf = noise_cdf(model, at, torch.full_like(at, 30.0))
    assert (share - cdf).abs().max() < KOLMOGOROV / math.sqrt(len(noise))


def test_the_impossible_is_counted():
    pairs = drawn(line())
    below = Poisson(1.0, 8.0)  # nothing lies below 7.5
    verdict = compare({"poisson": below}, pairs).verdicts[0]
    assert verdict.impossible == np.count_nonzero(pairs.noisy < 7.5)
    assert verdict.log_likelihood == -math.inf
    assert math.isfinite(verdict.pit_gap)


def test_the_same_seed_gives_the_same_figures_and_leaves_models_alone():
    model, pairs = scan(), drawn(scan(Recording(high=90.0)))
    first, second = (compare({"m": model}, pairs, seed=4) for _ in range(2))
    assert first == second
    assert model.recording == Recording()
    assert model.partial.requires_grad


@pytest.mark.parametrize("recording", [Recording(), RECORDINGS["both"]], ids=["plain", "both"])
def test_a_few_rows_at_a_time_give_the_same_figures(monkeypatch, recording):
    pairs = drawn(scan(recording))
    whole = compare({"m": scan()}, pairs).verdicts[0]
    monkeypatch.setattr("tiltfield.noise.learn.CHUNK", 7 * 256)
    parts = compare({"m": scan()}, pairs).verdicts[0]
    assert parts.distances == whole.distances
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-5)
    assert parts.whitened_along == pytest.approx(whole.whitened_along, abs=1e-5)
    np.testing.assert_allclose(parts.traits.along, whole.traits.along, atol=0.02)


def test_notes_stand_below_the_tables_and_in_the_figures():
    comparison = dataclasses.replace(compare({"a": line()}, drawn(line())), notes=("mind this",))
    assert tables(comparison).endswith("|\n\nmind this")
    assert comparison.figures()["notes"] == ("mind this",)


def test_figures_are_plain_and_tables_line_up():
    seen = []
    comparison = compare({"a": line(), "longer": Gaussian(7.0)}, drawn(line()), progress=lambda *x: seen.append(x))
    assert seen == [("a", 0.5), ("longer", 1.0)]
    figures = json.loads(json.dumps(comparison.figures()))
    assert [v["name"] for v in figures["verdicts"]] == ["a", "longer"]
    for table, header in zip(tables(comparison).split("\n\n"), (DISTANCES, BEHAVIOUR), strict=True):
        lines = table.splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len(lines) == 2 + 2 + 1
        assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(header)


def test_nothing_to_judge_is_refused():
    with pytest.raises(InputError, match="at least one"):
        compare({}, drawn(line()))
