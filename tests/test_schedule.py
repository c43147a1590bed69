"""How many slices a step takes, where it computes."""

import pytest

from tiltfield.config import ReconstructConfig
from tiltfield.fields.base import Box
from tiltfield.schedule import FEWEST_STEPS, LEAST_STEPS, MOST_STEPS, PASSES, block_size, schedule_for


@pytest.mark.parametrize(("n", "cpu", "gpu"), [(64, 12, 12), (96, 5, 5), (256, 2, 4), (512, 2, 8), (1000, 2, 16)])
def test_slices_a_step(n, cpu, gpu):
    box = Box(n, n, n)
    assert block_size(box, "hashgrid") == cpu
    assert block_size(box, "hashgrid", on_gpu=True) == gpu


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("n", [8, 64, 256, 1000])
@pytest.mark.parametrize("preset", list(PASSES))
def test_a_fit_has_the_passes_of_its_preset_and_steps_enough(preset, n, on_gpu):
    schedule = schedule_for(Box(n, n, n), ReconstructConfig(preset=preset), 1.0, on_gpu=on_gpu)
    assert schedule.passes >= PASSES[preset]
    assert schedule.steps(n) >= max(PASSES[preset] * LEAST_STEPS, FEWEST_STEPS)
    if on_gpu:
        assert schedule.steps(n) <= schedule.passes * max(MOST_STEPS, n / 16 + 1)


def test_half_a_step_is_the_smallest_that_makes_sense():
    schedule = schedule_for(Box(64, 64, 64), ReconstructConfig(), 1.0)
    assert schedule.smaller().block == schedule.block // 2
    assert schedule.smaller().smaller().smaller() is None
