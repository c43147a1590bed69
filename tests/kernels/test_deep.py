"""The deep network in AMX's tiles is as close to the exact one as autocast's is, and a fit goes the same way by it."""

import functools
import itertools

import pytest
import torch

from tiltfield.fields.base import Box
from tiltfield.fields.mlp import MLP
from tiltfield.kernels import deep as module
from tiltfield.kernels import native
from tiltfield.kernels.deep import deep, deep_plainly, usable

F32, F64 = torch.float32, torch.float64
SKIP = 5
half = functools.partial(torch.autocast, "cpu", torch.bfloat16)


@pytest.fixture
def tiles(compiler):
    """Skip where there is no AMX."""
    if not native.tiles():
        pytest.skip("this processor, compiler or system has no AMX")


def network(n_encoded, width, depth, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights, biases = [], []
    for layer, (n_in, n_out) in enumerate(itertools.pairwise([n_encoded, *[width] * depth, 1])):
        n_in += n_encoded if layer == SKIP < depth else 0
        weights.append((torch.rand(n_out, n_in, generator=generator) * 2 - 1) * (6 / n_in) ** 0.5)
        biases.append(torch.randn(n_out, generator=generator) * 0.1)
    return weights, biases


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def values_and_gradients(function, encoded, layers, given, dtype, reduced):
    weights, biases = ([layer.to(dtype).requires_grad_() for layer in part] for part in layers)
    with half(enabled=reduced):
        out = function(encoded.to(dtype), weights, biases, SKIP)
    gradients = torch.autograd.grad((out * given.to(dtype)).sum(), [*weights, *biases])
    return [out.detach().double(), *(g.double() for g in gradients)]


def distance(some, exact):
    return torch.tensor([(a - b).norm() / b.norm() for a, b in zip(some, exact, strict=True)])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("n_encoded", "width"), [(12, 32), (42, 64), (60, 256)])
@pytest.mark.parametrize("depth", [1, 3, 9])
@pytest.mark.parametrize("shape", [(3, 31), (1037,)], ids=str)
def test_errors_are_those_of_autocast(n_encoded, width, depth, shape, threads):
    layers, encoded, given = network(n_encoded, width, depth), uniform(*shape, n_encoded), uniform(*shape, seed=2)
    with half():
        assert usable(encoded, *layers)
    exact = values_and_gradients(deep_plainly, encoded, layers, given, F64, reduced=False)
    plain = distance(values_and_gradients(deep_plainly, encoded, layers, given, F32, reduced=True), exact)
    tiled = distance(values_and_gradients(deep, encoded, layers, given, F32, reduced=True), exact)
    assert (tiled <= 1.5 * torch.maximum(plain, plain.mean())).all()
    assert tiled.mean() <= 1.25 * plain.mean()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("n_encoded", "width", "depth"), [(12, 32, 1), (30, 32, 3), (42, 96, 6), (60, 256, 9)])
@pytest.mark.parametrize("n", [1, 31, 130])
def test_numbers_that_need_no_rounding_give_exact_ones(n_encoded, width, depth, n, threads):
    """Of small whole numbers every product and sum is exact in bfloat16 and float32, whatever the order."""
    generator = torch.Generator().manual_seed(3)
    weights, biases = network(n_encoded, width, depth)
    for weight in weights[:-1]:  # a unit takes one input: values stay small
        place = torch.randint(weight.shape[1], (width, 1), generator=generator)
        weight.zero_().scatter_(1, place, 1.0)
    weights[-1].fill_(1.0)
    for weight in weights:
        weight[torch.rand(weight.shape, generator=generator) < 0.2] *= -1
    whole = [torch.randint(3, bias.shape, generator=generator) + 0.0 for bias in biases]
    encoded = torch.randint(-3, 4, (n, n_encoded), generator=generator) + 0.0
    given = torch.randint(1, 3, (n,), generator=generator) + 0.0
    exact = values_and_gradients(deep_plainly, encoded, (weights, whole), given, F64, reduced=False)
    tiled = values_and_gradients(deep, encoded, (weights, whole), given, F32, reduced=True)
    for a, b in zip(tiled, exact, strict=True):
        assert torch.equal(a, b)
        assert a.any()


@pytest.mark.usefixtures("tiles")
def test_the_same_every_time_and_without_gradient(threads):
    layers, encoded, given = network(42, 64, 9), uniform(333, 42), uniform(333, seed=2)
    first, second = (values_and_gradients(deep, encoded, layers, given, F32, reduced=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with half(), torch.no_grad():
        assert torch.equal(deep(encoded, *layers, SKIP).double(), first[0])


@pytest.mark.usefixtures("tiles")
def test_numbers_of_threads_differ_by_rounding_only():
    layers, encoded, given = network(42, 64, 9), uniform(3000, 42), uniform(3000, seed=2)
    before, results = torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        results.append(values_and_gradients(deep, encoded, layers, given, F32, reduced=True))
    torch.set_num_threads(before)
    assert distance(*results).max() < 1e-5


@pytest.mark.usefixtures("tiles")
def test_what_is_kept_for_the_way_back_is_not_used_again_too_early():
    layers, given = network(12, 32, 3), uniform(100, seed=2)
    points = [uniform(100, 12, seed=seed) for seed in range(4)]
    expected = [values_and_gradients(deep, p, layers, given, F32, reduced=True) for p in points]
    weights, biases = ([layer.clone().requires_grad_() for layer in part] for part in layers)
    with half():
        outs = [deep(p, weights, biases, SKIP) for p in points]
    for out, right in zip(reversed(outs), reversed(expected), strict=True):
        for _ in range(2):
            got = torch.autograd.grad((out * given).sum(), [*weights, *biases], retain_graph=True)
            assert all(torch.equal(a.double(), b) for a, b in zip(got, right[1:], strict=True))


@pytest.mark.usefixtures("tiles")
def test_what_is_not_a_number_stays_so():
    weights, biases = network(12, 32, 3)
    encoded = uniform(40, 12)
    encoded[7, 3] = torch.nan
    with half():
        out = deep(encoded, weights, biases, SKIP)
    assert out.isnan().nonzero().flatten().tolist() == [7]
    for layer in range(4):
        spoilt = [weight.clone() for weight in weights]
        spoilt[layer][0, 0] = torch.nan
        with half():
            assert deep(uniform(40, 12), spoilt, biases, SKIP).isnan().all()


def test_what_the_kernel_does_not_take_goes_the_plain_way():
    layers, encoded = network(12, 32, 2), uniform(5, 12)
    assert not usable(encoded, *layers)  # float32 products
    with half():
        assert not usable(encoded.double(), *layers)
        assert not usable(encoded.clone().requires_grad_(), *layers)
        assert not usable(encoded, *network(12, 40, 2))
        assert not usable(encoded[:0], *layers)
        assert deep(encoded[:0], *layers, SKIP).shape == (0,)
    with torch.autocast("cpu", torch.float16):
        assert not usable(encoded, *layers)
    assert torch.equal(deep(encoded, *layers, SKIP), deep_plainly(encoded, *layers, SKIP))


def test_without_the_library_there_are_no_tiles(monkeypatch):
    monkeypatch.setattr(native, "usable", lambda tensor: False)
    with half():
        assert not usable(uniform(5, 12), *network(12, 32, 2))


@pytest.mark.usefixtures("tiles")
def test_a_fit_goes_down_as_the_plain_one_does(monkeypatch):
    """A ball of density 0.8 in 0.1, by 300 steps of 256 points: both fits end as near to it."""
    box = Box(16, 16, 16)

    def fitted():
        generator = torch.Generator().manual_seed(0)
        field = MLP(box, width=64, depth=6, n_frequencies=3, mean=0.3, generator=generator)
        adam, losses = torch.optim.Adam(field.parameters(), lr=1e-3), []
        for _ in range(300):
            points = (torch.rand(256, 3, generator=generator) - 0.5) * 16
            wanted = torch.where(points.norm(dim=1) < 5, 0.8, 0.1)
            with half():
                loss = (field(points) - wanted).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        return torch.tensor(losses)

    tiled = fitted()
    monkeypatch.setattr(module, "usable", lambda *_: False)
    plain = fitted()
    assert tiled[-50:].mean() < 0.15 * tiled[:5].mean()
    assert tiled[:50].mean().item() == pytest.approx(plain[:50].mean().item(), rel=0.05)
    assert tiled[-50:].mean().item() == pytest.approx(plain[-50:].mean().item(), rel=0.15)
