"""Counts with a gain and an offset: scipy's Poisson law, every count spread over its interval."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tiltfield.noise.poisson import Poisson, log_pmf

F64 = torch.float64
LAWS = {  # gain, offset, rate
    "rare": (0.05, 0.1, 1e-3),
    "few": (0.05, -0.3, 0.7),
    "some": (1.0, 0.0, 6.3),
    "many": (0.01, 0.2, 400.0),
    "very many": (3.0, 100.0, 1e6),
}
every_law = pytest.mark.parametrize(("gain", "offset", "rate"), LAWS.values(), ids=LAWS)


def counts(rate):
    """All counts that matter."""
    width = 12 * math.sqrt(rate) + 40
    return torch.arange(max(0, math.floor(rate - width)), math.ceil(rate + width), dtype=F64)


def at(gain, offset, rate, like):
    return torch.full_like(like, offset + gain * rate)


def distribution(count, rate):
    """P(k + u ≤ count), u uniform on ±½, by scipy."""
    k = np.floor(count + 0.5)
    return stats.poisson.cdf(k - 1, rate) + (count - k + 0.5) * stats.poisson.pmf(k, rate)


@every_law
@pytest.mark.parametrize("part", [-0.49, 0.0, 0.3, 0.49])
def test_the_density_is_scipys_probability_over_the_gain(gain, offset, rate, part):
    k = counts(rate)
    log_prob = Poisson(gain, offset).log_prob(offset + gain * (k + part), at(gain, offset, rate, k))
    expected = torch.as_tensor(stats.poisson.logpmf(k.numpy(), rate)) - math.log(gain)
    # a million counts: the logarithms are differences of numbers of 10⁷
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-7)


@every_law
def test_it_sums_to_one_with_the_promised_moments(gain, offset, rate):
    model, k = Poisson(gain, offset), counts(rate)
    clean = at(gain, offset, rate, k)
    mass = gain * model.log_prob(offset + gain * k, clean).exp()  # the density is constant over a count's interval
    noise = offset + gain * k - clean
    variance = gain * (gain * rate) + gain**2 / 12
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    assert (mass * noise).sum().item() == pytest.approx(0, abs=1e-6 * math.sqrt(variance))
    assert (mass * noise.square()).sum().item() + gain**2 / 12 == pytest.approx(variance, rel=1e-6)


@pytest.mark.parametrize("name", ["some", "many", "very many"])
def test_the_deviation_by_quadrature_is_that_of_the_law(name):
    gain, offset, rate = LAWS[name]
    found = Poisson(gain, offset).deviation(torch.tensor([offset + gain * rate], dtype=F64)).item()
    assert found == pytest.approx(gain * math.sqrt(rate + 1 / 12), rel=0.01)


@every_law
def test_samples_follow_the_law(gain, offset, rate):
    n = 20_000
    clean = torch.full((n,), offset + gain * rate, dtype=F64)
    drawn = Poisson(gain, offset).sample(clean, torch.Generator().manual_seed(0))
    assert drawn.min() >= offset - gain / 2 - 1e-9 * abs(offset)
    found = stats.kstest((drawn.numpy() - offset) / gain, lambda x: distribution(x, rate))
    assert found.pvalue > 1e-3
    other = stats.kstest((drawn.numpy() - offset) / gain, lambda x: distribution(x, rate * 1.1 + 0.1))
    assert other.pvalue < 1e-3  # the check sees another rate


@every_law
def test_the_map_and_its_inverse(gain, offset, rate):
    model, z = Poisson(gain, offset), torch.linspace(-6, 6, 121, dtype=F64)
    clean = at(gain, offset, rate, z)
    noise = model.from_normal(z, clean)
    assert (noise.diff() > 0).all()
    back, log_det = model.to_normal(noise, clean)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)
    expected = torch.as_tensor(distribution(((noise + clean - offset) / gain).numpy(), rate))
    torch.testing.assert_close(torch.special.ndtr(back), expected, rtol=0, atol=1e-8)
    density = log_det - 0.5 * back.square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(density, model.log_prob(noise + clean, clean), rtol=1e-6, atol=1e-6)


@every_law
def test_the_log_determinant_is_the_derivatives(gain, offset, rate):
    model = Poisson(gain, offset)
    k = torch.as_tensor(stats.poisson.ppf(np.linspace(0.01, 0.99, 25), rate))
    clean = at(gain, offset, rate, k)
    noise = (offset + gain * (k + torch.linspace(-0.45, 0.45, 25, dtype=F64)) - clean).requires_grad_()
    z, log_det = model.to_normal(noise, clean)
    (slope,) = torch.autograd.grad(z.sum(), noise)
    torch.testing.assert_close(log_det, slope.log(), rtol=1e-6, atol=1e-6)


@every_law
def test_below_its_support_nothing_is_possible(gain, offset, rate):
    below = torch.tensor([-0.51, -0.6, -3.0, -1000.0], dtype=F64)
    model = Poisson(gain, offset)
    assert (model.log_prob(offset + gain * below, at(gain, offset, rate, below)) == -math.inf).all()
    above = torch.tensor([-0.49, 0.0], dtype=F64)
    expected = torch.full_like(above, -rate - math.log(gain))  # no electron, e^-λ
    torch.testing.assert_close(model.log_prob(offset + gain * above, at(gain, offset, rate, above)), expected)


def test_log_pmf_by_hand():
    # λ = 2: e⁻², 2 e⁻², 2 e⁻², 4/3 e⁻²
    found = log_pmf(torch.arange(4, dtype=F64), torch.tensor(2.0, dtype=F64)).exp() * math.exp(2)
    torch.testing.assert_close(found, torch.tensor([1, 2, 2, 4 / 3], dtype=F64))


def test_where_the_clean_intensity_lies_below_the_offset_almost_nothing_is_counted():
    model, clean = Poisson(1.0, 10.0), torch.tensor([9.0, 10.0], dtype=F64)
    assert model.log_prob(torch.full_like(clean, 10.0), clean).exp().min().item() == pytest.approx(1, abs=1e-4)
    assert model.sample(clean, torch.Generator().manual_seed(0)).sub(10).abs().max() <= 0.5


@every_law
def test_bounds_are_the_whitened_residual_and_uniform_under_phi(gain, offset, rate):
    model = Poisson(gain, offset)
    clean = torch.full((20_000,), offset + gain * rate, dtype=F64)
    observed = model.sample(clean, torch.Generator().manual_seed(1))
    lower, upper = model.bounds(observed, clean)
    torch.testing.assert_close(lower, upper)
    torch.testing.assert_close(model.whiten(observed, clean), lower)
    assert stats.kstest(torch.special.ndtr(lower).numpy(), "uniform").pvalue > 1e-3


@every_law
@pytest.mark.parametrize(("factor", "shift"), [(250.0, -30.0), (1e-3, 0.7)])
def test_other_units_change_the_density_by_their_factor(gain, offset, rate, factor, shift):
    model, k = Poisson(gain, offset), counts(rate)
    observed, clean = offset + gain * (k + 0.2), at(gain, offset, rate, k)
    found = model.rescaled(factor, shift).log_prob(observed * factor + shift, clean * factor + shift)
    torch.testing.assert_close(found, model.log_prob(observed, clean) - math.log(factor), rtol=1e-5, atol=1e-5)
    assert model.gain.item() == gain  # the model itself stays


def test_single_precision_stays_single():
    model, clean = Poisson(0.01, 0.2), torch.linspace(0.2, 1, 9)
    observed = model.sample(clean, torch.Generator().manual_seed(0))
    found = [observed, model.log_prob(observed, clean), *model.to_normal(observed - clean, clean)]
    assert {t.dtype for t in found} == {torch.float32}
    assert all(torch.isfinite(t).all() for t in found)
