"""The variation in one pass is the plain one: value and gradient, whatever the shape and the number of threads."""

import math

import pytest
import torch

from tiltfield.kernels import variation as module
from tiltfield.kernels.variation import Law, variation, variation_plainly

LAW = Law(sharpness=0.005, edge=0.3, dense=3.0, top=1.2)
PLAIN = Law(sharpness=0.005, edge=math.inf, dense=3.0, top=1.2)


def density(*shape, scale=1.0, seed=0):
    """Many are low, some well above the law's dense ones; a third of the layers is nearly empty."""
    made = 6 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)).pow(3)
    made[:, : shape[1] // 3] *= 1e-3
    return scale * made


def both(function, slices, scale=1.0, closed=False, law=LAW):
    """The value, and the gradient of three times the value over three."""
    slices = slices.clone().requires_grad_()
    value = function(slices, scale, law, closed)
    (3 * value).backward()
    return value.detach().cpu().double(), slices.grad.cpu().double() / 3


def distance(found, right):
    assert found.shape == right.shape
    return float((found - right).abs().max() / right.abs().max())


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("shape", [(8, 24, 32), (3, 17, 33), (2, 1, 1), (1, 5, 6), (2, 3, 1), (5, 1, 47)], ids=str)
def test_value_and_gradient_are_those_of_the_plain_one(shape, closed, law):
    value, gradient = both(variation, density(*shape), closed=closed, law=law)
    right, slope = both(variation_plainly, density(*shape).double(), closed=closed, law=law)
    assert distance(value, right) <= 1e-6
    assert distance(gradient, slope) <= 1e-5


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 50.0])
def test_only_the_density_over_its_scale_counts(scale, law):
    value, gradient = both(variation, density(4, 20, 30, scale=scale), scale, law=law)
    right, slope = both(variation_plainly, density(4, 20, 30).double(), law=law)
    assert distance(value, right) <= 1e-6
    assert distance(gradient * scale, slope) <= 2e-5  # a density beside the dense ones may fall on either side


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("edge", [1e-6, 0.01, 0.3, 1.0, 1e3, 1e6, math.inf])
@pytest.mark.parametrize("height", [0.02, 1.0, 2.9, 1e3])
def test_the_logarithm_holds_for_any_height_and_edge(height, edge):
    """The step from the vacuum to one voxel and back: nothing averages out."""
    law, slices = Law(0.005, edge, 3.0, 0.0), torch.full((2, 1, 1), height)
    right = both(variation_plainly, slices.double(), law=law)[0]
    assert distance(both(variation, slices, law=law)[0], right) <= 1e-6


@pytest.mark.usefixtures("compiler")
def test_the_same_whatever_the_number_of_threads():
    before, slices = torch.get_num_threads(), density(4, 19, 40)
    found = []
    for threads in (1, 2, 3, 32):
        torch.set_num_threads(threads)
        found.append(both(variation, slices))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
def test_what_is_not_finite_is_told(law):
    slices = density(3, 4, 20)
    slices[1, 2, 5] = math.nan
    assert math.isnan(both(variation, slices, law=law)[0])


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
def test_the_kernel_is_taken_whatever_the_law(law, monkeypatch):
    calls, made = [], module._natively
    monkeypatch.setattr(module, "_natively", lambda *given: (calls.append(len(given[0])), made(*given))[1])
    both(variation, density(3, 5, 6), law=law)
    both(variation, density(3, 5, 6).double(), law=law)
    variation(density(3, 5, 6)[:0], 1.0, law, True)
    assert calls == [3]


@pytest.mark.usefixtures("compiler")
def test_strides_do_not_matter():
    slices = density(6, 7, 8)
    value, gradient = both(variation, slices.transpose(0, 2))
    other, slope = both(variation, slices.transpose(0, 2).contiguous())
    assert torch.equal(value, other)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [variation, variation_plainly])
def test_closed_is_as_with_the_last_slice_twice(function, dtype):
    slices = density(4, 6, 20).to(dtype)
    twice = torch.cat([slices, slices[-1:]])
    assert distance(both(function, slices, closed=True)[0], both(function, twice)[0]) <= 1e-6


def test_the_gradient_is_the_slope_of_the_value():
    slices = density(3, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: variation_plainly(s, 1.0, LAW, True), slices)
