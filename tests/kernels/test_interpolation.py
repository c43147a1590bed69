"""The features of a block of slices are those of plain interpolation, level by level: values and gradients."""

from dataclasses import replace

import pytest
import torch

from tiltfield.fields.base import linear_weights
from tiltfield.kernels.interpolation import Weights, interpolate, interpolate_plainly

F64 = torch.float64


def levels(sizes, pixels=(3, 7, 5), features=2):
    """Random tables and weights of levels with so many planes, nodes along z, and along x."""
    generator = torch.Generator().manual_seed(0)
    tables, weights = [], []
    for planes, nodes_z, nodes_x in sizes:
        nodes = (planes, nodes_z, nodes_x)
        table = torch.randn(planes, features, nodes_z * nodes_x, generator=generator, dtype=F64)
        tables.append(table.requires_grad_())
        places = [torch.rand(n, generator=generator, dtype=F64) * (m - 1) for n, m in zip(pixels, nodes, strict=True)]
        weights.append(Weights(*(linear_weights(p, m) for p, m in zip(places, nodes, strict=True))))
    return tables, weights


def between(weights, axis):
    """The same with pixel k between nodes k and k + 1 along an axis, the ends at nodes."""
    n = len(getattr(weights, axis))
    share = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=F64)
    share[0], share[-1] = 1.0, 0.0
    return replace(weights, **{axis: share})


@pytest.mark.parametrize("axes", ["", "z", "x", "zx"])
@pytest.mark.parametrize("sizes", [[(2, 8, 6)], [(4, 3, 9), (2, 8, 6)], [(2, 2, 3), (3, 7, 5), (4, 8, 6)]], ids=str)
def test_values_and_gradients_are_those_of_the_plain_way(sizes, axes):
    tables, weights = levels(sizes)
    for axis in axes:
        weights[-1] = between(weights[-1], axis)
    fast, plain = interpolate(tables, weights), interpolate_plainly(tables, weights)
    assert fast.shape == (2 * len(sizes), 3, 7, 5)
    torch.testing.assert_close(fast, plain)
    given = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    for a, b in zip(
        torch.autograd.grad((fast * given).sum(), tables),
        torch.autograd.grad((plain * given).sum(), tables),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_one_node_by_hand():
    table = torch.arange(4.0).reshape(1, 1, 4)
    weights = Weights(torch.tensor([[1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(interpolate([table], [weights]), torch.tensor([[[[2.75]]]]))


def test_pixels_between_nodes_by_hand():
    table = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 3)
    weights = Weights(torch.tensor([[1.0]]), torch.tensor([[1.0]]), torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(interpolate([table], [weights]), torch.tensor([[[[1.25, 3.0]]]]))


def test_gradients_that_are_not_contiguous():
    tables, weights = levels([(2, 3, 4)])
    given = torch.randn(3, 7, 5, 2, generator=torch.Generator().manual_seed(2), dtype=F64).permute(3, 0, 1, 2)
    (fast,) = torch.autograd.grad(interpolate(tables, weights), tables, given)
    (plain,) = torch.autograd.grad(interpolate_plainly(tables, weights), tables, given)
    torch.testing.assert_close(fast, plain)
