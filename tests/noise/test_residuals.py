"""What every noise model in the registry promises of units, labels and whitened residuals."""

import math

import pytest
import torch
from noise_models import F64, RECORDINGS, every_case, every_model, log_law, make, marginal, tensor

from tiltfield.noise.base import Recording
from tiltfield.noise.gaussian import Gaussian


def lines(model, n=400, seed=3):
    """Clean lines from dark to bright, and what is observed of them."""
    clean = torch.linspace(-0.05, 1.05, 16, dtype=F64).expand(n, 16).contiguous()
    return model.sample(clean, torch.Generator().manual_seed(seed)), clean


@every_case
def test_labels_mean_something_only_where_noise_is_correlated(name, recording):
    model = make(name, recording)
    observed, clean = lines(model)
    alone, together = log_law(model, observed, clean), model.log_prob(observed, clean)
    assert torch.equal(alone, together) == (model.axis is None)
    torch.testing.assert_close(alone, marginal(model).log_prob(observed, clean))
    torch.testing.assert_close(together, model.log_prob(observed, clean, torch.ones_like(clean, dtype=torch.int8)))


@every_case
@pytest.mark.parametrize(("factor", "shift"), [(250.0, -30.0), (1e-3, 0.7)])
def test_other_units_change_densities_and_no_mass(name, recording, factor, shift):
    model = make(name, recording)
    observed, clean = lines(model)
    before = model.log_prob(observed, clean)
    scaled = model.rescaled(factor, shift)
    # the observed values meet the ends exactly, as recorded ones do
    there = observed * factor + shift
    for end, value in ((recording.low, scaled.recording.low), (recording.high, scaled.recording.high)):
        there = there if end is None else torch.where(observed == end, value, there)
    mass = torch.zeros_like(clean, dtype=torch.bool)
    if recording.quantum is not None:
        mass[:] = True
    elif recording.low is not None:
        mass = (observed <= recording.low) | (observed >= recording.high)
        assert mass.any()
    expected = torch.where(mass, before, before - math.log(factor))
    torch.testing.assert_close(scaled.log_prob(there, clean * factor + shift), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.log_prob(observed, clean), before, rtol=0, atol=0)  # the model itself stays


@every_model
def test_there_and_back_in_units_is_the_same_model(name):
    model = make(name, RECORDINGS["both"])
    back = model.rescaled(4.0, -1.0).rescaled(0.25, 0.25)
    assert (back.recording.low, back.recording.high) == pytest.approx((model.recording.low, model.recording.high))
    observed, clean = lines(model)
    torch.testing.assert_close(back.log_prob(observed, clean), model.log_prob(observed, clean))


def uniform(model, observed, clean, labels=None):
    """Φ of a uniform draw between the ends of the whitened residual: uniform if the model is right."""
    with torch.no_grad():
        lower, upper = (torch.special.ndtr(end) for end in model.bounds(observed, clean, labels))
    assert (upper >= lower).all()
    part = torch.rand(clean.shape, generator=torch.Generator().manual_seed(8), dtype=F64)
    return (lower + part * (upper - lower)).flatten()


def distance(values):
    """Kolmogorov's distance to the uniform law, times the root of how many there are: below 1.95 in 999 of 1000."""
    ranks = torch.arange(1, len(values) + 1, dtype=F64) / len(values)
    return ((values.sort().values - ranks).abs().max() * math.sqrt(len(values))).item()


@every_case
def test_the_bounds_are_uniform_under_phi(name, recording):
    model = make(name, recording)
    observed, clean = lines(model, n=1000)
    alone = torch.zeros_like(clean, dtype=torch.int8)
    assert distance(uniform(model, observed, clean, alone)) < 1.95 * (1.6 if model.axis else 1)  # not independent


@every_model
def test_where_nothing_is_lumped_both_bounds_are_the_whitened_residual(name):
    model = make(name, None)
    observed, clean = lines(model)
    with torch.no_grad():
        white = model.whiten(observed, clean)
        for bound in model.bounds(observed, clean):
            torch.testing.assert_close(bound, white)


def test_the_check_of_bounds_sees_a_violation():
    model = make("gaussian", RECORDINGS["both"])
    observed, clean = lines(make("poisson-gaussian", RECORDINGS["both"]), n=1000)
    assert distance(uniform(model, observed, clean)) > 4


@pytest.mark.parametrize("side", ["low", "high"])
def test_far_beyond_saturation_single_precision_agrees_with_double(side):
    away = torch.tensor([0.0, 1.0, 4.9, 5.1, 30.0, 300.0, 1e4])  # deviations beyond the bound
    scores, slopes = [], []
    for dtype in (torch.float32, F64):
        noise = Gaussian(0.01, Recording(**{side: 0.0})).to(dtype)
        clean = (0.01 * (away if side == "low" else -away)).to(dtype).requires_grad_()
        score = noise.scores(torch.zeros_like(clean), clean)
        scores.append(score.detach())
        slopes.append(torch.autograd.grad(score.sum(), clean)[0])
    torch.testing.assert_close(scores[0].double(), scores[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("low", "high"), [(0.3, None), (None, 0.6), (0.4, 0.5), (0.25, 0.65)])
def test_the_score_of_a_saturated_pixel_is_its_mean_beyond_the_bound(low, high):
    model, clean, n = make("scan-flow", Recording(low, high)), 0.45, 200_000
    z = torch.randn(n, generator=torch.Generator().manual_seed(13), dtype=F64)
    with torch.no_grad():
        observed = (clean + model.from_normal(z, tensor(clean).expand(n))).clamp(low, high)
        score = model.scores(observed, tensor(clean).expand(n))
    for end in (low, high):
        if end is not None:
            there = observed == end
            assert there.sum() > 100
            expected, error = z[there].mean().item(), 5 * z[there].std().item() / math.sqrt(there.sum().item())
            assert score[there].mean().item() == pytest.approx(expected, abs=error)
            assert score[there].std() < 1e-9
    inside = (observed > (low or -9)) & (observed < (high or 9))
    torch.testing.assert_close(score[inside], z[inside])
