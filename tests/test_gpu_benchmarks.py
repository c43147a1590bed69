"""What is run on a lent GPU has to run: the same stages on the CPU, small."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from tiltfield import cli

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


@pytest.fixture
def gpu_kernels(monkeypatch):
    import gpu_kernels

    monkeypatch.setattr(gpu_kernels, "seconds_of", _once)
    return gpu_kernels


def _once(work):
    work()
    return 1.0


def test_the_kernels_are_measured_against_their_floors(gpu_kernels):
    rates = dict.fromkeys(("copy", "fp32", "tf32", "bf16"), 1e12)
    block = gpu_kernels.Block(24, 2)
    for name, figures in gpu_kernels.measure(block, torch.device("cpu"), rates).items():
        assert figures["error"] < 1e-2, name
        assert 0 < figures["floor_ms"] < 1, name


def test_steps_are_timed_by_the_slices_they_take(gpu_kernels):
    figures = gpu_kernels.steps(32, (2, 4), torch.device("cpu"))
    assert {"ms_2", "ms_4", "launch_ms", "ns_a_point", "fit_s_2", "fit_s_4"} == set(figures)
    assert all(math.isfinite(value) for value in figures.values())


def test_a_simulation_that_was_stopped_counts_as_failed(monkeypatch, tmp_path):
    import gpu

    monkeypatch.setattr(cli, "main", _stopped)
    with pytest.raises(RuntimeError, match="simulate ended with code 130"):
        gpu.simulate(tmp_path, "cpu", 32)
    with pytest.raises(RuntimeError, match="stopped before the fit began"):
        gpu.fit(tmp_path, "cpu", 32)


def _stopped(words):
    raise SystemExit(130)
