"""One step's descent: what it asks of the device, and that it takes no step that would lose the parameters."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import test_rays
from test_fit import SCHEDULE, make_problem, make_state, parameters, same
from tiltfield.fit import step
from tiltfield.rays import ray_step
from tiltfield.rendering import slices_of


class Looks(TorchDispatchMode):
    """Counts how often a single number is read, for which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_single_number_but_all_its_figures_at_once():
    problem = make_problem()
    state = make_state(problem)
    state.queue = [0, 3]
    with Looks() as field:  # asks where its points lie
        slices_of(state.field, problem.box, slice(3, 6))
    with Looks() as looks:
        figures = step(problem, state, SCHEDULE, 0.3)
    assert looks.count == field.count
    assert all(isinstance(value, float) for value in figures.values())


def test_the_loss_of_many_parts_is_their_sum():
    state = make_state(make_problem())
    values = next(state.field.parameters())
    parts = [values.square().mean(), values.abs().sum(), values.mean()]
    expected = [sum(p.item() for p in parts), parts[1].item()]
    assert state.descend(iter(parts), 1.0, [parts[1]]) == expected


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_optimiser_steps_where_the_loss_is_no_number(bad):
    state = make_state(make_problem(), noise="flow", field="hashgrid")
    before = parameters(state)
    values = next(state.field.parameters())
    (loss,) = state.descend([values.sum(), bad * values.sum()], 1.0)
    assert not torch.isfinite(torch.tensor(loss))
    assert state.step == 1
    assert same(before, parameters(state))


def test_nor_in_a_step_by_rays():
    problem = test_rays.make_problem()
    problem.observed[:] = torch.nan
    state = test_rays.make_state(test_rays.guided())
    before = parameters(state)
    figures = ray_step(problem, state, test_rays.SCHEDULE, 0.0)
    assert torch.tensor(figures["loss"]).isnan()
    assert same(before, parameters(state))


def test_the_held_out_pixels_of_a_pass_add_up_and_are_saved():
    state, again = (make_state(make_problem()) for _ in range(2))
    state.judge(torch.tensor([1.0, -3.0]))
    state.judge(torch.tensor([0.5]))
    again.load_state_dict(state.state_dict())
    for each in (state, again):
        assert (float(each.held_sum), float(each.held_square), each.held_count) == (1.5, 10.25, 3)
    state.judge(torch.tensor([1.0]))
    assert again.held_sum == 1.5
