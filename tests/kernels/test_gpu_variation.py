"""The variation's kernel is the plain one: value and gradient, whatever the shape."""

import math

import pytest
import torch
from test_variation import LAW, PLAIN, both, density, distance

pytest.importorskip("triton", reason="needs Triton, for Linux: pip install 'tiltfield[gpu]'")

from tiltfield.kernels import gpu_variation
from tiltfield.kernels.variation import Law, variation, variation_plainly

SHAPES = [(4, 9, 33), (2, 1, 1), (1, 5, 6), (2, 3, 1), (3, 1, 47), (1, 1, 1), (2, 7, 128), (2, 8, 129)]


@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_are_those_of_the_plain_one(shape, closed, law, dispatched):
    value, gradient = both(variation, density(*shape).to(dispatched), closed=closed, law=law)
    right, slope = both(variation_plainly, density(*shape).double(), closed=closed, law=law)
    assert distance(value, right) <= 1e-6
    assert distance(gradient, slope) <= 1e-5


@pytest.mark.parametrize("scale", [1e-3, 0.02, 50.0])
def test_only_the_density_over_its_scale_counts(scale, dispatched):
    value, gradient = both(variation, density(3, 20, 30, scale=scale).to(dispatched), scale)
    right, slope = both(variation_plainly, density(3, 20, 30).double())
    assert distance(value, right) <= 1e-6
    assert distance(gradient * scale, slope) <= 2e-5  # a density beside the dense ones may fall on either side


@pytest.mark.parametrize("edge", [1e-6, 0.01, 0.3, 1.0, 1e3, 1e6, math.inf])
@pytest.mark.parametrize("height", [0.02, 1.0, 2.9, 1e3])
def test_the_logarithm_holds_for_any_height_and_edge(height, edge, dispatched):
    """The step from the vacuum to one voxel and back: nothing averages out."""
    law, slices = Law(0.005, edge, 3.0, 0.0), torch.full((1, 1, 1), height)
    right = both(variation_plainly, slices.double(), law=law)[0]
    assert distance(both(variation, slices.to(dispatched), law=law)[0], right) <= 1e-6


def test_two_runs_are_one(dispatched):
    runs = [both(variation, density(2, 9, 130).to(dispatched)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("law", [LAW, PLAIN], ids=["bending", "plain"])
def test_what_is_not_finite_is_told(law, dispatched):
    slices = density(2, 4, 20)
    slices[1, 2, 5] = math.nan
    assert math.isnan(both(variation, slices.to(dispatched), law=law)[0])


def test_strides_do_not_matter(dispatched):
    slices = density(3, 7, 2).to(dispatched)
    value, gradient = both(variation, slices.transpose(0, 2))
    other, slope = both(variation, slices.transpose(0, 2).contiguous())
    assert torch.equal(value, other)
    assert torch.equal(gradient, slope)


def test_the_kernel_is_taken_where_it_is_of_use(dispatched, monkeypatch):
    calls, kernel = [], gpu_variation.variation_and_gradient
    monkeypatch.setattr(
        gpu_variation, "variation_and_gradient", lambda *given: (calls.append(len(given[0])), kernel(*given))[1]
    )
    slices = density(3, 5, 6).to(dispatched)
    both(variation, slices)
    both(variation, slices, law=PLAIN)
    assert calls == [3, 3]
    both(variation, slices.double())
    variation(slices[:0], 1.0, LAW, True)
    assert calls == [3, 3]
