"""What tests of kernels share. Triton's are compiled where there is a GPU, and interpreted where there is none."""

import os

import pytest
import torch

from tiltfield.kernels import native

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it where results must repeat
else:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: no test does so before the kernels' own


@pytest.fixture
def device():
    """Return where kernels run, with tensors that are allocated empty full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def dispatched(device, monkeypatch):
    """Let the kernels be taken wherever float32 comes along, and return where they run."""
    monkeypatch.setattr("tiltfield.kernels.usable", lambda device, dtype: dtype == torch.float32)
    return device


@pytest.fixture
def error():
    """Return a function that gives the norm of a difference over that of what is right; NaN is wrong."""

    def relative(found, right):
        found, right = found.detach().cpu().double(), right.detach().cpu().double()
        assert found.shape == right.shape
        return float((found - right).norm() / right.norm())

    return relative


@pytest.fixture
def compiler():
    """Skip where the kernels in C cannot be made."""
    if native.obstacle():
        pytest.skip(f"no kernels in C: {native.obstacle()}")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
