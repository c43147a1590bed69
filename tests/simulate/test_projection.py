"""The simulator's projector: closed forms, numbers worked by hand, threads and files that do not show."""

import hashlib
import math

import numpy as np
import pytest

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.io.slabs import in_slabs
from tiltfield.simulate import acquisition, projection, sections, simulate
from tiltfield.simulate.projection import footprint_matrix, halve
from tiltfield.simulate.sections import Sections

# mean and deviation of the clean and of the noisy images of the simple cell of seed 0, size 32
FIGURES = [0.22495870, 0.17796901, 0.22498430, 0.21440405]
PAPER = {"size": 24, "cell": "paper", "tilts": "-60:60:20"}


def centred(n):
    return np.arange(n) - (n - 1) / 2


@pytest.mark.parametrize("degrees", [-70.0, -30.0, 0.0, 12.5, 45.0, 60.0, 89.0])
def test_a_blob_projects_to_its_closed_form(degrees):
    n_z, n_x, n_u, theta = 60, 64, 63, math.radians(degrees)
    z, x, u = centred(n_z), centred(n_x), centred(n_u)
    z0, x0, sigma = 7.0, -4.0, 4.0
    blob = np.exp(-((z[:, None] - z0) ** 2 + (x[None, :] - x0) ** 2) / (2 * sigma**2))
    u0 = x0 * math.cos(theta) + z0 * math.sin(theta)
    expected = sigma * math.sqrt(2 * math.pi) * np.exp(-((u - u0) ** 2) / (2 * sigma**2))
    got = footprint_matrix(z, x, n_u, theta) @ blob.ravel()
    np.testing.assert_allclose(got, expected, atol=0.01 * expected.max())


def test_one_voxel_by_hand():
    # at 45° the footprint is a triangle of half width 1/√2 and area 1; the bins of unit width about its middle
    # hold 1 - (√½ - ½)² and half the rest each
    row = footprint_matrix(np.zeros(1), np.zeros(1), 3, math.pi / 4).toarray().ravel()
    side = (math.sqrt(0.5) - 0.5) ** 2
    np.testing.assert_allclose(row, [side, 1 - 2 * side, side], atol=1e-6)


def test_untilted_projection_sums_along_z():
    slab = np.random.default_rng(1).random((5, 8))
    matrix = footprint_matrix(centred(5), centred(8), 8, 0.0)
    np.testing.assert_allclose(matrix @ slab.ravel(), slab.sum(axis=0), rtol=1e-5)


def test_mass_is_conserved_over_tilts():
    slab = np.random.default_rng(2).random((11, 14)).ravel()
    sums = [(footprint_matrix(centred(11), centred(14), 30, t) @ slab).sum() for t in np.linspace(-1.5, 1.5, 13)]
    np.testing.assert_allclose(sums, slab.sum(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 10), (4, 6, 10), (2, 16, 34)])
def test_halving_takes_means_of_blocks(shape):
    fine = np.random.default_rng(3).random(shape, dtype=np.float32)
    axes = [m for size in shape for m in (size // 2, 2)]
    expected = fine.reshape(axes).mean(axis=tuple(range(1, 2 * len(shape), 2)), dtype=np.float64)
    np.testing.assert_allclose(halve(fine), expected, rtol=1e-6)


@pytest.mark.parametrize("settings", [PAPER, {"size": 24, "tilts": "-60:60:20", "wide": True, "defocus": "paper"}])
def test_the_number_of_threads_does_not_show(settings, monkeypatch):
    made = []
    for count in (1, 3):
        monkeypatch.setattr(projection, "shared_by", lambda count=count: count)
        monkeypatch.setattr(acquisition, "shared_by", lambda count=count: count)
        made.append(simulate(SimulateConfig(**settings)))
    for name in ("truth", "inside", "clean", "noisy"):
        assert getattr(made[0], name).tobytes() == getattr(made[1], name).tobytes()


def test_a_volume_in_a_file_is_the_same_and_goes_with_it(tmp_path, monkeypatch):
    expected = simulate(SimulateConfig(**PAPER))
    monkeypatch.setattr(sections, "IN_MEMORY", 0)
    monkeypatch.setattr("tiltfield.io.slabs.SLAB", 5000)
    scratch = tmp_path / "new" / "scratch"
    sim = simulate(SimulateConfig(**PAPER), scratch=scratch)
    assert isinstance(sim.truth, np.memmap)
    assert len(list(scratch.iterdir())) == 2
    for name in ("truth", "inside", "clean", "noisy"):
        np.testing.assert_array_equal(getattr(sim, name), getattr(expected, name))
    mapped, plain = sim.save(tmp_path / "mapped"), expected.save(tmp_path / "plain")
    for path in plain.iterdir():
        assert (mapped / path.name).read_bytes() == path.read_bytes()
    del sim
    assert list(scratch.iterdir()) == []


def test_stopping_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "IN_MEMORY", 0)

    def stop(stage, done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SimulateConfig(**PAPER), stop, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "IN_MEMORY", 0)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot make a file"):
        Sections((2, 3, 4), np.float32, tmp_path / "taken")


@pytest.mark.parametrize("limit", [0, 2**20])
def test_planes_that_are_not_written_are_zero(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "IN_MEMORY", limit)
    store = Sections((3, 2, 4), np.float32, tmp_path)
    store.write(1, np.arange(8, dtype=np.float32).reshape(4, 2).T)
    expected = np.zeros((3, 2, 4))
    expected[1] = np.arange(8).reshape(4, 2).T
    volume = store.array()
    for part, whole in ((volume, expected), (volume[1:], expected[1:])):
        np.testing.assert_array_equal(part, whole)
        np.testing.assert_array_equal(np.concatenate(list(in_slabs(part))), whole)


def test_the_simple_cell_stays_what_it_was():
    """Benchmarks compare with figures measured on it. Images may differ in the last bits between processors."""
    sim = simulate(SimulateConfig(size=32, seed=0))
    assert hashlib.sha256(sim.truth.tobytes()).hexdigest().startswith("48df7a70747036a3")
    assert hashlib.sha256(sim.inside.tobytes()).hexdigest().startswith("eb8be026e9ffbb4c")
    figures = [f(images.astype(np.float64)) for images in (sim.clean, sim.noisy) for f in (np.mean, np.std)]
    np.testing.assert_allclose(figures, FIGURES, rtol=1e-5)


@pytest.mark.slow
def test_a_large_cell_takes_minutes_and_little_memory(tmp_path):
    """512³, 67 tilts: 3 minutes on two cores, and 2 GiB over what the process has before it starts."""
    import resource
    import time

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    simulate(SimulateConfig(size=512, cell="paper"), scratch=tmp_path).save(tmp_path / "out")
    assert time.perf_counter() - start < 180
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 2
