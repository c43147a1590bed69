"""Make the virtual environment that `mbirtorch_run.py` is run by: `.venv-mbirtorch` in the repository root.

The peer gets an environment of its own, so that its dependencies (gdown, OpenCV, OSQP) stay out of ours: 1.5 GB on
disk, about a minute. Torch is held to the version in `constraints.txt`; where the package index would bring CUDA
packages with it (gigabytes), pip is stopped as soon as it names the first one. Run as a script, it prints the path of
the environment's python.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-mbirtorch"
CONSTRAINTS = ROOT / "constraints.txt"
REQUIREMENTS = ("torch==2.13.0", "mbirtorch==0.2.0")
CUDA_PACKAGE = re.compile(
    r"^\s*(Collecting|Downloading|Using cached|Processing)\s.*\b(nvidia|cuda|triton)", re.IGNORECASE
)
CUDA_ADVICE = (
    "set PIP_INDEX_URL to an index with CPU builds, for instance https://download.pytorch.org/whl/cpu (and "
    "PIP_EXTRA_INDEX_URL to PyPI), or pass --allow-cuda"
)


def python_of(environment: Path) -> Path:
    """Return the path of the interpreter inside a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def imports_mbirtorch(python: Path) -> bool:
    """Return whether `python` exists and can import mbirtorch."""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-c", "import mbirtorch"], capture_output=True, check=False).returncode == 0


def run_watched(command: Sequence[str], *, allow_cuda: bool) -> list[str]:
    """Run pip and return the lines it printed; stop it at the first CUDA package.

    Args:
        command: program and arguments.
        allow_cuda: let CUDA packages pass.

    Returns:
        what was printed, standard output and error together.

    Raises:
        RuntimeError: pip failed, or was stopped.
    """
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            lines.append(line)
            if not allow_cuda and CUDA_PACKAGE.match(line):
                pip.terminate()
                raise RuntimeError(
                    f"expected a torch for the CPU alone, but pip began: {line.strip()!r}; {CUDA_ADVICE}"
                )
    if pip.returncode != 0:
        raise RuntimeError(f"pip failed with exit code {pip.returncode}:\n{''.join(lines[-20:])}")
    return lines


def make_environment(*, allow_cuda: bool = False) -> Path:
    """Return the environment's interpreter; make the environment first unless it is there and works.

    Args:
        allow_cuda: install even where torch brings CUDA packages.

    Returns:
        path of the environment's python.

    Raises:
        RuntimeError: pip failed, or CUDA packages would have been downloaded and `allow_cuda` is off.
    """
    python = python_of(ENVIRONMENT)
    if imports_mbirtorch(python):
        return python
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-c", str(CONSTRAINTS), *REQUIREMENTS]
    run_watched(install, allow_cuda=allow_cuda)
    return python


def main() -> None:
    """Make the environment and print its interpreter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allow-cuda", action="store_true", help="install even where torch brings CUDA packages")
    print(make_environment(allow_cuda=parser.parse_args().allow_cuda))


if __name__ == "__main__":
    main()
