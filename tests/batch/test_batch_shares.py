"""How many workers this machine has room for, and what each of them gets."""

from types import SimpleNamespace

import numpy as np
import pytest

from tiltfield.batch.shares import Share, gpus, shares_for, shares_of
from tiltfield.config import ReconstructConfig
from tiltfield.forecast import forecast
from tiltfield.io import write_stack

CORES = 8


@pytest.fixture
def series(tmp_path):
    """Five series, of which the first is the largest."""
    for k, edge in enumerate((32, 16, 16, 16, 16)):
        write_stack(np.random.default_rng(k).random((5, edge, edge), np.float32), tmp_path / f"{k}.mrc", 1.0)
        (tmp_path / f"{k}.rawtlt").write_text("-40\n-20\n0\n20\n40\n")
    return sorted(tmp_path.glob("*.mrc"))


@pytest.fixture
def machine(monkeypatch):
    """Let the machine have so many GPUs, and memory for so many runs of the largest series."""

    def have(n_gpus, runs):
        system = pytest.importorskip("dask.system", reason="needs the extra cluster: pip install 'tiltfield[cluster]'")
        monkeypatch.setattr(system, "CPU_COUNT", CORES)
        monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        free = (runs + 0.1) / 0.9 * forecast((5, 32, 32), ReconstructConfig()).memory_bytes
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free, total=2 * free))

    return have


@pytest.mark.parametrize(
    ("n_gpus", "runs", "asked", "threads", "shares"),
    [
        (0, 100, None, None, [Share(1)] * 5),  # no more than there are series
        (0, 3, None, None, [Share(2)] * 3),
        (0, 0, None, None, [Share(8)]),
        (0, 100, None, 4, [Share(4)] * 2),
        (0, 1, 4, None, [Share(2)] * 4),
        (2, 1, None, None, [Share(4, "0"), Share(4, "1")]),
        (2, 100, 4, None, [Share(2, "0"), Share(2, "1")] * 2),
    ],
)
def test_there_are_as_many_workers_as_there_is_room_for(series, machine, n_gpus, runs, asked, threads, shares):
    machine(n_gpus, runs)
    found, words = shares_for(series, ReconstructConfig(threads=threads), asked)
    assert found == shares
    assert f"{len(shares)} worker" in words
    needed = forecast((5, 32, 32), ReconstructConfig()).memory_bytes / 2**30
    assert f"0.mrc needs about {needed:.1f} GiB" in words
    assert ("more than are free" in words) == (len(shares) > max(1, runs))


def test_the_shape_is_found_without_screening(series, machine, monkeypatch):
    machine(0, 100)
    monkeypatch.setattr("tiltfield.io.find_bad", None)
    config = ReconstructConfig(bin=2, exclude="1-2", tilt_axis="x", pixel_size_nm=1.0)
    needed = forecast((3, 16, 16), config).memory_bytes / 2**30
    assert f"0.mrc needs about {needed:.1f} GiB" in shares_for(series, config, None)[1]


def test_a_series_that_cannot_be_read_is_left_to_its_own_row(tmp_path, machine):
    machine(0, 1)
    (tmp_path / "junk.mrc").write_text("junk")
    shares, words = shares_for([tmp_path / "junk.mrc", tmp_path / "gone.mrc"], ReconstructConfig(), None)
    assert len(shares) == 2
    assert "GiB" not in words


@pytest.mark.parametrize(
    ("n_workers", "cores", "devices", "shares"),
    [
        (2, 8, [], [Share(4), Share(4)]),
        (3, 2, [], [Share(1)] * 3),
        (2, 16, ["0", "1"], [Share(8, "0"), Share(8, "1")]),
        (3, 6, ["2", "GPU-5"], [Share(2, "2"), Share(2, "GPU-5"), Share(2, "2")]),
    ],
)
def test_workers_share_cores_alike_and_gpus_in_turn(n_workers, cores, devices, shares):
    assert shares_of(n_workers, cores, devices) == shares


@pytest.mark.parametrize(
    ("device", "visible", "names"),
    [
        ("auto", None, ["0", "1"]),
        ("cuda", "3, GPU-5", ["3", "GPU-5"]),
        ("auto", "7,8,9", ["7", "8"]),
        ("cpu", None, []),
    ],
)
def test_gpus_are_those_that_may_be_seen(monkeypatch, device, visible, names):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(device) == names
