"""Gradients of windows: as plain slicing without the optimiser; with it, Adam on what was touched."""

import copy
import subprocess
import sys

import pytest
import torch

from tiltfield.kernels.window import Adam, WindowAdam, descend, descend_plainly, window

BETAS = (0.9, 0.99)


def table(seed=0):
    return torch.nn.Parameter(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(seed)))


def loss_of(parameter, first=0, count=6, target=1.0):
    return (window(parameter, first, count) - target).square().sum()


def test_without_the_optimiser_a_window_is_a_slice():
    parameter = table()
    loss_of(parameter, 2, 3).backward()
    expected = torch.zeros_like(parameter)
    expected[2:5] = 2 * (parameter[2:5] - 1)
    torch.testing.assert_close(parameter.grad, expected)


def test_touched_at_every_step_it_is_adam():
    ours, theirs = table(), table()
    a = WindowAdam([ours], lr=0.05, betas=BETAS)
    b = torch.optim.Adam([theirs], lr=0.05, betas=BETAS, eps=1e-15)
    for _ in range(20):
        for parameter, optimiser in ((ours, a), (theirs, b)):
            optimiser.zero_grad()
            loss_of(parameter).backward()
            optimiser.step()
    torch.testing.assert_close(ours, theirs)


def test_a_plain_gradient_counts_as_a_window_of_all():
    ours, theirs = table(), table()
    a, b = WindowAdam([ours], lr=0.05), torch.optim.Adam([theirs], lr=0.05, betas=BETAS, eps=1e-15)
    for parameter, optimiser in ((ours, a), (theirs, b)):
        (parameter * 3).sum().backward()
        optimiser.step()
    torch.testing.assert_close(ours, theirs)


def test_each_plane_counts_its_own_steps():
    """Planes touched in turn end where they would if each were optimised alone, by Adam."""
    ours = table()
    optimiser = WindowAdam([ours], lr=0.05, betas=BETAS)
    alone = [torch.nn.Parameter(part.clone()) for part in table().detach().split(2)]
    others = [torch.optim.Adam([part], lr=0.05, betas=BETAS, eps=1e-15) for part in alone]
    for step in range(12):
        k = step % 3
        optimiser.zero_grad()
        others[k].zero_grad()
        loss_of(ours, 2 * k, 2).backward()
        (alone[k] - 1).square().sum().backward()
        optimiser.step()
        others[k].step()
    torch.testing.assert_close(ours, torch.cat(alone))


def test_what_no_step_touches_stays():
    parameter = table()
    before = parameter.detach().clone()
    optimiser = WindowAdam([parameter], lr=0.1)
    loss_of(parameter, 1, 2).backward()
    optimiser.step()
    moved = (parameter != before).any(dim=2).any(dim=1)
    assert moved.tolist() == [False, True, True, False, False, False]
    assert parameter.grad is None


def test_gradients_are_forgotten():
    parameter = table()
    optimiser = WindowAdam([parameter], lr=0.1)
    loss_of(parameter).backward()
    optimiser.zero_grad()
    before = parameter.detach().clone()
    optimiser.step()
    assert torch.equal(parameter, before)


def test_without_gradients_nothing_waits():
    parameter = table()
    WindowAdam([parameter], lr=0.1)
    with torch.no_grad():
        window(parameter, 0, 2)
    assert parameter.windows == []


@pytest.mark.parametrize("steps", [1, 5])
def test_goes_on_from_its_state(steps):
    first, second = table(), table()
    a = WindowAdam([first], lr=0.05)
    for k in range(steps):
        a.zero_grad()
        loss_of(first, k % 4, 3).backward()
        a.step()
    with torch.no_grad():
        second.copy_(first)
    b = WindowAdam([second], lr=0.05)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for parameter, optimiser in ((first, a), (second, b)):
        optimiser.zero_grad()
        loss_of(parameter, 1, 4).backward()
        optimiser.step()
    assert torch.equal(first, second)


def moments_of(shape, dtype):
    return [torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], dtype=dtype)]


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize("shape", [(9, 4, 1300), (7, 3, 5), (6, 1), (5, 17)], ids=str)
def test_in_one_pass_it_is_the_same(shape):
    """Windows move along the table, gradients differ by orders of magnitude, and some are nothing."""
    generator = torch.Generator().manual_seed(0)
    group = {"lr": 0.02, "betas": BETAS, "eps": 1e-15}
    right = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = right.float()
    states = {function: moments_of(shape, t.dtype) for function, t in ((descend, found), (descend_plainly, right))}
    for k in range(40):
        planes = slice(k % 4, k % 4 + 1 + k % 3)
        gradient = torch.randn(right[planes].shape, generator=generator) * 10.0 ** -(k % 7)
        gradient[0] *= k % 5 > 0
        for function, values in ((descend, found), (descend_plainly, right)):
            moments = (moment[planes] for moment in states[function])
            function(values[planes], gradient.to(values.dtype), *moments, group)
    for a, b in zip([found, *states[descend]], [right, *states[descend_plainly]], strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_a_window_of_no_planes_moves_nothing():
    parameter = table()
    before = parameter.detach().clone()
    optimiser = WindowAdam([parameter], lr=0.1)
    (joint,) = optimiser.join()
    assert joint.shape == (0, *parameter.shape[1:])
    optimiser.step()
    assert torch.equal(parameter, before)


def test_windows_join_to_one_around_all():
    whole, parted = table(), table()
    a, b = (WindowAdam([parameter], lr=0.1) for parameter in (whole, parted))
    loss_of(whole, 1, 4).backward()
    (alone,) = a.join()
    assert alone is whole.windows[0][1]
    for first, count in ((3, 2), (1, 1)):
        loss_of(parted, first, count).backward()
    (joint,) = b.join()
    assert parted.windows == [(1, joint)]
    assert len(joint) == 4
    assert not joint[1].any()


def test_called_directly_adam_is_torchs():
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in ((6, 2, 3), (5,), ())] for _ in "ab")
    a, b = Adam(ours, lr=0.05, betas=BETAS), torch.optim.Adam(theirs, lr=0.05, betas=BETAS, eps=1e-15)
    for step in range(20):
        for parameters, optimiser in ((ours, a), (theirs, b)):
            optimiser.zero_grad()
            sum((p * 3 - 1 - step % 3).square().sum() for p in parameters[: 1 + step % 3]).backward()
            optimiser.step()
        if step == 10:
            a.load_state_dict(copy.deepcopy(a.state_dict()))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [Adam, WindowAdam])
def test_what_has_moved_says_so(kind):
    """Whoever keeps what follows from a parameter looks at its version."""
    parameters = [table(), table()]
    optimiser = kind(parameters, lr=0.1)
    versions = [p._version for p in parameters]
    loss_of(parameters[0]).backward()
    optimiser.step()
    assert parameters[0]._version > versions[0]
    assert parameters[1]._version == versions[1]


WITHOUT_COMPILER = """
import sys, torch
from tiltfield.kernels.window import Adam, WindowAdam
for kind in (Adam, WindowAdam):
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimiser = kind([parameter], lr=0.1)
    optimiser.zero_grad()
    parameter.square().sum().backward()
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
    assert (parameter < 1).all()
sys.exit("torch._dynamo" in sys.modules)
"""


def test_torchs_compiler_stays_away():
    """It takes longer to import than a small fit."""
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True)
