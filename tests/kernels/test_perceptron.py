"""The network in pieces is the plain one: values and gradients, whatever the pieces."""

import itertools

import pytest
import torch

from tiltfield.kernels import native
from tiltfield.kernels import perceptron as module
from tiltfield.kernels.perceptron import perceptron, perceptron_plainly

F64 = torch.float64


def network(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(n_out, n_in, generator=generator, dtype=F64).requires_grad_() for n_in, n_out in pairs]
    biases = [torch.randn(n_out, 1, generator=generator, dtype=F64).requires_grad_() for _, n_out in pairs]
    return weights, biases


@pytest.mark.parametrize("sizes", [(5, 7, 1), (1, 1, 1), (24, 64, 1)], ids=str)
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("n", [1, 16, 40])
def test_values_and_gradients_are_those_of_the_plain_network(sizes, batch, n, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)  # 40 points are three pieces, the last one shorter
    generator = torch.Generator().manual_seed(1)
    weights, biases = network(sizes)
    x = torch.randn(*batch, sizes[0], n, generator=generator, dtype=F64).requires_grad_()
    fast, plain = perceptron(x, weights, biases), perceptron_plainly(x, weights, biases)
    torch.testing.assert_close(fast, plain)
    given = torch.randn(plain.shape, generator=generator, dtype=F64)
    inputs = [x, *weights, *biases]
    for a, b in zip(
        torch.autograd.grad((fast * given).sum(), inputs),
        torch.autograd.grad((plain * given).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_network_by_hand():
    weights = [torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0, 3.0]])]
    biases = [torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5]])]
    torch.testing.assert_close(
        perceptron(torch.tensor([[0.0, 2.0, -1.0]]), weights, biases), torch.tensor([[3.5, 4.5, 6.5]])
    )


def spoilt(what):
    """Features, weights and biases of which something is not a number: at point 7, or everywhere."""
    x, tensors = torch.randn(1, 24, 100, generator=torch.Generator().manual_seed(3)), network((24, 64, 1), 1)
    weights, biases = ([tensor.detach().float() for tensor in part] for part in tensors)
    if what == "point":
        x[0, 3, 7] = torch.nan
    elif what == "all weights":
        weights[0].fill_(torch.nan)
    else:
        {"weight": weights[0], "bias": biases[0]}[what][5, 0] = torch.nan
    return x, weights, biases, [7] if what == "point" else list(range(100))


@pytest.mark.parametrize("kernel", ["pieces", "perceptron", "tiles"])
@pytest.mark.parametrize("what", ["point", "weight", "bias", "all weights"])
def test_what_is_not_a_number_stays_so(what, kernel, monkeypatch):
    if kernel == "pieces":
        monkeypatch.setattr(native, "usable", lambda tensor: False)
    elif native.obstacle() or (kernel == "tiles" and not native.tiles()):
        pytest.skip(native.obstacle() or "the processor has no tiles (AMX)")
    monkeypatch.setattr(module, "_kernel", lambda: kernel)
    x, weights, biases, where = spoilt(what)
    inputs = [tensor.requires_grad_() for tensor in (x, *weights, *biases)]
    out, plain = perceptron(x, weights, biases), perceptron_plainly(x, weights, biases)
    assert out[0, 0].isnan().nonzero().flatten().tolist() == plain[0, 0].isnan().nonzero().flatten().tolist() == where
    assert any(gradient.isnan().any() for gradient in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.usefixtures("compiler")
# by tiles a product is within 2^-16 of it, and terms may cancel
@pytest.mark.parametrize(("kernel", "error"), [("perceptron", 2e-6), ("tiles", 2**-14)], ids=["vectors", "tiles"])
@pytest.mark.parametrize("sizes", [(5, 7, 1), (1, 1, 1), (24, 64, 1), (32, 64, 1), (48, 70, 1)], ids=str)
@pytest.mark.parametrize(("batch", "n"), [((), 1), ((3,), 31), ((), 128), ((2,), 1003)], ids=str)
def test_the_kernel_in_c_is_the_plain_network_in_double_precision(kernel, error, sizes, batch, n, threads, monkeypatch):
    if kernel == "tiles" and module._kernel() != "tiles":
        pytest.skip("the processor has no tiles (AMX)")
    monkeypatch.setattr(module, "_kernel", lambda: kernel)
    generator = torch.Generator().manual_seed(2)
    weights, biases = network(sizes)
    x = torch.randn(*batch, sizes[0], n, generator=generator, dtype=F64)
    given = torch.randn(*batch, 1, n, generator=generator, dtype=F64)
    inner = weights[0] @ x + biases[0]
    given = given * (inner.abs() > 1e-3).all(-2, keepdim=True)  # near its bend a unit may be on or off

    def values_and_gradients(function, dtype):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (x, *weights, *biases)]
        out = function(inputs[0], inputs[1:3], inputs[3:])
        return [out.detach(), *torch.autograd.grad((out * given.to(dtype)).sum(), inputs)]

    exact = values_and_gradients(perceptron_plainly, F64)
    for fast, right in zip(values_and_gradients(perceptron, torch.float32), exact, strict=True):
        torch.testing.assert_close(fast.double(), right, rtol=0, atol=error * max(1.0, right.abs().max().item()))
