"""What every noise model in the registry promises, for every way of recording that it knows."""

import math
from dataclasses import replace

import pytest
import torch
from noise_models import (
    BETWEEN,
    BEYOND,
    F64,
    ON,
    QUANTUM,
    RECORDINGS,
    draw,
    every_case,
    every_model,
    every_recorded,
    every_zero_mean,
    log_law,
    make,
    marginal,
    tensor,
)

from tiltfield.config import NOISE_NAMES
from tiltfield.errors import InputError
from tiltfield.noise import NOISES, Start, make_noise
from tiltfield.noise.base import Recording
from tiltfield.noise.flow import RadialFlow, _Moments


def law(model, clean, n=200_000):
    """Where the observations can lie, as upper ends of cells, and the probability of each cell, by log_prob alone."""
    rec, c = model.recording, tensor(clean)
    ends = model.from_normal(tensor([-9.0, 9.0]), c.expand(2)) + c
    first, last = (rec.low, rec.high) if rec.low is not None else ends.tolist()
    if rec.quantum is not None:
        origin = rec.low or 0.0
        grey = torch.arange(math.floor((first - origin) / rec.quantum), math.ceil((last - origin) / rec.quantum) + 1)
        grey = origin + grey * rec.quantum
        return grey + rec.quantum / 2, log_law(model, grey, c.expand_as(grey)).exp()
    step = (last - first) / n
    upper = first + step * torch.arange(1, n + 1, dtype=F64)
    mass = log_law(model, upper - step / 2, c.expand(n)).exp() * step
    if rec.low is None:
        return upper, mass
    ends = tensor([rec.low, rec.high])
    atoms = log_law(model, ends, c.expand(2)).exp()
    upper[-1] -= 1e-12  # the last cell ends short of the atom
    return torch.cat([ends[:1], upper, ends[1:]]), torch.cat([atoms[:1], mass, atoms[1:]])


@every_case
@pytest.mark.parametrize("clean", [0.0, 0.3711, 0.97, 1.08])
def test_probability_sums_to_one(name, recording, clean):
    with torch.no_grad():
        _, mass = law(make(name, recording), clean)
    assert mass.min() >= 0
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


@every_case
@pytest.mark.parametrize("clean", [0.0, 0.3711, 0.97])
def test_samples_follow_the_density(name, recording, clean):
    model, n = make(name, recording), 20_000
    with torch.no_grad():
        upper, mass = law(model, clean)
        drawn = draw(model, clean, n)
    if recording.low is not None:
        assert drawn.min() >= recording.low
        assert drawn.max() <= recording.high
    if recording.quantum is not None:
        steps = drawn / recording.quantum
        torch.testing.assert_close(steps, steps.round())
    share = torch.searchsorted(drawn.sort().values, upper, right=True) / n
    assert (share - mass.cumsum(0)).abs().max() < 1.95 / math.sqrt(n)  # Kolmogorov and Smirnov, 1 in 1000


def test_the_check_of_samples_sees_a_violation():
    model, other, n = make("gaussian", None), make("poisson-gaussian", None), 20_000
    with torch.no_grad():
        upper, mass = law(model, 0.3711)
        drawn = draw(other, 0.3711, n)
    share = torch.searchsorted(drawn.sort().values, upper, right=True) / n
    assert (share - mass.cumsum(0)).abs().max() > 1.95 / math.sqrt(n)


def moments(model, clean):
    """Mean and deviation of the noise, by a fine rule over the standard normal."""
    z = torch.linspace(-9, 9, 9001, dtype=F64)
    weight = torch.softmax(-0.5 * z.square(), dim=0)
    with torch.no_grad():
        noise = model.from_normal(z.expand(len(clean), -1), clean[:, None].expand(-1, len(z)))
    mean = noise @ weight
    return mean, ((noise - mean[:, None]).square() @ weight).sqrt()


@every_zero_mean
@pytest.mark.parametrize("where", [ON, BETWEEN, BEYOND], ids=["on nodes", "between", "beyond"])
def test_the_mean_of_the_noise_is_zero(name, where):
    mean, deviation = moments(make(name, None), tensor(where))
    assert (mean.abs() / deviation).max() < 1e-3


def test_the_check_of_the_mean_sees_a_violation():
    # nothing keeps the mean of the published flow at zero, as it says itself
    model = make("flow-paper", None)
    mean, deviation = moments(model, tensor(BETWEEN))
    assert (mean.abs() / deviation).max() > 0.1
    torch.testing.assert_close(model.mean(tensor(BETWEEN)), mean, rtol=0, atol=0.02 * deviation.min().item())


@every_model
def test_the_deviation_is_that_of_the_noise(name):
    clean = tensor(ON + BETWEEN + BEYOND)
    model = make(name, None)
    torch.testing.assert_close(model.deviation(clean), moments(model, clean)[1], rtol=0.02, atol=0)


def spread(model):
    """Standard normals and clean intensities, all combinations, flat."""
    grid = torch.meshgrid(torch.linspace(-6, 6, 61, dtype=F64), tensor(ON + BETWEEN + BEYOND), indexing="ij")
    return [g.flatten() for g in grid]


@every_model
def test_the_map_and_its_inverse(name):
    model = make(name, None)
    z, clean = spread(model)
    with torch.no_grad():
        noise = model.from_normal(z, clean)
        back, log_det = model.to_normal(noise, clean)
        torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
        torch.testing.assert_close(model.from_normal(back, clean), noise)
    assert log_det.shape == noise.shape


@every_model
def test_the_log_determinant_is_the_derivatives(name):
    model = make(name, None)
    z, clean = spread(model)
    z = z[z != 0] if name == "l1" else z  # at its kink the Laplace density has no derivative
    clean = clean[: len(z)]
    noise = model.from_normal(z, clean).detach().requires_grad_()
    back, log_det = model.to_normal(noise, clean)
    (slope,) = torch.autograd.grad(back.sum(), noise)
    assert slope.min() > 0
    torch.testing.assert_close(log_det, slope.log(), rtol=0, atol=1e-7)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_tails_are_finite_with_finite_gradients(name, recording, dtype):
    model = make(name, recording, slope=1e-4, floor=1e-6).to(dtype)  # deviations of 1e-3 to 1e-2
    observed = torch.tensor([0.0, QUANTUM, 0.25, 0.5, 1 - QUANTUM, 1.0], dtype=dtype)
    clean = torch.linspace(-0.3, 1.3, 161, dtype=dtype)
    observed, clean = (g.flatten() for g in torch.meshgrid(observed, clean, indexing="ij"))
    clean.requires_grad_()
    z, _ = model.to_normal(observed - clean, clean)
    # z of a Laplace density grows as a root; that of the published flow levels off around 20 as its layers saturate
    assert z.abs().max() > {"l1": 10, "flow-paper": 15}.get(name, 30)
    log_prob = log_law(model, observed, clean)
    assert torch.isfinite(log_prob).all()
    assert log_prob.min() < -100
    for value in (log_prob.sum(), log_prob[z.abs() < 40].sum()):
        inputs = [clean, *model.parameters()]
        for gradient in torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=name == "l2"):
            assert gradient is None or torch.isfinite(gradient).all()


@every_case
@pytest.mark.parametrize("observed", [0.0, 0.5, 1.0])
def test_the_gradient_is_right_in_the_tails(name, recording, observed):
    model = make(name, recording, slope=1e-4, floor=1e-6)
    # beside the flow's nodes, where its tables have kinks; |z| from about 1 to several hundred
    clean = ((torch.arange(-30, 160, 7) + 0.4) / 128).to(F64).requires_grad_()

    def brighter_by(step):
        """Shift all but the noise's shape: observing less, with lower saturation values, is as if clean were more."""
        if name == "flow-paper":  # which is differentiated through its shape as well
            return log_law(law, tensor(observed).expand_as(clean), clean + step)
        bounds = {end: None if (value := getattr(recording, end)) is None else value - step for end in ("low", "high")}
        law.recording = replace(recording, **bounds)
        return log_law(law, (tensor(observed) - step).expand_as(clean), clean)

    (gradient,) = torch.autograd.grad(log_law(model, tensor(observed).expand_as(clean), clean).sum(), clean)
    law = marginal(model)
    if isinstance(law, RadialFlow):  # the field follows the flow's mean and variance alone
        law = _Moments(law)
    with torch.no_grad():
        quotient = (brighter_by(1e-7) - brighter_by(-1e-7)) / 2e-7
    torch.testing.assert_close(gradient, quotient, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("recording", [None, Recording(low=0.0, high=1.0)])
def test_the_field_follows_the_flows_mean_and_variance(recording):
    model = make("flow", recording)
    clean = torch.linspace(0.0, 1.0, 65, dtype=F64)[1:-1].requires_grad_()  # on the nodes of the moments
    observed = (clean.detach() + 0.2 * torch.randn(63, generator=torch.Generator().manual_seed(2), dtype=F64)).clamp(
        0, 1
    )
    (gradient,) = torch.autograd.grad(model.log_prob(observed, clean).sum(), clean)
    inside = (observed > 0) & (observed < 1)
    expected = (observed - clean.detach()) / model.deviation(clean.detach()).square()
    torch.testing.assert_close(gradient[inside], expected[inside], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        value = model.log_prob(observed, clean)
    torch.testing.assert_close(model.log_prob(observed, clean), value)


@pytest.mark.parametrize("name", ["poisson-gaussian", "flow", "scan-poisson-gaussian", "scan-flow"])
def test_the_noise_never_falls_below_the_misfit(name):
    generator = torch.Generator().manual_seed(0)
    model = make_noise(name, Start(1e-12, 1e-12, 0.0, 0.0, 1.0, generator, misfit=0.01))
    torch.testing.assert_close(model.deviation(torch.tensor([0.0, 0.5])), torch.full((2,), 0.01), rtol=1e-3, atol=0)


@every_case
def test_far_tails_pull_the_clean_intensity_back(name, recording):
    model = make(
        name, recording, slope=1e-9, floor=1e-4, bend=0.0
    )  # one deviation, else a larger one may explain as much
    for observed, away in ((0.0, 1.0), (1.0, -1.0)):
        clean = (observed + away * torch.linspace(0.02, 0.9, 45, dtype=F64)).requires_grad_()
        log_prob = model.log_prob(tensor(observed).expand(45), clean)
        (gradient,) = torch.autograd.grad(log_prob.sum(), clean)
        assert (gradient * away < 0).all()
        assert (log_prob.diff() < 0).all()


@every_recorded
def test_a_fine_quantum_is_the_density(name):
    fine, plain = make(name, Recording(quantum=1e-4)), make(name, None)
    observed, clean = tensor([0.31, 0.42, 0.55, 0.7]), tensor([0.4] * 4)
    expected = log_law(plain, observed, clean) + math.log(1e-4)
    torch.testing.assert_close(log_law(fine, observed, clean), expected, rtol=0, atol=1e-3)


@every_recorded
@pytest.mark.parametrize(
    "recording", [Recording(low=0.25), Recording(high=0.5), Recording(high=0.505, quantum=QUANTUM)]
)
def test_saturation_on_one_side(name, recording):
    model, n = make(name, recording), 20_000
    end = recording.high if recording.low is None else recording.low
    with torch.no_grad():
        drawn = draw(model, 0.4, n, seed=6)
        mass = log_law(model, tensor([end]), tensor([0.4])).exp().item()
    share = (drawn == end).double().mean().item()
    assert share == pytest.approx(mass, abs=4 * math.sqrt(mass * (1 - mass) / n))
    assert 0.01 < mass < 0.99
    if recording.quantum:
        steps = (drawn - end) / recording.quantum  # grey values are counted from the end that is known
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)


@every_model
def test_one_seed_is_one_model_and_one_sample(name):
    clean = torch.linspace(0, 1, 50, dtype=F64)
    draws = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        draws.append(make(name, None).sample(clean, torch.Generator().manual_seed(7)))
    assert torch.equal(*draws)


@every_model
def test_groups_hold_every_parameter_once(name):
    model = make(name, None)
    held = [id(p) for group in model.groups(1e-3) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_in_correlated_noise_a_pixel_learns_as_by_itself_and_rates_do_not_fall():
    *marginal, own = make("scan-flow", None).groups(1e-3)
    assert [group["lr"] for group in marginal] == [group["lr"] for group in make("flow", None).groups(1e-3)]
    assert [tuple(p.shape) for p in own["params"]] == [(4,)]
    assert not any(group["falls"] for group in (*marginal, own))


def test_the_registry_has_the_names_of_the_settings():
    assert set(NOISES) | {"auto"} == set(NOISE_NAMES)
    assert len(set(NOISE_NAMES)) == len(NOISE_NAMES)


@pytest.mark.parametrize("name", ["gaussian", "l2", "l1"])
def test_the_one_deviation_is_that_of_the_middle(name):
    model = make_noise(name, Start(0.05, 0.01, 0.1, 0.2, 0.8, torch.Generator()))
    # 0.01 + 0.05 · (0.5 - 0.1) = 0.03
    assert model.deviation(torch.tensor([0.7])).item() == pytest.approx(math.sqrt(0.03), rel=0.01)


@pytest.mark.parametrize("name", ["l2", "l1", "flow-paper"])
def test_these_ignore_the_recording(name):
    assert make(name, RECORDINGS["both"]).recording == Recording()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "poison-gaussian"}, "unknown noise model 'poison-gaussian'.*did you mean 'poisson-gaussian'"),
        ({"slope": 0.0}, "slope > 0 and floor > 0, got 0.0 and"),
        ({"floor": -1.0}, "slope > 0 and floor > 0"),
        ({"low": 1.0}, "low < high, got 1.0 and 1.0"),
    ],
)
def test_what_cannot_be_made_is_refused(change, message):
    given = {"name": "flow", "recording": None, **change}
    with pytest.raises(InputError, match=message):
        make(**given)
