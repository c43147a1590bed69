"""The density of the network's output: the kernel in C is plain torch in double precision."""

import pytest
import torch

from tiltfield.kernels.density import density, density_plainly

pytestmark = pytest.mark.usefixtures("compiler")


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 7), (2, 5, 101)], ids=str)
def test_values_and_gradients_are_those_of_plain_torch(shape, threads):
    generator = torch.Generator().manual_seed(1)
    values = (8 * torch.randn(shape, generator=generator)).requires_grad_()
    given = torch.randn(shape, generator=generator)
    exact_values = values.detach().double().requires_grad_()
    fast, exact = density(values, 0.3, 2.0), density_plainly(exact_values, 0.3, 2.0)
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-7)
    (slope,), (exact_slope,) = (
        torch.autograd.grad(fast, values, given),
        torch.autograd.grad(exact, exact_values, given.double()),
    )
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-5, atol=1e-7)


def test_what_is_no_number_stays_none():
    assert torch.isnan(density(torch.tensor([float("nan"), 1.0]), 1.0, 1.0)).tolist() == [True, False]


def test_a_density_by_hand():
    p = torch.log1p(torch.exp(torch.tensor(1.5))).item()
    assert density(torch.tensor([1.5]), 2.0, 3.0).item() == pytest.approx(2 * (p + 3 * p**2), rel=1e-6)
