"""The features of a block of slices are those of plain interpolation, level by level: values and gradients."""

import pytest
import torch

from tiltfield.fields.base import linear_weights
from tiltfield.kernels import native
from tiltfield.kernels.interpolation import Places, between, interpolate, interpolate_plainly

F32, F64 = torch.float32, torch.float64
compiled = pytest.mark.skipif(bool(native.obstacle()), reason=native.obstacle() or "no reason")
both = pytest.mark.parametrize("dtype", [F64, pytest.param(F32, marks=compiled)], ids=["torch", "native"])
CLOSE = {F64: 1e-14, F32: 2e-6}  # of the greatest value


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def exact(position):
    """The same rounded to what float32 holds too."""
    return (position * 1024).round() / 1024


def shuffled(position):
    return position[torch.randperm(len(position), generator=seeded(4))]


def in_step(position, first=0):
    """Pixel k between nodes first + k and first + k + 1, the ends at nodes if they are the first and the last."""
    share = exact(torch.rand(len(position), generator=seeded(3), dtype=F64))
    share[0], share[-1] = float(first == 0), 0.0
    return first + torch.arange(len(position)) + share


def levels(sizes, pixels=(3, 7, 5), features=2, along=None):
    """Random tables of levels with so many planes, nodes along z, and along x, and places of pixels (last: `along`)."""
    generator = seeded(0)
    shapes = [(planes, features, nodes_z * nodes_x) for planes, nodes_z, nodes_x in sizes]
    tables = [torch.randn(shape, generator=generator, dtype=F64).requires_grad_() for shape in shapes]
    axes = []
    for n, nodes, name in zip(pixels, zip(*sizes, strict=True), "yzx", strict=True):
        position = [exact(torch.rand(n, generator=generator, dtype=F64).sort().values * (m - 1)) for m in nodes]
        position[-1] = (along or {}).get(name, torch.clone)(position[-1])
        axes.append(between(torch.stack(position), nodes))
    return tables, Places(*axes)


def as_type(places, dtype):
    return Places(*(between((a.low + a.after).to(dtype), a.nodes) for a in (places.y, places.z, places.x)))


def differences(tables, places, dtype, given=None):
    """How far features and gradients are from the plain ones in float64, in parts of the greatest value."""
    plain = interpolate_plainly(tables, places)
    given = torch.randn(plain.shape, generator=seeded(1), dtype=F64) if given is None else given
    right = [plain, *torch.autograd.grad(plain, tables, given)]
    copies = [table.detach().to(dtype).requires_grad_() for table in tables]
    fast = interpolate(copies, as_type(places, dtype))
    assert fast.shape == plain.shape
    found = [fast, *torch.autograd.grad(fast, copies, given.to(dtype))]
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, right, strict=True)]


@both
@pytest.mark.parametrize("along", [{}, {"z": in_step}, {"x": in_step}, {"z": in_step, "x": in_step}], ids=str)
@pytest.mark.parametrize("sizes", [[(2, 8, 6)], [(4, 3, 9), (2, 8, 6)], [(2, 2, 3), (3, 7, 5), (4, 8, 6)]], ids=str)
def test_values_and_gradients_are_those_of_the_plain_way(sizes, along, dtype):
    assert max(differences(*levels(sizes, along=along), dtype)) < CLOSE[dtype]


@both
@pytest.mark.parametrize("pixels", [(1, 1, 1), (2, 16, 32), (5, 33, 47), (3, 50, 15)], ids=str)
@pytest.mark.parametrize("features", [1, 3, 8])
@pytest.mark.usefixtures("threads")
def test_sizes_of_any_kind(pixels, features, dtype):
    sizes = [(2, 2, 2), (3, 5, 40), (6, 34, 17), (4, 70, 49)]
    assert max(differences(*levels(sizes, pixels, features), dtype)) < CLOSE[dtype]


@both
@pytest.mark.parametrize("axis", ["y", "z", "x"])
def test_pixels_in_any_order(axis, dtype):
    given = levels([(3, 4, 20), (6, 7, 9)], (9, 21, 35), along={axis: shuffled})
    assert max(differences(*given, dtype)) < CLOSE[dtype]


@both
def test_pixels_in_step_with_nodes_behind_the_first(dtype):
    along = dict.fromkeys("zx", lambda position: in_step(position, 2))
    tables, places = levels([(2, 3, 3), (3, 24, 40)], (2, 20, 35), along=along)
    assert places.x.low[1].tolist() == list(range(2, 37))
    assert max(differences(tables, places, dtype)) < CLOSE[dtype]


@compiled
def test_numbers_of_threads_give_the_same_to_the_bit():
    tables, places = levels([(2, 3, 4), (5, 17, 30)], (4, 33, 29), features=1)
    tables = [table.detach().float().requires_grad_() for table in tables]
    given, found, before = torch.randn(2, 4, 33, 29, generator=seeded(1)), [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        features = interpolate(tables, as_type(places, F32))
        found.append([features, *torch.autograd.grad(features, tables, given)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@both
def test_one_node_by_hand(dtype):
    table = torch.arange(8, dtype=dtype).reshape(2, 1, 4)
    y, z, x = (between(torch.tensor([p], dtype=dtype), [2]) for p in ([0.0], [1.0], [0.25, 0.75]))
    torch.testing.assert_close(interpolate([table], Places(y, z, x)), torch.tensor([[[[2.25, 2.75]]]], dtype=dtype))


@both
def test_pixels_between_nodes_by_hand(dtype):
    table = torch.tensor([1.0, 2.0, 4.0, 0, 0, 0, 0, 0, 0, 0, 0, 0], dtype=dtype).reshape(2, 1, 6)
    y, z = (between(torch.zeros(1, 1, dtype=dtype), [2]) for _ in range(2))
    x = between(torch.tensor([[0.25, 1.5]], dtype=dtype), [3])
    torch.testing.assert_close(interpolate([table], Places(y, z, x)), torch.tensor([[[[1.25, 3.0]]]], dtype=dtype))


@both
def test_gradients_that_are_not_contiguous(dtype):
    given = torch.randn(3, 7, 5, 2, generator=seeded(2), dtype=F64).permute(3, 0, 1, 2)
    assert max(differences(*levels([(2, 3, 4)]), dtype, given)) < CLOSE[dtype]


@both
def test_tables_that_are_not_contiguous(dtype):
    tables, places = levels([(3, 4, 5)], features=5)
    turned = tables[0].detach().transpose(0, 1).contiguous().transpose(0, 1).to(dtype)
    torch.testing.assert_close(
        interpolate([turned], as_type(places, dtype)), interpolate_plainly(tables, places).to(dtype)
    )


def test_pixels_lie_between_nodes_that_there_are():
    nodes = [2, 5, 9]
    position = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 1.0, 3.5, 4.0], [1.0, 2.0, 3.0, 8.0]], dtype=F64)
    places = between(position, nodes)
    assert places.low.dtype == torch.int32
    assert places.low.tolist() == [[0, 0, 0, 0], [0, 1, 3, 3], [0, 1, 2, 7]]
    torch.testing.assert_close(places.low + places.after, position)
    assert ((places.after >= 0) & (places.after <= 1)).all()
    for level, n in enumerate(nodes):
        torch.testing.assert_close(places.matrix(level), linear_weights(position[level], n))
