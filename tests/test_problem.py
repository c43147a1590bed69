"""Which pixels are held out, and what a block of rows is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tiltfield.fields.base import Box
from tiltfield.problem import GUARD, HELD_OUT, RUN, SHARE, Problem, fits, held_out_pixels, hold_out_again, placed

SHAPE = (60, 41, 100)
every_scan = pytest.mark.parametrize("scan", [0, 1, 2, -1])


def problem(shape=SHAPE, invalid=0.0, scan=None):
    """A problem in which every valid pixel is in the loss or held out; its projector is not asked."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.rand(shape, generator=generator) >= invalid
    held, near = held_out_pixels(shape, scan, seed=0)
    observed = torch.randn(shape, generator=generator)
    projector = nn.Identity()
    return Problem(observed, valid & ~held & ~near, valid & held, projector, Box(16, shape[0], shape[2]), 0.1, 2)


def lines(mask, axis):
    """As booleans of numpy, the axis last, all others flat."""
    return mask.movedim(axis, -1).flatten(0, -2).numpy()


def runs(line):
    """Lengths of the runs of True, and whether each touches an end of the line."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    return [
        (stop - start, start == 0 or stop == len(line)) for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def test_independent_pixels_are_held_out_one_by_one():
    held, near = held_out_pixels(SHAPE, None, seed=5)
    expected = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) < HELD_OUT
    assert torch.equal(held, expected)
    assert not near.any()
    assert held.float().mean().item() == pytest.approx(HELD_OUT, abs=5 * np.sqrt(HELD_OUT / held.numel()))


@every_scan
def test_the_share_in_runs_is_that_held_out(scan):
    shares = []
    for seed in range(4):
        held, near = held_out_pixels(SHAPE, scan, seed)
        assert held.shape == near.shape == SHAPE
        assert held.is_contiguous()
        assert near.is_contiguous()
        assert not (held & near).any()
        shares.append(held.float().mean().item())
    # of the starts within RUN places before a pixel none may lie; in the first places of a line there are fewer
    length = SHAPE[scan]
    ahead = np.minimum(np.arange(length) + 1, RUN)
    expected = (1 - (1 - HELD_OUT / RUN) ** ahead).mean()
    error = 5 * np.sqrt(RUN * HELD_OUT / (4 * np.prod(SHAPE)))
    assert np.mean(shares) == pytest.approx(expected, abs=error)
    assert np.mean(shares) == pytest.approx(HELD_OUT, rel=0.12)


@every_scan
def test_whole_runs_are_held_out_along_the_scan(scan):
    held, _ = held_out_pixels(SHAPE, scan, seed=2)
    found = [run for line in lines(held, scan) for run in runs(line)]
    assert all(length >= RUN or at_end for length, at_end in found)
    assert min(length for length, _ in found) < RUN  # at the ends of lines they are cut short
    lengths = [length for length, at_end in found if not at_end]
    assert np.mean(np.array(lengths) == RUN) > 0.85  # few meet


@every_scan
def test_across_the_scan_pixels_are_independent(scan):
    held, _ = held_out_pixels(SHAPE, scan, seed=3)
    for axis in range(3):
        line = lines(held, axis).astype(float) - held.float().mean().item()
        neighbours = (line[:, 1:] * line[:, :-1]).mean() / (line**2).mean()
        expected = 1 - 1 / RUN if axis == scan % 3 else 0
        assert neighbours == pytest.approx(expected, abs=0.03)


def nearest_apart(used, held, axis):
    """Smallest distance along the axis from a held pixel to one in the loss."""
    smallest = 10**6
    for in_loss, out in zip(lines(used, axis), lines(held, axis), strict=True):
        first, second = np.flatnonzero(in_loss), np.flatnonzero(out)
        if len(first) and len(second):
            smallest = min(smallest, int(np.abs(first[:, None] - second[None]).min()))
    return smallest


@every_scan
@pytest.mark.parametrize("invalid", [0.0, 0.3])
def test_along_the_scan_held_out_pixels_keep_away_from_the_loss(scan, invalid):
    p = problem(invalid=invalid, scan=scan)
    assert not (p.used & p.held).any()
    assert nearest_apart(p.used, p.held, scan) == GUARD + 1
    assert nearest_apart(p.used, p.held, (scan + 1) % 3) == 1  # the check sees what is near, across the scan


def test_the_pixels_left_out_besides_are_the_guards_alone():
    held, near = held_out_pixels(SHAPE, 2, seed=4)
    for out, guard in zip(lines(held, 2), lines(near, 2), strict=True):
        apart = np.abs(np.arange(len(out))[:, None] - np.flatnonzero(out)[None])
        within = apart.min(axis=1) <= GUARD if apart.size else np.zeros(len(out), bool)
        # a run that begins beyond the line's end has no pixel in it, and so no guard
        np.testing.assert_array_equal(guard, within & ~out)


def test_in_a_line_shorter_than_a_run_all_behind_a_start_is_held_out():
    held, near = held_out_pixels((2000, 1, 5), 2, seed=0)
    for out, guard in zip(lines(held, 2), lines(near, 2), strict=True):
        if out.any():
            first = int(np.argmax(out))
            assert out[first:].all()
            assert guard[max(0, first - GUARD) : first].all()


@pytest.mark.parametrize("scan", [None, 0, 2])
def test_one_seed_is_one_draw(scan):
    first, same, other = (held_out_pixels(SHAPE, scan, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("scan", [None, 0, 2])
def test_held_out_again_is_as_if_held_out_so_at_first(scan):
    first = problem(invalid=0.2)
    valid = first.used | first.held
    again = hold_out_again(first, scan, seed=9)
    held, near = held_out_pixels(SHAPE, scan, seed=9)
    assert torch.equal(again.held, valid & held)
    assert torch.equal(again.used, valid & ~held & ~near)
    assert again.observed is first.observed
    assert (again.box, again.scale, again.margin) == (first.box, first.scale, first.margin)
    assert torch.equal(first.used | first.held, valid)  # the first stays as it was


def test_labels_tell_the_kinds_of_pixels_apart():
    p = problem(invalid=0.2, scan=2)
    assert p.labels.dtype == torch.int8
    assert torch.equal(p.labels == 1, p.used)
    assert torch.equal(p.labels == 2, p.held)
    assert torch.equal(p.labels == 0, ~(p.used | p.held))
    assert set(p.labels.unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("start", "stop", "n"), [(0, 60, 60), (0, 7, 7), (7, 14, 7), (56, 63, 4), (59, 60, 1), (0, 999, 60)]
)
def test_a_block_of_rows_ends_with_the_rows(start, stop, n):
    p = problem()
    block = p.rows(start, stop)
    assert block.box == Box(16, n, 100)
    for name in ("observed", "used", "held", "labels"):
        assert torch.equal(getattr(block, name), getattr(p, name)[start : start + n])
    assert (block.scale, block.margin) == (p.scale, p.margin)
    assert block.projector is p.projector


def test_blocks_make_up_the_whole():
    p = problem()
    blocks = [p.rows(start, start + 8) for start in range(0, 60, 8)]
    assert torch.equal(torch.cat([b.observed for b in blocks]), p.observed)
    assert sum(b.box.n_y for b in blocks) == p.box.n_y


@pytest.mark.parametrize(("needed", "free", "kept"), [(0, 0, True), (25, 100, True), (26, 100, False), (1, 0, False)])
def test_images_are_kept_on_a_gpu_if_they_take_a_quarter_of_its_memory_at_most(needed, free, kept):
    assert SHARE == 0.25
    assert fits(needed, free) is kept


@pytest.mark.parametrize(("free", "unused", "kept"), [(400, 0, True), (399, 0, False), (300, 100, True)])
def test_images_are_placed_by_what_a_gpu_has_free(free, unused, kept, monkeypatch):
    """Bytes that torch holds and nobody uses are free too."""
    gpu, moved, locked = torch.device("cuda", 0), [], []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50 + unused)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: (moved.append(device), self)[1])
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (locked.append(self.nbytes), self)[1])
    images = [torch.zeros(20), torch.zeros(20, dtype=torch.bool)]  # 100 bytes
    placed(images, gpu)
    assert (moved, locked) == (([gpu] * 2, []) if kept else ([], [80, 20]))


def test_on_the_processor_images_stay_what_they_are():
    images = [torch.zeros(3), torch.ones(2)]
    assert all(a is b for a, b in zip(placed(images, torch.device("cpu")), images, strict=True))


def test_rows_are_moved_to_the_device_and_no_others():
    far = torch.device("meta")  # has no data: whatever is not moved would show
    p = replace(problem(), device=far)
    block = p.rows(56, 63)
    for name in ("observed", "used", "held", "labels"):
        assert getattr(p, name).device.type == "cpu"
        assert getattr(block, name).device == far
        assert getattr(block, name).shape == (4, *SHAPE[1:])
    assert block.rows(1, 2).observed.shape == (1, *SHAPE[1:])
    assert p.here(p.observed[:2]).device == far


def test_masks_drawn_anew_stay_page_locked_if_they_were(monkeypatch):
    locked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (locked.append(self.dtype), self)[1])
    plainly = hold_out_again(problem(), 2, seed=3)
    assert locked == []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    again = hold_out_again(problem(), 2, seed=3)
    assert locked == [torch.bool] * 2
    assert torch.equal(again.labels, plainly.labels)
