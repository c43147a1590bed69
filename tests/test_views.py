"""Projections in random directions: closed forms, symmetry, and the directions themselves."""

import math

import numpy as np
import pytest
import torch

from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.series import Volume
from tiltfield.views import compare_views, random_rotations, random_views, view


def radius(n):
    """Distance from the centre of a cube [-1, 1]³ of n³ voxels."""
    axis = (np.arange(n) + 0.5) * 2 / n - 1
    return np.sqrt(sum(c**2 for c in np.meshgrid(axis, axis, axis, indexing="ij")))


def blob(n=32):
    return np.exp(-((radius(n) / 0.25) ** 2)).astype(np.float32)


@pytest.fixture
def rough():
    return np.random.default_rng(0).random((14, 12, 12), np.float32)


def test_equal_volumes_have_no_error(rough):
    figures = compare_views(rough, rough, 3)
    assert figures["mse_views"] == 0
    assert figures["psnr_views_db"] == math.inf
    assert figures["dssim_views"] == pytest.approx(0, abs=1e-6)


def test_scale_and_shift_of_a_volume_do_not_matter(rough):
    assert compare_views(5 * rough - 3, rough, 3)["mse_views"] < 1e-10


def test_a_round_blob_looks_the_same_from_everywhere():
    views = random_views(blob(), 5)
    assert np.ptp(views, axis=0).max() < 0.01
    assert np.ptp(views[0]) > 0.5


def test_a_ball_is_seen_as_the_closed_form_says():
    n, edge = 96, 0.6
    ball = np.clip((edge - radius(n)) * n / 2 + 0.5, 0, 1).astype(np.float32)  # soft over a voxel
    axis = (np.arange(n) + 0.5) * 2 / n - 1
    chord = 2 * np.sqrt(np.clip(edge**2 - axis[:, None] ** 2 - axis**2, 0, None))
    for image in random_views(ball, 2, seed=1):
        assert np.abs(-np.log(image) / 7 - chord).mean() < 0.25 * 2 / n  # a quarter of a voxel
        assert np.abs(image - np.exp(-7 * chord)).mean() < 6e-3  # at the rim, where voxels show
        assert image[n // 2, n // 2] == pytest.approx(math.exp(-14 * edge), rel=0.05)


def test_without_a_turn_the_view_is_the_sum_along_z(rough):
    cube = rough[1:13]
    image = view(torch.from_numpy(cube), np.eye(3)).numpy()
    np.testing.assert_allclose(image, np.exp(-7 * 2 / 12 * cube.sum(axis=0)), rtol=1e-4)


def test_a_quarter_turn_is_the_sum_along_another_axis(rough):
    """The view's z is the volume's y, and its y the volume's -z."""
    cube = rough[1:13]
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    image = view(torch.from_numpy(cube), turn).numpy()
    np.testing.assert_allclose(image, np.exp(-7 * 2 / 12 * cube.sum(axis=1)[::-1]), rtol=1e-4)


def test_a_flat_volume_lies_in_the_middle_of_its_cube(rough):
    flat = rough[:4]
    padded = np.zeros((12, 12, 12), np.float32)
    padded[4:8] = flat
    for rotation in random_rotations(3, 0):
        seen = [view(torch.from_numpy(v), rotation).numpy() for v in (flat, padded)]
        np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


def test_images_need_no_scaling(rough):
    views = random_views(rough, 4)
    assert views.shape == (4, 14, 14)
    assert views.dtype == np.float32
    assert 0 <= views.min() < views.max() <= 1


def test_directions_are_seeded(rough):
    assert np.array_equal(random_views(rough, 3, 1), random_views(rough, 3, 1))
    assert not np.array_equal(random_views(rough, 3, 1), random_views(rough, 3, 2))


def test_rotations_are_uniform():
    turns = random_rotations(4000, 0)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    np.testing.assert_allclose(turns.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose((turns**2).mean(axis=0), 1 / 3, atol=0.03)


def test_psnr_is_the_mean_over_views(rough):
    other = np.random.default_rng(1).random(rough.shape, np.float32)
    pairs = zip(random_views(other, 3), random_views(rough, 3), strict=True)
    errors = [float(np.mean((a - b) ** 2)) for a, b in pairs]
    figures = compare_views(other, rough, 3)
    assert figures["mse_views"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert figures["psnr_views_db"] == pytest.approx(np.mean([-10 * math.log10(e) for e in errors]), rel=1e-5)


def test_evaluate_adds_them_on_demand(rough):
    truth, volume = Volume(rough), Volume(np.sqrt(rough[1:13]))
    names = {"psnr_views_db", "mse_views", "dssim_views"}
    assert not names & set(evaluate(volume, truth))
    figures = evaluate(volume, truth, views=2)
    padded = np.pad(volume.data, ((1, 1), (0, 0), (0, 0)))
    assert {name: figures[name] for name in names} == compare_views(padded, rough, 2)


def test_what_cannot_be_seen_is_refused(rough):
    with pytest.raises(InputError, match="one shape"):
        compare_views(rough[1:], rough)
    with pytest.raises(InputError, match="at least one view"):
        random_views(rough, 0)
    with pytest.raises(InputError, match="0 for none, got -1"):
        evaluate(Volume(rough), Volume(rough), views=-1)


def test_the_command_takes_views(tiltfield, rough, tmp_path):
    path = Volume(rough).save(tmp_path / "v.mrc")
    out = tiltfield("evaluate", path, "--truth", path, "--views", "2")[1]
    assert "dssim_views" in out
