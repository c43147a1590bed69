"""The flow's layers in C are those of plain torch in double precision: values and gradients."""

import copy

import pytest
import torch

from tiltfield.kernels import native
from tiltfield.kernels.radial import MOST_PAIRS
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.gaussian import PoissonGaussian

pytestmark = pytest.mark.usefixtures("compiler")
PIXELS = 1003  # no multiple of what is taken at a time


def flow(n_layers):
    generator = torch.Generator().manual_seed(n_layers)
    model = RadialFlow(PoissonGaussian(0.01, 0.02), n_layers=n_layers, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def pixels(n=PIXELS):
    generator = torch.Generator().manual_seed(7)
    return 0.3 * torch.randn(n, generator=generator), 1.4 * torch.rand(n, generator=generator) - 0.2


def values_and_gradients(model, noise, clean):
    """Of a function of z and log dz/dn in which every pixel counts differently."""
    z, log_det = model.to_normal(noise, clean)
    angle = torch.arange(len(noise), dtype=noise.dtype)
    total = (z * torch.sin(angle) + log_det * torch.cos(angle)).mean()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [model.get_parameter(name) for name in names])
    return {"z": z.detach(), "log_det": log_det.detach(), **dict(zip(names, gradients, strict=True))}


def close(fast, exact, share=1e-5):
    """Compare with what the greatest value is."""
    for name, value in exact.items():
        torch.testing.assert_close(fast[name].double(), value, rtol=0, atol=share * value.abs().max().item())


@pytest.mark.parametrize("n_layers", [2, 4, 8])
def test_values_and_gradients_are_those_of_plain_torch(n_layers, threads):
    model = flow(n_layers)
    noise, clean = pixels()
    fast = values_and_gradients(model, noise, clean)
    close(fast, values_and_gradients(model.double(), noise.double(), clean.double()))


@pytest.mark.parametrize("n", [0, 1, 16, 17])
def test_any_number_of_pixels(n):
    model = flow(4)
    noise, clean = pixels(n)
    z, log_det = model.to_normal(noise, clean)
    exact_z, exact_log = model.double().to_normal(noise.double(), clean.double())
    torch.testing.assert_close(z.double(), exact_z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det.double(), exact_log, rtol=1e-5, atol=1e-5)


def test_shapes_and_strides_do_not_matter():
    model = flow(4)
    noise, clean = (tensor.reshape(17, 59) for tensor in pixels())
    z, _ = model.to_normal(noise.T, clean.T)
    torch.testing.assert_close(z, model.to_normal(noise, clean)[0].T)


def test_nan_stays_nan_and_touches_no_other_pixel():
    model = flow(4)
    noise, clean = pixels(32)
    whole, _ = model.to_normal(noise, clean)
    clean[5] = float("nan")
    z, _ = model.to_normal(noise, clean)
    assert z.isnan().nonzero().flatten().tolist() == [5]
    assert torch.equal(z[~z.isnan()], whole[~z.isnan()])


@pytest.mark.parametrize("n_layers", [2, 8])
def test_mean_and_variance_at_the_nodes_are_those_of_plain_torch(n_layers, threads):
    model = flow(n_layers)
    mean, square = model._mean_and_square(model._conditioned()[1])
    names = [name for name, p in model.named_parameters() if name.startswith(("free", "inner", "outer"))]
    weights = torch.sin(torch.arange(len(mean)))
    fast = torch.autograd.grad((mean * weights).sum(), [model.get_parameter(name) for name in names])
    model.double()
    exact_mean, exact_square = model._mean_and_square(model._conditioned()[1])
    exact = torch.autograd.grad((exact_mean * weights.double()).sum(), [model.get_parameter(name) for name in names])
    torch.testing.assert_close(mean.double(), exact_mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(square.double(), exact_square, rtol=1e-5, atol=0)
    close(dict(zip(names, fast, strict=True)), dict(zip(names, exact, strict=True)))


def test_more_layers_than_the_kernel_takes_are_done_plainly(monkeypatch):
    model = flow(2 * MOST_PAIRS + 2)
    monkeypatch.setattr(native, "call", lambda *_: pytest.fail("the kernel has no room for them"))
    noise, clean = pixels(20)
    z, _ = model.to_normal(noise, clean)
    assert z.isfinite().all()


@pytest.mark.parametrize("n", [0, 1, PIXELS])
def test_the_gaussian_of_equal_moments_is_that_of_plain_torch(n, threads):
    moments = flow(4).moments()
    noise, clean = pixels(n)
    exact = copy.deepcopy(moments)
    exact.table = moments.table.double()

    def values_and_slope(model, dtype):
        where = clean.to(dtype).requires_grad_()
        law = model.pull(clean.to(dtype) + noise.to(dtype), where)
        return {"law": law.detach(), "slope": torch.autograd.grad(law.sum(), where)[0]}

    fast, right = values_and_slope(moments, torch.float32), values_and_slope(exact, torch.float64)
    for name, value in right.items():
        torch.testing.assert_close(fast[name].double(), value, rtol=1e-5, atol=2e-5)
