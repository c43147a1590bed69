"""Noise along the scan: a Gaussian process in closed form, whatever the law of a pixel by itself."""

import math

import numpy as np
import pytest
import torch
from noise_models import F64, MEASURED, RECORDINGS, log_law, make, marginal, tensor
from scipy.linalg import block_diag, toeplitz

from tiltfield.noise.base import Recording
from tiltfield.noise.flow import _Moments
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.scan import ORDER, Scan, lagged, runs

PARTIALS = {
    "measured": [0.51, -0.122, 0.034, -0.011],
    "strong": [0.9, -0.5, 0.3, -0.2],
    "ringing": [-0.7, 0.4, 0.6, -0.8],
    "none": [0.0, 0.0, 0.0, 0.0],
    "two": [0.6, 0.3],
}
every_process = pytest.mark.parametrize("partial", PARTIALS.values(), ids=PARTIALS)
both_models = pytest.mark.parametrize("name", ["scan-poisson-gaussian", "scan-flow"])
every_recording = pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def process(partial, noise=None, axis=-1):
    """A scan of given partial autocorrelations, in float64."""
    model = Scan(noise or Gaussian(0.3), axis, len(partial)).double()
    with torch.no_grad():
        model.partial.copy_(torch.atanh(tensor(partial)))
    return model


def covariance(model, n, deviation=1.0):
    """The Toeplitz matrix of a line of n pixels, from the autocorrelation, scaled by deviations."""
    rho = torch.cat([torch.ones(1, dtype=F64), model.autocorrelation(n)])[:n]
    deviation = tensor(deviation).expand(n)
    return deviation[:, None] * torch.as_tensor(toeplitz(rho.numpy())) * deviation


def normal(observed, clean, cov):
    return torch.distributions.MultivariateNormal(clean, cov).log_prob(observed)


@every_process
@pytest.mark.parametrize("n", [1, 3, 14])
def test_the_sum_over_a_line_is_the_multivariate_normal(partial, n):
    model = process(partial, PoissonGaussian(0.05, 4e-4, 0.1))
    clean = torch.rand(n, generator=seeded(0), dtype=F64)
    observed = clean + 0.2 * torch.randn(5, n, generator=seeded(1), dtype=F64)
    with torch.no_grad():
        deviation = model.marginal.log_deviation(clean).exp()
        joint = model.log_prob(observed, clean.expand(5, n)).sum(-1)
    torch.testing.assert_close(joint, normal(observed, clean, covariance(model, n, deviation)))


# Blocks of neighbours that know of each other, by hand; a label that comes back begins anew, 0 is alone.
LABELS = {
    "one": ([1] * 12, [12]),
    "two": ([1] * 5 + [2] * 7, [5, 7]),
    "returning": ([1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1], [3, 4, 5]),
    "alone": ([1, 1, 1, 0, 1, 1, 2, 2, 0, 0, 1, 1], [3, 1, 2, 2, 1, 1, 2]),
    "all alone": ([0] * 12, [1] * 12),
    "alternating": ([1, 2] * 6, [1] * 12),
}


@every_process
@pytest.mark.parametrize(("labels", "blocks"), LABELS.values(), ids=LABELS)
def test_labels_break_the_line_into_independent_blocks(partial, labels, blocks):
    model = process(partial)
    observed, clean = torch.randn(12, generator=seeded(2), dtype=F64), torch.zeros(12, dtype=F64)
    whole = covariance(model, 12, 0.3)
    cov = torch.as_tensor(block_diag(*[whole[:b, :b].numpy() for b in blocks]))
    joint = model.log_prob(observed, clean, torch.tensor(labels)).sum()
    torch.testing.assert_close(joint, normal(observed, clean, cov), rtol=1e-6, atol=1e-6)


def test_lagged_by_hand():
    values = torch.arange(6).reshape(2, 3)
    assert lagged(values, 1, 1).tolist() == [[0, 0, 1], [0, 3, 4]]
    assert lagged(values, 1, 2).tolist() == [[0, 0, 0], [0, 0, 3]]
    assert lagged(values, 0, 1).tolist() == [[0, 0, 0], [0, 1, 2]]
    assert lagged(values, 0, 5).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_runs_by_hand():
    labels = torch.tensor([1, 1, 1, 1, 0, 1, 2, 2, 0, 0, 2])
    assert runs(labels, labels, 0, 4).tolist() == [0, 1, 2, 3, 0, 0, 0, 1, 0, 0, 0]
    assert runs(labels, labels, 0, 2).tolist() == [0, 1, 2, 2, 0, 0, 0, 1, 0, 0, 0]
    assert runs(labels, None, 0, 4).tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    across = torch.tensor([[1, 1], [1, 2], [1, 2]])
    assert runs(across, across, 0, 4).tolist() == [[0, 0], [1, 0], [2, 1]]
    assert runs(across, across, 1, 4).tolist() == [[0, 1], [0, 0], [0, 0]]


def test_the_processes_of_order_0_to_2_by_hand():
    # κ = 0.5, 0.2: φ₁ = 0.5 - 0.2 · 0.5 = 0.4, φ₂ = 0.2; s² = 0.75, then 0.75 · 0.96 = 0.72
    expected = [[0, 0, 1], [0.5, 0, math.sqrt(0.75)], [0.4, 0.2, math.sqrt(0.72)]]
    model = process([0.5, 0.2])
    torch.testing.assert_close(model.table().detach(), tensor(expected))
    # ρ₁ = φ₁/(1 - φ₂) = 0.5, ρ₂ = φ₁ ρ₁ + φ₂ = 0.4, ρ₃ = 0.4 · 0.4 + 0.2 · 0.5 = 0.26
    torch.testing.assert_close(model.autocorrelation(3), tensor([0.5, 0.4, 0.26]))


@every_process
def test_correlate_and_autocorrelation_are_inverse(partial):
    rho = process(partial).autocorrelation(len(partial))
    model = Scan(Gaussian(1.0), order=len(partial)).double()
    model.correlate_(rho)
    torch.testing.assert_close(model.autocorrelation(len(partial)), rho, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tanh(model.partial.detach()), tensor(partial), rtol=0, atol=1e-5)


def test_fewer_lags_give_a_process_of_lower_order():
    model = Scan(Gaussian(1.0)).double()
    model.correlate_(torch.tensor([0.5, 0.4]))
    torch.testing.assert_close(torch.tanh(model.partial.detach()), tensor([0.5, 0.2, 0, 0]), rtol=0, atol=1e-6)


IMPOSSIBLE = {
    "constant": [1.0, 1.0, 1.0, 1.0],
    "alternating": [-1.0, 1.0, -1.0, 1.0],
    "beyond": [1.5, -2.0, 3.0, 0.0],
    "not positive definite": [0.9, -0.9, 0.9, -0.9],
    "second only": [0.0, 1.0, 0.0, -1.0],
}
every_impossible = pytest.mark.parametrize("rho", IMPOSSIBLE.values(), ids=IMPOSSIBLE)


@every_impossible
def test_impossible_correlations_still_give_a_stationary_process(rho):
    model = Scan(Gaussian(1.0)).double()
    model.correlate_(torch.tensor(rho))
    assert torch.linalg.eigvalsh(covariance(model, 40)).min() > 0
    phi = model.table()[-1, :-1].detach().numpy()
    assert np.abs(np.roots([1, *-phi])).max() < 1
    drawn = model.draw(torch.zeros(20_000, 12, dtype=F64), seeded(3))  # stationary from the first pixel on
    assert (drawn.square().mean(0) - 1).abs().max() < 5 * math.sqrt(2 / 20_000)


def correlation(values, lag, axis):
    """Of values of zero mean."""
    lines = values.movedim(axis, -1)
    return ((lines[..., lag:] * lines[..., :-lag]).mean() / lines.square().mean()).item()


@both_models
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_samples_have_the_promised_correlation_along_the_scan_alone(name, axis):
    model = make(name, None)
    model.axis = axis
    size = [40, 40, 40]
    size[axis] = 100
    clean = torch.full(size, 0.4, dtype=F64)
    noise = model.sample(clean, seeded(4)) - clean
    z, _ = model.to_normal(noise, clean)
    error = 5 / math.sqrt(z.numel())
    assert noise.std().item() == pytest.approx(model.deviation(tensor([0.4])).item(), rel=3 * error)
    assert noise.mean().item() == pytest.approx(0, abs=2.5 * error * noise.std().item())  # Σ ρ over lags is about 2.5
    promised = model.autocorrelation(6).tolist()
    assert promised[:ORDER] == pytest.approx(MEASURED, abs=1e-6)
    for across in range(3):
        for lag in range(1, 7):
            expected = promised[lag - 1] if across == axis % 3 else 0
            assert correlation(z, lag, across) == pytest.approx(expected, abs=2 * error)


@every_process
def test_the_first_pixels_of_a_line_are_like_the_last(partial):
    model, n = process(partial), 40_000
    drawn = model.draw(torch.zeros(n, 10, dtype=F64), seeded(5))
    sampled = drawn.T @ drawn / n
    assert (sampled - covariance(model, 10)).abs().max() < 5 * math.sqrt(2 / n)


def observed_lines(model, n=4000, length=24, low=0.1, high=0.9):
    clean = torch.linspace(low, high, length, dtype=F64).expand(n, length).contiguous()
    return model.sample(clean, seeded(6)), clean


@both_models
def test_whitened_samples_are_independent_standard_normals(name):
    model = make(name, None)
    observed, clean = observed_lines(model)
    with torch.no_grad():
        white = model.whiten(observed, clean)
        alone = model.whiten(observed, clean, torch.zeros_like(clean, dtype=torch.int8))
    sampled = white.T @ white / len(white)
    assert (sampled - torch.eye(24, dtype=F64)).abs().max() < 5 * math.sqrt(2 / len(white))
    assert white.mean(0).abs().max() < 5 / math.sqrt(len(white))
    assert white.pow(3).mean().abs() < 5 * math.sqrt(15 / white.numel())
    assert correlation(alone, 1, -1) == pytest.approx(MEASURED[0], abs=0.02)  # the check sees what is not whitened


@both_models
@every_recording
def test_bounds_given_the_neighbours_are_uniform_under_phi(name, recording):
    model = make(name, recording)
    observed, clean = observed_lines(model, n=1000)
    with torch.no_grad():
        lower, upper = (torch.special.ndtr(end) for end in model.bounds(observed, clean))
    assert (lower <= upper).all()
    u = lower + torch.rand(clean.shape, generator=seeded(7), dtype=F64) * (upper - lower)
    ranks = torch.arange(1, u.numel() + 1, dtype=F64) / u.numel()
    assert (u.flatten().sort().values - ranks).abs().max() < 1.95 / math.sqrt(u.numel())
    # a saturated neighbour tells a range that is taken for its mean: there little correlation stays
    normal_scores = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
    assert correlation(normal_scores, 1, -1) == pytest.approx(0, abs=0.03)


@both_models
@every_recording
@pytest.mark.parametrize("before", [(0.3, 0.42, 0.31), (0.0, 0.0, 0.05), (1.0, 1.0, 1.0)])
def test_given_the_neighbours_probability_sums_to_one(name, recording, before):
    model = make(name, recording)
    centre = tensor([0.2, 0.35, 0.3, 0.3])
    if recording.quantum is not None:
        values = recording.quantum * torch.arange(-100, 165, dtype=F64)
        values = values if recording.low is None else values[(values >= 0) & (values <= 1)]
        weight = torch.ones_like(values)
    else:
        first, last = (-1.5, 2.5) if recording.low is None else (0.0, 1.0)
        step = (last - first) / 100_000
        values = first + step * (torch.arange(100_000, dtype=F64) + 0.5)
        weight = torch.full_like(values, step)
        if recording.low is not None:
            ends = tensor([0.0, 1.0])
            values, weight = torch.cat([values, ends]), torch.cat([weight, torch.ones(2, dtype=F64)])
    lines = torch.cat([tensor(before).expand(len(values), 3), values[:, None]], dim=1)
    with torch.no_grad():
        given = model.log_prob(lines, centre.expand_as(lines))[:, -1]
        alone = log_law(model, lines, centre.expand_as(lines))[:, -1]
    assert (given.exp() * weight).sum().item() == pytest.approx(1, abs=1e-5)
    assert ((given.exp() - alone.exp()).abs() * weight).sum() > 0.05  # and the neighbours do tell something


@both_models
@every_recording
def test_a_scan_along_the_rows_is_the_transposed(name, recording):
    model, turned = make(name, recording), make(name, recording)
    turned.axis = 0
    observed, clean = observed_lines(model, n=50)
    labels = torch.randint(3, clean.shape, generator=seeded(8))
    expected = model.log_prob(observed, clean, labels)
    torch.testing.assert_close(turned.log_prob(observed.T, clean.T, labels.T), expected.T)
    torch.testing.assert_close(turned.whiten(observed.T, clean.T), model.whiten(observed, clean).T)
    sampled = turned.sample(clean.T.contiguous(), seeded(9)) - clean.T
    assert correlation(sampled, 1, 1) == pytest.approx(0, abs=0.15)
    assert correlation(sampled, 1, 0) > 0.3


@both_models
def test_the_fields_gradient_is_the_whitened_one_in_closed_form(name):
    model, n = make(name, None), 12
    nodes = torch.linspace(0, 1, 65, dtype=F64)  # where the deviation of a flow is exact
    clean = nodes[torch.randint(65, (6, n), generator=seeded(10))].requires_grad_()
    observed = model.sample(clean.detach(), seeded(11))
    (gradient,) = torch.autograd.grad(model.log_prob(observed, clean).sum(), clean)
    deviation = model.deviation(clean.detach().flatten()).reshape(6, n)
    residual = (observed - clean.detach()) / deviation
    expected = torch.linalg.solve(covariance(model, n), residual.T).T / deviation
    rtol = 1e-6 if name == "scan-flow" else 2e-3  # deviation() is by quadrature, exact for the flow by construction
    torch.testing.assert_close(gradient, expected, rtol=rtol, atol=1e-6)
    with torch.no_grad():
        value = model.log_prob(observed, clean)
    torch.testing.assert_close(model.log_prob(observed, clean), value)


def with_saturated_neighbours(recording):
    """Two lines, dark and bright pixels beside others, and what could have been recorded of them."""
    clean = tensor([[-0.049, 0.02, 0.013, 0.3, 0.5, 0.8], [0.97, 1.05, 1.03, 0.7, 0.6, 1.01]])
    observed = clean + 0.2 * torch.randn(clean.shape, generator=seeded(12), dtype=F64)
    observed[0, :3], observed[1, 1:3] = 0.0, 1.0
    if recording.quantum is not None:
        observed = torch.round(observed / recording.quantum) * recording.quantum
    return observed if recording.low is None else observed.clamp(0, 1), clean


@every_recording
@pytest.mark.parametrize("labels", [None, torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 2, 2, 2, 2]])])
def test_the_fields_gradient_is_a_finite_difference_of_the_joint(recording, labels):
    model = process(PARTIALS["measured"], Gaussian(0.2, recording))
    observed, clean = with_saturated_neighbours(recording)
    assert torch.autograd.gradcheck(lambda c: model.log_prob(observed, c, labels), clean.requires_grad_())


@every_recording
def test_the_field_follows_the_moments_of_a_flow_along_the_scan(recording):
    model = make("scan-flow", recording)
    law = process(torch.tanh(model.partial).tolist(), _Moments(model.marginal))
    observed, clean = with_saturated_neighbours(recording)
    clean.requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(observed, clean).sum(), clean)
    (expected,) = torch.autograd.grad(law.log_prob(observed, clean).sum(), clean)
    torch.testing.assert_close(gradient, expected)


@both_models
@every_recording
def test_the_parameters_of_a_flow_follow_its_own_likelihood(name, recording):
    model = make(name, recording)
    observed, clean = with_saturated_neighbours(recording)
    own = torch.autograd.grad(model.log_prob(observed, clean).sum(), list(model.parameters()))
    with_field = torch.autograd.grad(model.log_prob(observed, clean.requires_grad_()).sum(), list(model.parameters()))
    for name, first, second in zip(dict(model.named_parameters()), own, with_field, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6, msg=name)
    assert own[list(dict(model.named_parameters())).index("partial")].abs().min() > 0


@both_models
@every_recording
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_beside_extreme_and_saturated_neighbours_all_is_finite(name, recording, dtype):
    model = make(name, recording, slope=1e-4, floor=1e-6).to(dtype)
    grey = torch.tensor([0.0, 1 / 64, 0.5, 1.0], dtype=dtype)
    observed = torch.cartesian_prod(grey, grey, grey)
    clean = torch.tensor([0.7, -0.2, 1.2], dtype=dtype).expand_as(observed).clone().requires_grad_()
    log_prob = model.log_prob(observed, clean)
    assert torch.isfinite(log_prob).all()
    assert log_prob.min() < -100
    for gradient in torch.autograd.grad(log_prob.sum(), [clean, *model.parameters()]):
        assert torch.isfinite(gradient).all()
    for found in (model.whiten(observed, clean), model.scores(observed, clean)):
        assert torch.isfinite(found).all()


def test_a_flow_and_its_scan_agree_on_a_pixel_by_itself():
    model = make("scan-flow", RECORDINGS["both"])
    observed, clean = with_saturated_neighbours(model.recording)
    torch.testing.assert_close(log_law(model, observed, clean), marginal(model).log_prob(observed, clean))
    assert model.recording is marginal(model).recording


@both_models
def test_trust_is_the_share_of_the_correlation_that_the_field_knows(name):
    """Without trust the field follows every pixel by itself; the likelihood and its parameters know all, always."""
    model = make(name, None)
    observed, clean = with_saturated_neighbours(Recording())
    clean.requires_grad_()
    inputs = [clean, *model.parameters()]

    def gradients(trust):
        model.trust = trust
        value = model.log_prob(observed, clean).sum()
        return value.item(), torch.autograd.grad(value, inputs)

    (alone,) = torch.autograd.grad(model.marginal.log_prob(observed, clean).sum(), clean)
    (blind_value, blind), (half_value, half), (full_value, full) = (gradients(trust) for trust in (0.0, 0.5, 1.0))
    torch.testing.assert_close(blind[0], alone)
    assert (half[0] - blind[0]).abs().max() > 1e-3
    assert (full[0] - half[0]).abs().max() > 1e-3
    assert blind_value == pytest.approx(full_value, rel=1e-12)
    assert half_value == pytest.approx(full_value, rel=1e-12)
    for a, b in zip(blind[1:], full[1:], strict=True):
        torch.testing.assert_close(a, b)
