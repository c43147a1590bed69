"""The network's kernels are the plain network: values and gradients, whatever the sizes."""

import pytest
import torch
from test_perceptron import spoilt

pytest.importorskip("triton", reason="needs Triton, for Linux: pip install 'tiltfield[gpu]'")

from tiltfield.kernels import gpu_perceptron, native
from tiltfield.kernels.perceptron import perceptron, perceptron_plainly

CLOSE = 3e-5  # on a GPU; some 2e-7 where the interpreter multiplies in float32


def drawn(batch, channels, hidden, n):
    """Features, two weights, two biases, and what the output's gradient is to be."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, channels, n), (hidden, channels), (1, hidden), (hidden, 1), (1, 1), (batch, 1, n)]
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def values(network, tensors):
    """The output and all gradients."""
    *inputs, given = tensors
    x, *parameters = (t.detach().requires_grad_() for t in inputs)
    out = network(x, parameters[:2], parameters[2:])
    return [out, *torch.autograd.grad((out * given).sum(), [x, *parameters])]


@pytest.mark.parametrize("sizes", [(2, 24, 64, 150), (3, 5, 7, 37), (1, 16, 16, 64), (1, 33, 63, 1)], ids=str)
def test_values_and_gradients_are_those_of_the_plain_network(sizes, device, error):
    tensors = drawn(*sizes)
    found = values(gpu_perceptron.perceptron, [t.to(device) for t in tensors])
    for a, b in zip(found, values(perceptron_plainly, [t.double() for t in tensors]), strict=True):
        assert error(a, b) < (CLOSE if device.type == "cuda" else 1e-6)


@pytest.mark.parametrize("what", ["point", "weight", "bias", "all weights"])
def test_what_is_not_a_number_stays_so(what, device):
    x, weights, biases, where = spoilt(what)
    inputs = [tensor.to(device).requires_grad_() for tensor in (x, *weights, *biases)]
    out = gpu_perceptron.perceptron(inputs[0], inputs[1:3], inputs[3:])
    assert out[0, 0].isnan().nonzero().flatten().tolist() == where
    assert any(gradient.isnan().any() for gradient in torch.autograd.grad(out.sum(), inputs))


def test_programs_share_the_points(device, error, monkeypatch):
    monkeypatch.setattr(gpu_perceptron, "PROGRAMS", 3)
    tensors = drawn(2, 4, 5, 4 * gpu_perceptron.POINTS + 1)  # 10 tiles: 4, 3 and 3
    found = values(gpu_perceptron.perceptron, [t.to(device) for t in tensors])
    for a, b in zip(found, values(perceptron_plainly, [t.double() for t in tensors]), strict=True):
        assert error(a, b) < (CLOSE if device.type == "cuda" else 1e-6)


@pytest.mark.parametrize(("channels", "hidden", "fits"), [(63, 64, True), (64, 64, False), (24, 65, False)])
def test_what_is_too_large_for_a_gpu_s_shared_memory_is_multiplied_plainly(
    channels, hidden, fits, dispatched, error, monkeypatch
):
    calls, kernel = [], gpu_perceptron.perceptron
    monkeypatch.setattr(gpu_perceptron, "perceptron", lambda *given: (calls.append(1), kernel(*given))[1])
    monkeypatch.setattr(native, "usable", lambda tensor: False)
    tensors = [t.to(dispatched) for t in drawn(1, channels, hidden, 70)]
    for a, b in zip(values(perceptron, tensors), values(perceptron_plainly, tensors), strict=True):
        assert error(a, b) < CLOSE
    assert calls == [1] * fits


def test_two_runs_are_one(device):
    tensors = [t.to(device) for t in drawn(1, 6, 9, 200)]
    for a, b in zip(*(values(gpu_perceptron.perceptron, tensors) for _ in range(2)), strict=True):
        assert torch.equal(a, b)


def test_networks_take_the_kernels_where_they_are_of_use(dispatched, error, monkeypatch):
    calls, kernel = [], gpu_perceptron.perceptron
    monkeypatch.setattr(gpu_perceptron, "perceptron", lambda *given: (calls.append(1), kernel(*given))[1])
    x, inner, outer, inner_bias, outer_bias, _ = (t.to(dispatched) for t in drawn(1, 5, 7, 20))
    weights, biases = (inner, outer), (inner_bias, outer_bias)
    right = perceptron_plainly(x[0].cpu().double(), [w.cpu().double() for w in weights], [b.cpu() for b in biases])
    assert error(perceptron(x[0], weights, biases), right) < CLOSE
    assert calls == [1]
