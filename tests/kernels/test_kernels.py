"""When the kernels for GPUs are taken, what is said of it, and that nothing else needs Triton."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiltfield
from tiltfield import kernels
from tiltfield.kernels import native

GPU = torch.device("cuda", 0)
PACKAGE = Path(tiltfield.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.fixture(autouse=True)
def forget():
    """Let every test ask anew."""
    kernels.obstacle.cache_clear()
    yield
    kernels.obstacle.cache_clear()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that makes up a machine with a GPU; by default nothing is missing."""

    def make(cuda="12.8", capability=(9, 0), triton=True, compiler="/usr/bin/gcc", headers=True):
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: object() if triton else None)
        monkeypatch.setattr(kernels.shutil, "which", lambda name: compiler)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.9.0"))
        (tmp_path / "Python.h").touch() if headers else (tmp_path / "Python.h").unlink(missing_ok=True)
        monkeypatch.setattr(kernels.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})

    return make


def test_with_nothing_missing_the_kernels_are_taken_for_float32(machine):
    machine()
    assert kernels.usable(GPU, torch.float32)
    assert not kernels.usable(GPU, torch.float64)
    assert not kernels.usable(torch.device("cpu"), torch.float32)
    assert kernels.told(GPU) == "computing on a GPU by Triton 3.9.0's kernels"


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ({"cuda": None}, "NVIDIA"),
        ({"capability": (7, 5)}, "older"),
        ({"triton": False}, "tiltfield[gpu]"),
        ({"compiler": None}, "C compiler"),
        ({"headers": False}, "python3-dev"),
    ],
    ids=str,
)
def test_what_is_missing_is_said(machine, missing, word):
    machine(**missing)
    assert not kernels.usable(GPU, torch.float32)
    assert word in kernels.obstacle(GPU)
    assert "plain torch" in kernels.told(GPU)
    assert word in kernels.told(GPU)


def test_a_compiler_may_be_named(machine, monkeypatch):
    machine(compiler=None)
    monkeypatch.setenv("CC", "cc")
    assert kernels.usable(GPU, torch.float32)


@pytest.mark.parametrize(
    ("why", "told"), [("", "by kernels in C"), ("there is no compiler", "plain torch, several times slower")]
)
def test_of_the_cpu_it_is_said_whether_the_kernels_in_c_are_taken(monkeypatch, why, told):
    monkeypatch.setattr(native, "obstacle", lambda: why)
    said = kernels.told(torch.device("cpu"))
    assert said.startswith("computing on the CPU")
    assert told in said
    assert said.endswith(why)


def outside_functions(tree):
    """Modules that an import of the file imports."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def needs_triton(name):
    return name.partition(".")[0] == "triton" or name.startswith("tiltfield.kernels.gpu_")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_kernels_for_gpus_import_triton(path):
    needing = {name for name in outside_functions(ast.parse(path.read_text())) if needs_triton(name)}
    assert bool(needing) == path.name.startswith("gpu_"), needing
