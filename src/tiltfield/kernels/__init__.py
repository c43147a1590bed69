"""The hot paths of the fit, each with a plain twin that it is tested against.

Files named ``gpu_…`` hold kernels in Triton. They are imported only where they can run, see :func:`usable`; they are
compiled when first called, and Triton keeps what it has compiled. Files named ``native_…`` hold kernels in C for the
CPU, see :mod:`tiltfield.kernels.native`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

OLDEST = (8, 0)  # compute capability that Triton is made for


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether Triton's kernels take tensors of this kind: float32 on a CUDA GPU, with nothing in the way.

    Args:
        device: where they live.
        dtype: their type.
    """
    return device.type == "cuda" and dtype == torch.float32 and not obstacle(device)


@functools.cache
def obstacle(device: torch.device) -> str:
    """Return why Triton's kernels cannot run on a device, in words, or nothing.

    Args:
        device: the device.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return "no NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < OLDEST:
        return f"the GPU is older than compute capability {OLDEST[0]}.{OLDEST[1]}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'tiltfield[gpu]'"
    if not ("CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: install gcc or clang"
    if not (_headers() / "Python.h").exists():  # of its launcher, which it compiles
        return f"Triton needs the headers of Python, there is no {_headers() / 'Python.h'}: install python3-dev"
    return ""


def told(device: torch.device) -> str:
    """Return in words what computes on a device.

    Args:
        device: the device.
    """
    if device.type == "cpu":
        from tiltfield.kernels import native

        why = native.obstacle()
        slowly = f"plain torch, several times slower than need be, without kernels in C: {why}"
        return f"computing on the CPU by {slowly if why else 'kernels in C'}"
    if device.type != "cuda":
        return f"computing on {device} by plain torch"
    how = obstacle(device)
    by = f"plain torch, several times slower than need be: {how}" if how else f"Triton {_version()}'s kernels"
    return f"computing on {torch.cuda.get_device_name(device)} by {by}"


def _headers() -> Path:
    """Return where Triton looks for the headers of Python."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])


def _version() -> str:
    return str(importlib.import_module("triton").__version__)  # its distribution has other names, too
