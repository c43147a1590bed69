"""The synthetic microscope: its images against the truth, seeds, files."""

import io
import math

import mrcfile
import numpy as np
import pytest
import yaml

import tiltfield
from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.simulate import acquisition, projection, simulate

SMALL = {"size": 24, "tilts": "-60:60:10"}


def centred(n):
    return np.arange(n) - (n - 1) / 2


@pytest.fixture(scope="module")
def cell():
    return simulate(SimulateConfig(**SMALL))


@pytest.fixture(scope="module")
def wide():
    return simulate(SimulateConfig(**SMALL, wide=True))


def test_untilted_haadf_is_the_sum_of_the_truth():
    sim = simulate(SimulateConfig(**SMALL, mode="haadf", noise="none"))
    depth = sim.truth.sum(axis=0) * 7 * 2 / 24
    np.testing.assert_allclose((sim.clean[6] - sim.offset) / sim.gain, depth, rtol=1e-4, atol=1e-4)


def test_bright_field_darkens_what_is_dense(cell):
    depth = cell.truth.sum(axis=0) * 7 * 2 / 24
    # binning averages intensities, not depths, so this holds but roughly
    np.testing.assert_allclose((cell.clean[6] - cell.offset) / cell.gain, np.exp(-depth), atol=0.06)


def test_images_follow_the_sign_convention():
    sim = simulate(SimulateConfig(**SMALL, mode="haadf", noise="none"))
    z, x = np.meshgrid(centred(24), centred(24), indexing="ij")
    edges = np.arange(-12, 13, 3)

    def misfit(i, sign):
        theta = math.radians(sim.angles_deg[i])
        depth = (sim.clean[i].astype(float) - sim.offset) / sim.gain * 24 / 14
        got = depth.reshape(24, 8, 3).sum(axis=2)
        u = x * math.cos(theta) + sign * z * math.sin(theta)
        expected = [np.histogram(u, edges, weights=sim.truth[:, row])[0] for row in range(24)]
        return np.linalg.norm(got - expected) / np.linalg.norm(got)

    for i in (0, 2, 3, 9, 10, 12):
        assert misfit(i, +1) < 0.1
        assert misfit(i, +1) < misfit(i, -1) / 2


def test_blocks_of_rows_do_not_show(cell, monkeypatch):
    monkeypatch.setattr(projection, "BLOCK_VOXELS", 20_000)
    again = simulate(cell.config)
    np.testing.assert_array_equal(again.truth, cell.truth)
    np.testing.assert_array_equal(again.inside, cell.inside)
    np.testing.assert_allclose(again.clean, cell.clean, atol=1e-6)


@pytest.mark.parametrize("size", [16, 17, 21])
def test_any_size(size):
    sim = simulate(SimulateConfig(size=size, tilts="-20:20:20"))
    assert sim.truth.shape == sim.inside.shape == (size,) * 3
    assert sim.clean.shape == sim.noisy.shape == (3, size, size)
    assert {a.dtype for a in (sim.truth, sim.clean, sim.noisy)} == {np.dtype(np.float32)}
    assert sim.inside.dtype == bool
    # the slab lies in the middle whatever the parity
    middle = (sim.inside.sum(axis=(1, 2)) * centred(size)).sum() / sim.inside.sum()
    assert abs(middle) < 0.02 * size


def test_clean_images_span_zero_to_one(cell, wide):
    for sim in (cell, wide):
        assert sim.clean.min() == 0
        assert sim.clean.max() == 1


def test_vacuum_is_empty(cell):
    np.testing.assert_array_equal(cell.truth[:3], 0)
    np.testing.assert_array_equal(cell.truth[-3:], 0)
    assert cell.truth[cell.inside].min() > 0
    assert not cell.inside[:3].any()


def test_the_wide_slab_has_the_same_centre(cell, wide):
    np.testing.assert_array_equal(wide.truth, cell.truth)
    np.testing.assert_array_equal(wide.inside, cell.inside)
    np.testing.assert_allclose((wide.clean[6] - wide.offset) / wide.gain, (cell.clean[6] - cell.offset) / cell.gain,
                               atol=1e-5)  # fmt: skip


def test_no_vacuum_beside_the_wide_slab(cell, wide):
    def sides(sim):
        intensity = (sim.clean - sim.offset) / sim.gain  # 1 in vacuum
        return intensity[[0, -1]][:, :, [0, -1]]

    assert sides(cell).min() > 0.5
    # at 60° a ray through the whole slab meets at least half of it at the least density there is
    assert sides(wide).max() < math.exp(-7 * 2 * 0.24 / math.cos(math.radians(60)) * 0.1)


def test_wide_refuses_tilts_no_extent_would_do_for():
    with pytest.raises(InputError, match=r"within ±80°, got 85°"):
        simulate(SimulateConfig(size=16, tilts="-85:85:5", wide=True))


@pytest.mark.parametrize("snr", [0.3, 0.7, 5.0])
@pytest.mark.parametrize("noise", ["poisson-gaussian", "gaussian"])
def test_the_snr_is_attained(snr, noise):
    sim = simulate(SimulateConfig(size=64, tilts="-6:6:6", snr=snr, noise=noise))
    difference = sim.noisy[1].astype(float) - sim.clean[1]
    assert sim.clean[1].var() / np.mean(difference**2) == pytest.approx(snr, rel=0.06)


def test_shot_noise_dominates(cell):
    mean = float(cell.clean[np.argmin(np.abs(cell.angles_deg))].mean()) - cell.noise_law.dark
    shot, readout = cell.noise_law.slope * mean, cell.noise_law.floor
    assert shot / (shot + readout) == pytest.approx(0.98)
    assert readout > 0


def test_no_noise_leaves_the_images_clean():
    sim = simulate(SimulateConfig(size=16, tilts="-20:20:20", noise="none"))
    np.testing.assert_array_equal(sim.noisy, sim.clean)


def test_clipping_only_clips(cell):
    clipped = simulate(cell.config.model_copy(update={"clip": True}))
    np.testing.assert_array_equal(clipped.noisy, np.clip(cell.noisy, 0, 1))
    assert cell.noisy.min() < 0 < 1 < cell.noisy.max()


def test_same_seed_same_bytes(cell):
    again = simulate(cell.config)
    for name in ("truth", "inside", "clean", "noisy"):
        assert getattr(again, name).tobytes() == getattr(cell, name).tobytes()


def test_the_noise_settings_leave_the_cell_alone(cell):
    other = simulate(cell.config.model_copy(update={"snr": 3.0, "noise": "gaussian"}))
    np.testing.assert_array_equal(other.clean, cell.clean)
    np.testing.assert_array_equal(other.truth, cell.truth)


def test_another_seed_is_another_cell(cell):
    other = simulate(cell.config.model_copy(update={"seed": 1}))
    assert not np.array_equal(other.truth, cell.truth)


def test_progress_rises_to_one():
    seen = []
    simulate(SimulateConfig(size=16, tilts="-20:20:20"), lambda stage, fraction: seen.append((stage, fraction)))
    for stage in ("project", "noise"):
        fractions = [f for s, f in seen if s == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1)


def test_series_and_volume_carry_the_units(cell):
    series = cell.series()
    assert series.images is cell.noisy
    np.testing.assert_array_equal(series.angles_deg, np.arange(-60, 61, 10))
    assert series.pixel_size_nm == cell.volume().voxel_size_nm == 1.0


def test_saved_files_hold_what_was_made(cell, tmp_path):
    folder = cell.save(tmp_path / "new" / "cell")
    assert sorted(p.name for p in folder.iterdir()) == sorted(acquisition.FILES)
    for name in ("truth", "inside", "clean", "noisy"):
        with mrcfile.open(folder / f"{name}.mrc") as mrc:
            np.testing.assert_array_equal(mrc.data, getattr(cell, name))
            assert float(mrc.voxel_size.x) == pytest.approx(10.0)
    np.testing.assert_allclose(np.loadtxt(folder / "series.rawtlt"), cell.angles_deg)
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    assert SimulateConfig(**meta["settings"]) == cell.config
    assert meta["noise_variance"]["slope"] == cell.noise_law.slope
    assert meta["tiltfield"] == tiltfield.__version__
    assert [meta[k] for k in ("noise_file", "noise_correlation", "defocus", "grey_levels")] == [None] * 4
    assert all(mrcfile.validate(p, print_file=io.StringIO()) for p in folder.glob("*.mrc"))


def test_an_earlier_result_is_not_overwritten_unasked(cell, tmp_path):
    (tmp_path / "truth.mrc").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"already holds truth\.mrc"):
        cell.save(tmp_path)
    assert (tmp_path / "truth.mrc").read_bytes() == b"precious"
    assert cell.save(tmp_path, overwrite=True) == tmp_path


def test_a_file_in_place_of_the_folder_is_refused(cell, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        cell.save(tmp_path / "taken")
