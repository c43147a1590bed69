"""The published flow: its structure, and a density that is one because the log-determinant is taken at the input."""

import math

import pytest
import torch

from tiltfield.noise.flow import radial
from tiltfield.noise.paper import PaperFlow

F64 = torch.float64
DEVIATION = 0.08


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(*, bend=0.0, seed=0, deviation=DEVIATION, **options):
    flow = PaperFlow(deviation, generator=seeded(seed), **options)
    with torch.no_grad():
        for parameter, size in ((flow.free, bend), (flow.outer, bend / 10), (flow.bias, bend / 10)):
            parameter.add_(size * torch.randn(parameter.shape, generator=seeded(seed + 1)))
    return flow.double()


def grid(clean, reach=4.0, n=100_001):
    """Observed values around a clean one, their clean intensity, and the spacing."""
    observed = clean + torch.linspace(-reach, reach, n, dtype=F64)
    return observed, torch.full((n,), clean, dtype=F64), 2 * reach / (n - 1)


def test_the_structure_is_that_of_the_supplement():
    flow = make()
    layers = flow._conditioned(torch.zeros(5, dtype=F64))
    assert len(flow.free) + len(layers) == 8
    assert len(layers) == 4
    assert all(layer.shape == (3, 5) for layer in layers)
    # an MLP 1 → 16 → 3 has 16 + 16 weights and biases, then 48 + 3; a free layer has 3 parameters
    assert sum(p.numel() for p in flow.parameters()) == 4 * 3 + 4 * (32 + 51)


@pytest.mark.parametrize("n_layers", [2, 4, 12])
def test_half_of_the_layers_are_conditioned(n_layers):
    flow = make(n_layers=n_layers)
    assert len(flow.free) == len(flow._conditioned(torch.zeros(1, dtype=F64))) == n_layers // 2


def test_a_conditioned_layer_by_hand():
    flow = make(n_layers=2, width=2, low=10.0, high=30.0)
    with torch.no_grad():
        flow.inner.copy_(torch.tensor([[[2.0, -2.0]], [[-1.0, 0.5]]]))  # weights, then biases
        flow.outer.copy_(torch.tensor([[[0.1, 9.0], [0.2, 9.0], [-4.0, 9.0]]]))
        flow.bias.copy_(torch.tensor([[0.0, 0.3, 0.0]]))
    # clean 25 is 0.75 of the range: hidden relu(1.5 - 1) = 0.5 and relu(-1.5 + 0.5) = 0
    (layer,) = flow._conditioned(torch.tensor([25.0], dtype=F64))
    expected = [10 * math.tanh(0.05), 10 * math.tanh(0.4), 10 * math.tanh(-2.0)]
    torch.testing.assert_close(layer[:, 0], torch.tensor(expected, dtype=F64))


def test_conditioned_parameters_stay_within_10_however_large_the_weights():
    flow = make()
    with torch.no_grad():
        flow.outer.mul_(1e5)
    layers = torch.stack(flow._conditioned(torch.linspace(-1, 2, 50, dtype=F64)))
    assert layers.abs().max() <= 10
    assert layers.abs().max() > 9.9


@pytest.mark.parametrize("seed", range(6))
def test_it_starts_near_the_normal_law(seed):
    flow, z = make(seed=seed), torch.linspace(-3, 3, 61, dtype=F64)
    normal = -0.5 * z.square() - math.log(DEVIATION) - 0.5 * math.log(2 * math.pi)
    for clean in (0.0, 0.5, 1.0):
        there = torch.full_like(z, clean)
        density = flow.log_prob(there + DEVIATION * z, there).exp().detach()
        assert (density - normal.exp()).abs().max() < 0.2 * normal.exp().max()
        assert flow.deviation(there[:1]).item() == pytest.approx(DEVIATION, rel=0.2)
        assert flow.mean(there[:1]).abs().item() < 0.05 * DEVIATION


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bend", [0.0, 0.3])
@pytest.mark.parametrize("clean", [-0.1, 0.4, 1.0])
def test_the_density_integrates_to_one(seed, bend, clean):
    observed, there, step = grid(clean)
    with torch.no_grad():
        mass = make(bend=bend, seed=10 * seed).log_prob(observed, there).exp()
    assert (mass.sum() * step).item() == pytest.approx(1, abs=1e-4)


def published(flow, observed, clean):
    """Log p(observed | clean) as the published code has it: the log-determinant where a layer's output lies."""
    value, log_det = observed - clean, torch.zeros_like(observed)
    for layer in (*flow.free, *flow._conditioned(clean)):
        value, _ = radial(value, *layer)
        log_det = log_det + radial(value, *layer)[1]
    return log_det - 0.5 * value.square() - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_log_determinant_at_the_output_it_would_not(seed):
    observed, there, step = grid(0.4)
    with torch.no_grad():
        mass = published(make(bend=0.3, seed=10 * seed), observed, there).exp()
    assert abs((mass.sum() * step).item() - 1) > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_log_determinant_is_autograds_and_the_inverse_goes_back(seed):
    flow = make(bend=0.3, seed=10 * seed)
    z, clean = torch.meshgrid(torch.linspace(-5, 5, 41, dtype=F64), torch.linspace(0, 1, 9, dtype=F64), indexing="ij")
    noise = flow.from_normal(z, clean).detach().requires_grad_()
    back, log_det = flow.to_normal(noise, clean)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(back.sum(), noise)
    torch.testing.assert_close(log_det, slope.log(), rtol=0, atol=1e-8)


def test_its_mean_is_that_of_its_density():
    flow = make(bend=0.3)
    for clean in (0.1, 0.8):
        observed, there, step = grid(clean, reach=8.0)
        with torch.no_grad():
            mean = ((observed - there) * flow.log_prob(observed, there).exp()).sum() * step
        # 32 nodes of Gauss and Hermite see the layers' kinks coarsely
        assert flow.mean(there[:1]).item() == pytest.approx(mean.item(), abs=0.03 * DEVIATION)


def test_a_range_is_a_change_of_units():
    plain, wide = make(bend=0.3), make(bend=0.3, deviation=200 * DEVIATION, low=100.0, high=300.0)
    observed, clean, _ = grid(0.4, reach=0.3, n=31)
    expected = plain.log_prob(observed, clean) - math.log(200)
    torch.testing.assert_close(wide.log_prob(100 + 200 * observed, 100 + 200 * clean), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain.rescaled(200.0, 100.0).log_prob(100 + 200 * observed, 100 + 200 * clean), expected)


def test_the_field_may_explain_a_misfit_by_the_noises_shape():
    # differentiated through everything, as published: not the slope in the observed intensity alone
    flow = make(bend=0.3)
    observed = torch.linspace(0.2, 0.8, 25, dtype=F64).requires_grad_()
    clean = torch.full((25,), 0.4, dtype=F64, requires_grad=True)
    up, down = torch.autograd.grad(flow.log_prob(observed, clean).sum(), [clean, observed])
    assert (up + down).abs().max() > 0.1 * up.abs().max()


def test_one_seed_is_one_flow():
    clean = torch.linspace(0, 1, 20, dtype=F64)
    first, same, other = (make(bend=0.3, seed=s).to_normal(0.1 * clean, clean)[0] for s in (4, 4, 5))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
