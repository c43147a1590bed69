"""Every kernel compiles for real GPUs, with the arguments it is launched with; no GPU is needed for that."""

import os
import subprocess
import sys

import pytest

from tiltfield.kernels.perceptron import ROOM

pytest.importorskip("triton", reason="needs Triton, for Linux: pip install 'tiltfield[gpu]'")

PROGRAM = """
import sys

import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tiltfield.geometry import SliceGeometry
from tiltfield.kernels.gpu_encoding import Axis, Lattice, encode
from tiltfield.kernels import gpu_perceptron
from tiltfield.kernels.gpu_projector import Strips
from tiltfield.kernels.gpu_variation import variation_and_gradient


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_only(self, *args, grid, warmup, **options):
    kernel = run(self, *args, grid=grid, warmup=True, **options)
    print(self.__name__, kernel.metadata.shared)


driver.set_active(Driver())
run, JITFunction.run = JITFunction.run, compile_only
strips = Strips(SliceGeometry(64, 96, 96, (0.1, 1.2)), torch.device("cpu"))
for batch in (1, 2, 3):
    strips.project(torch.zeros(batch, 64, 96))
    strips.back_project(torch.zeros(batch, 2, 96))
gpu_perceptron._short = lambda features: tl.bfloat16
for channels in map(int, sys.argv[2].split(",")):
    layers = [torch.zeros(64, channels), torch.zeros(1, 64)], [torch.zeros(64, 1), torch.zeros(1, 1)]
    gpu_perceptron.perceptron(torch.zeros(1, channels, 999, requires_grad=True), *layers).sum().backward()
axis = Axis(8, 9, 0.0, 1.0, 0.0, 8.0)
for prime in (0, 2654435761):
    encode([torch.zeros(1, 4, 81, requires_grad=True)], [Lattice(axis, axis, prime)]).sum().backward()
for slices in (torch.zeros(8, 64, 96), torch.zeros(1, 1, 1)):
    for edge in (0.3, float("inf")):
        variation_and_gradient(slices, 1, (5e-3, edge, 3.0, 1.2), 1.0)
"""
KERNELS = {
    "_project", "_back_project", "_forward", "_backward", "_interpolate", "_gather_z", "_gather_x", "_variation"
}  # fmt: skip
SHARED_LIMIT = 99 * 1024  # bytes that a program may have on every GPU since compute capability 8.0


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(capability), f"24,{ROOM - 1}"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in shared} == KERNELS
    assert max(int(size) for _, size in shared) < SHARED_LIMIT
