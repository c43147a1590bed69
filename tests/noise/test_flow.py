"""The radial flow: closed-form inverse, a start equal to its analytic model, and a mean it cannot move."""

import pytest
import torch

from tiltfield.noise.base import Recording
from tiltfield.noise.flow import RadialFlow, radial, radial_inverse
from tiltfield.noise.gaussian import PoissonGaussian

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def line(recording=None):
    return PoissonGaussian(0.05, 4e-4, 0.1, recording)


def make(recording=None, *, bend=0.0, seed=0, **options):
    flow = RadialFlow(line(recording), recording=recording, generator=seeded(seed), **options)
    with torch.no_grad():
        for parameter in (flow.free, flow.outer.weight, flow.outer.bias):
            parameter.add_(bend * torch.randn(parameter.shape, generator=seeded(seed + 1)))
    return flow.double()


def layers(n=400):
    """Layers from gentle to steep: α from e⁻⁴ to e⁴, α + β from nearly 0 to 10."""
    draw = torch.rand(3, n, generator=seeded(0), dtype=F64) * 2 - 1
    return draw[0] * 5, draw[1] * 4, draw[2] * 10


@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0, 1e4])
def test_radial_round_trip_over_wide_ranges(size):
    centre, a, b = layers()
    n = centre + size * torch.linspace(-1, 1, 400, dtype=F64).flip(0)
    y, _ = radial(n, centre, a, b)
    torch.testing.assert_close(radial_inverse(y, centre, a, b), n, rtol=1e-9, atol=1e-9)
    back, _ = radial(radial_inverse(n, centre, a, b), centre, a, b)
    torch.testing.assert_close(back, n, rtol=1e-9, atol=1e-9)


def test_radial_by_hand():
    # α = 1, α + β = 3, so β = 2; at w = 1: y = n + 2 · 1 / 2, dy/dn = 1 + 2 / 4
    b = torch.log(torch.expm1(torch.tensor(3.0, dtype=F64)))
    y, log_det = radial(*torch.tensor([3.0, 2.0, 0.0], dtype=F64), b)
    torch.testing.assert_close(y, torch.tensor(4.0, dtype=F64))
    torch.testing.assert_close(log_det.exp(), torch.tensor(1.5, dtype=F64))


def test_radial_log_determinant_is_autograds_at_the_input():
    centre, a, b = layers()
    n = (centre + torch.linspace(-8, 8, 400, dtype=F64)).requires_grad_()
    y, log_det = radial(n, centre, a, b)
    (slope,) = torch.autograd.grad(y.sum(), n)
    assert slope.min() > 0
    torch.testing.assert_close(log_det, slope.log(), rtol=0, atol=1e-9)


def test_radial_inverse_has_the_gradient_of_an_inverse():
    centre, a, b = layers(40)
    y = centre + torch.linspace(-3, 3, 40, dtype=F64)
    inputs = [t.clone().requires_grad_() for t in (y, centre, a, b.clamp_min(-4))]
    assert torch.autograd.gradcheck(radial_inverse, inputs)


@pytest.mark.parametrize("recording", [None, Recording(low=0.0, high=1.0), Recording(0.0, 1.0, 1 / 32)])
def test_the_flow_starts_equal_to_its_poisson_gaussian(recording):
    flow, analytic = make(recording), line(recording).double()
    observed = torch.linspace(0, 1, 33, dtype=F64)
    clean = torch.tensor([-0.3, 0.0, 0.05, 0.0999, 0.1, 0.1041, 0.37, 1.0, 1.2], dtype=F64)
    observed, clean = torch.meshgrid(observed, clean, indexing="ij")
    with torch.no_grad():
        expected = analytic.log_prob(observed, clean)
        torch.testing.assert_close(flow.log_prob(observed, clean), expected, rtol=1e-5, atol=1e-5)
        z = torch.randn(observed.shape, generator=seeded(2), dtype=F64)
        torch.testing.assert_close(flow.from_normal(z, clean), analytic.from_normal(z, clean), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_layers", [2, 4, 8])
def test_any_even_number_of_layers_starts_as_the_identity(n_layers):
    flow = make(n_layers=n_layers)
    noise, clean = torch.linspace(-0.5, 0.5, 21, dtype=F64), torch.full((21,), 0.4, dtype=F64)
    z, log_det = flow.to_normal(noise, clean)
    expected, slope = line().double().to_normal(noise, clean)
    torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_det, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_stays_zero_however_the_flow_is_bent(seed):
    flow = make(n_layers=8, bend=0.2, seed=10 * seed)
    clean = torch.rand(40, generator=seeded(seed), dtype=F64)
    z = torch.linspace(-9, 9, 9001, dtype=F64)
    weight = torch.softmax(-0.5 * z.square(), dim=0)
    with torch.no_grad():
        noise = flow.from_normal(z.expand(40, -1), clean[:, None].expand(-1, len(z)))
    deviation = (noise.square() @ weight).sqrt()
    assert ((noise @ weight).abs() / deviation).max() < 1e-3
    skew = (noise**3 @ weight) / deviation**3
    assert skew.abs().max() > 0.2  # and yet it is not symmetric


def test_beyond_its_range_only_the_scale_goes_on():
    flow = make(bend=0.3, low=0.2, high=0.8)
    z = torch.linspace(-3, 3, 13, dtype=F64)
    scale = line().double().log_deviation
    for end, beyond in ((0.2, 0.12), (0.8, 1.1)):
        at_end, at_beyond = (torch.tensor(c, dtype=F64).expand(13) for c in (end, beyond))
        ratio = (scale(at_beyond) - scale(at_end)).exp()
        torch.testing.assert_close(flow.from_normal(z, at_beyond), flow.from_normal(z, at_end) * ratio)


def test_every_parameter_learns():
    flow = make(Recording(0.0, 1.0), bend=0.3)
    clean = torch.linspace(0.05, 0.95, 64, dtype=F64)
    observed = flow.sample(clean, seeded(3))
    for name, parameter in flow.named_parameters():
        (gradient,) = torch.autograd.grad(flow.log_prob(observed, clean).mean(), parameter)
        assert gradient.abs().max() > 0, name
        assert torch.isfinite(gradient).all(), name


def test_a_clean_intensity_that_is_not_a_number_gives_none():
    clean = torch.tensor([0.5, float("nan")], dtype=F64)
    log_prob = make(bend=0.3).log_prob(torch.tensor([0.5, 0.5], dtype=F64), clean)
    assert torch.isfinite(log_prob).tolist() == [True, False]


def test_one_seed_is_one_flow():
    clean = torch.linspace(0, 1, 20, dtype=F64)
    noise = clean * 0.1 - 0.05
    first, same, other = (make(bend=0.3, seed=s).to_normal(noise, clean)[0] for s in (4, 4, 5))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("recording", [None, Recording(low=0.0, high=1.0), Recording(0.0, 1.0, 1 / 32)])
def test_the_field_follows_the_pull(recording):
    flow = make(recording, bend=0.5)
    observed = torch.rand(200, generator=seeded(3), dtype=F64)
    clean = torch.rand(200, generator=seeded(4), dtype=F64).requires_grad_()
    (whole,) = torch.autograd.grad(flow.log_prob(observed, clean).sum(), clean)
    (pull,) = torch.autograd.grad(flow.pull(observed, clean).sum(), clean)
    torch.testing.assert_close(whole, pull)


def test_the_moments_are_those_of_the_parameters_there_are():
    flow, nodes = make(), torch.linspace(0, 1, 7, dtype=F64)
    before = flow.moments().deviation(nodes)
    assert flow.moments() is flow.moments()
    with torch.no_grad():
        flow.outer.bias[-1].add_(0.4)
    torch.testing.assert_close(flow.moments().deviation(nodes), flow.deviation(nodes), rtol=5e-3, atol=0)
    assert not torch.allclose(flow.moments().deviation(nodes), before, rtol=1e-2)
    wider = flow.rescaled(2.0, 0.0)
    torch.testing.assert_close(wider.moments().deviation(2 * nodes), 2 * flow.deviation(nodes), rtol=5e-3, atol=0)


def test_what_is_settled_is_not_kept():
    flow = make(bend=0.5)
    with flow.settled():
        inside = flow.log_prob(torch.full((3,), 0.4, dtype=F64), torch.full((3,), 0.5, dtype=F64))
    with torch.no_grad():
        flow.free.add_(0.3)
    after = flow.log_prob(torch.full((3,), 0.4, dtype=F64), torch.full((3,), 0.5, dtype=F64))
    assert not torch.allclose(inside, after)
