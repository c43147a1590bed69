"""Kernels in C for the CPU: compiled once by whatever C compiler there is, kept in the user's cache.

The files ``native_….c`` beside this one make one library. It is for the processor it was compiled on, and shares the
threads of torch. Without a compiler, plain torch does the same, slower, and the log says so.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "TILTFIELD_NATIVE"  # 0 in the environment: leave the kernels alone
LANES = 16  # a multiple of those in native.h
HEADER = Path(__file__).with_name("native.h")
_SECONDS = 120  # limit of the compilation
_TYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


def usable(tensor: Tensor) -> bool:
    """Return whether the kernels take a tensor: float32 on the CPU, with nothing in the way.

    Args:
        tensor: the tensor.
    """
    return tensor.is_cpu and tensor.dtype == torch.float32 and _library()[0] is not None


def obstacle() -> str:
    """Return why the kernels cannot run, in words, or nothing."""
    return _library()[1]


@functools.cache
def tiles() -> bool:
    """Return whether there are kernels by the tiles of AMX that this process may use."""
    answer = torch.zeros(1, dtype=torch.int32)
    if not obstacle():
        call("tiles_there", answer)
    return bool(answer)


def call(name: str, *arguments: Tensor | int | float) -> None:
    """Run a kernel.

    Args:
        name: of the function.
        arguments: for it, in its order: contiguous tensors for pointers, int for int64_t, float for float.

    Raises:
        ValueError: if a tensor is not contiguous, not on the CPU, or of a type that no kernel takes.
    """
    library, why = _library()
    if library is None:
        raise ValueError(f"no kernels: {why}")
    getattr(library, name)(*[address(value) if isinstance(value, Tensor) else value for value in arguments])


def address(tensor: Tensor) -> int:
    """Return where a tensor lies.

    Args:
        tensor: as :func:`call` takes them; it must outlive the use of its address.
    """
    if not tensor.is_contiguous() or not tensor.is_cpu or tensor.dtype not in _TYPES:
        raise ValueError(
            f"expected a contiguous tensor on the CPU of {', '.join(_TYPES.values())}, "
            f"got {tensor.dtype} with strides {tensor.stride()} on {tensor.device}"
        )
    return tensor.data_ptr()


def whole(numbers: Sequence[int]) -> Tensor:
    """Return int64 for C, as the kernels take no other tensor of that width.

    Args:
        numbers: of them, or addresses.
    """
    return torch.tensor(numbers, dtype=torch.int64).view(torch.int32)


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """Return the library, or why there is none."""
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH}=0"
    if sys.platform == "win32":
        return None, "they are not made for Windows"
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return None, "there is no C compiler: install gcc or clang"
    sources = sorted(Path(__file__).parent.glob("native_*.c"))
    words = [*compiler.split(), *_flags()]
    key = hashlib.sha256("\n".join([*words, _processor(), *(s.read_text() for s in [HEADER, *sources])]).encode())
    try:
        target = _cache() / f"native-{key.hexdigest()[:16]}.so"
        if not target.exists():
            _compile([*words, *map(str, sources), "-lm"], target)
        return _declared(ctypes.CDLL(str(target)), sources), ""
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return None, f"{compiler} could not make them: {said.strip().splitlines()[0] if said.strip() else error!r}"


def _declared(library: ctypes.CDLL, sources: Iterable[Path]) -> ctypes.CDLL:
    """Return the library with the types of all arguments, as the sources have them."""
    for source in sources:
        for name, arguments in re.findall(r"^void (\w+)\(([^)]*)\)", source.read_text(), re.MULTILINE):
            if function := getattr(library, name, None):  # not all are made for every processor
                function.argtypes = [_type_in_c(argument) for argument in arguments.split(",")]
                function.restype = None
    return library


def _type_in_c(argument: str) -> type[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float]:
    if "*" in argument:
        return ctypes.c_void_p
    return ctypes.c_int64 if "int64_t" in argument else ctypes.c_float


def _flags() -> list[str]:
    """Return how to compile for this processor and system."""
    mac, arm = sys.platform == "darwin", platform.machine() in ("arm64", "aarch64")
    words = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=fast"]
    words += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
    if mac and "CC" not in os.environ:  # Apple's compiler comes without OpenMP: that of torch is there already
        words += ["-Xpreprocessor", "-fopenmp", "-undefined", "dynamic_lookup"]
    else:
        words += ["-fopenmp"]
    if arm:
        return [*words, "-mcpu=apple-m1" if mac else "-mcpu=native"]
    return [*words, "-march=native", "-mprefer-vector-width=512"]


def _compile(words: list[str], target: Path) -> None:
    """Make the library under another name first: other processes may want it at the same time."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run([*words, "-o", str(made)], check=True, capture_output=True, text=True, timeout=_SECONDS)
        made.replace(target)


def _cache() -> Path:
    """Return the folder that keeps libraries, made if need be: the user's, else one of theirs among temporary files."""
    try:
        home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
        folder = Path(os.environ.get("XDG_CACHE_HOME") or home) / "tiltfield"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # the latter where the user has no home
        pass
    folder = Path(tempfile.gettempdir()) / f"tiltfield-{os.getuid()}"
    if _private(folder):
        return folder
    folder = Path(tempfile.mkdtemp(prefix="tiltfield-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _private(folder: Path) -> bool:
    """Return whether a folder, made if need be, is this user's alone: others may have put it there, with their code."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return ours and os.access(folder, os.W_OK)


def _processor() -> str:
    """Return what tells this kind of processor from others that may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))
