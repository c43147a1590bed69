"""Pictures of stacks: what is binned, what a byte stands for, and that a budget is kept."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tiltfield.report.atlas import BLOCK, QUALITIES, atlas, shrink, to_bytes


def images_of(made):
    """The images of an atlas, cut out of its pages as the page's script does."""
    found, each = [], made["across"] * made["down"]
    for page, text in enumerate(made["pages"]):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        for i in range(min(each, made["n"] - page * each)):
            top, left = (i // made["across"]) * made["cell"][0], (i % made["across"]) * made["cell"][1]
            found.append(picture[top : top + made["rows"], left : left + made["cols"]])
    return np.stack(found)


@pytest.mark.parametrize("shape", [(5, 24, 20), (1, 7, 33), (70, 250, 250), (300, 8, 8), (3, 256, 256)])
def test_every_image_comes_back_from_its_page(shape):
    stack = gaussian_filter(np.random.default_rng(0).random(shape), (0, 2, 2)).astype(np.float32)
    made = atlas(stack, float(stack.min()), float(stack.max()), 10_000_000)
    back = images_of(made)
    assert back.shape == shape
    assert np.abs(back.astype(int) - to_bytes(stack, made["low"], made["high"], root=False)).mean() < 1.5
    assert all(edge % BLOCK == 0 for edge in made["cell"])


def test_images_do_not_bleed_into_each_other():
    stack = np.zeros((4, 21, 21), np.float32)
    stack[1::2] = 1
    back = images_of(atlas(stack, 0, 1, 10_000_000))
    assert (back[::2] == 0).all()
    assert (back[1::2] == 255).all()


def test_the_square_root_keeps_the_dark_parts_apart():
    values = np.array([-1, 0, 1, 4, 9, 16, 20], np.float32)
    assert to_bytes(values, 0, 16, root=True).tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert to_bytes(values, 0, 16, root=False).tolist() == [0, 0, 16, 64, 143, 255, 255]
    assert to_bytes(np.array([np.nan]), 0, 1, root=True).tolist() == [0]


def test_smaller_budgets_cost_quality_and_are_kept():
    stack = gaussian_filter(np.random.default_rng(0).random((40, 128, 128)), 1).astype(np.float32)
    low, high = float(stack.min()), float(stack.max())
    rich, poor = (atlas(stack, low, high, budget) for budget in (10_000_000, 150_000))
    assert rich["quality"] == max(QUALITIES) > poor["quality"] > min(QUALITIES)
    assert sum(map(len, poor["pages"])) <= 150_000 * 4 / 3 + 10


def test_binning_keeps_the_mean_and_leaves_small_stacks_alone():
    stack = np.random.default_rng(0).random((6, 600, 300)).astype(np.float32)
    binned, n = shrink(stack, (1, 2))
    assert (binned.shape, n) == ((6, 200, 100), 3)
    np.testing.assert_allclose(binned[2, 5, 7], stack[2, 15:18, 21:24].mean(), rtol=1e-5)
    same, n = shrink(stack[:, :256, :256], (1, 2))
    assert n == 1
    assert np.shares_memory(same, stack)


def test_a_thin_axis_is_binned_to_one_and_a_rest_left_out():
    binned, n = shrink(np.arange(3 * 1030, dtype=np.float32).reshape(3, 1, 1030), (0, 1, 2))
    assert (binned.shape, n) == ((1, 1, 206), 5)
