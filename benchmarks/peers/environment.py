"""Make the virtual environment that a peer is run by; run as a script, print the path of its python.

A peer gets an environment of its own, so that its dependencies stay out of ours: 1.5 GB on disk, one to four minutes.
Torch is held to the version in `constraints.txt`; where the package index would bring CUDA packages with it
(gigabytes), pip is stopped as soon as it names the first one ::

    python benchmarks/peers/environment.py mbirtorch            # .venv-mbirtorch in the repository root
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
CONSTRAINTS = ROOT / "constraints.txt"
REQUIREMENTS = {"mbirtorch": "mbirtorch==0.2.0", "quantem": "quantem==0.1.10"}
TORCH = "torch==2.13.0"
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


def imports(python: Path, module: str) -> bool:
    """Return whether `python` exists and can import a module."""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


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


def make_environment(peer: str, folder: Path | None = None, *, allow_cuda: bool = False) -> Path:
    """Return the environment's interpreter; make the environment first unless it is there and works.

    Args:
        peer: one of `REQUIREMENTS`; its package and its module have the same name.
        folder: of the environment; `.venv-` and the peer's name in the repository root if None.
        allow_cuda: install even where torch brings CUDA packages.

    Returns:
        path of the environment's python.

    Raises:
        RuntimeError: pip failed, or CUDA packages would have been downloaded and `allow_cuda` is off.
    """
    folder = folder or ROOT / f".venv-{peer}"
    python = python_of(folder)
    if imports(python, peer):
        return python
    venv.create(folder, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-c", str(CONSTRAINTS), TORCH, REQUIREMENTS[peer]]
    run_watched(install, allow_cuda=allow_cuda)
    return python


def main() -> None:
    """Make the environment and print its interpreter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=REQUIREMENTS)
    parser.add_argument("--folder", type=Path, help="of the environment (default: .venv-PEER in the repository root)")
    parser.add_argument("--allow-cuda", action="store_true", help="install even where torch brings CUDA packages")
    given = parser.parse_args()
    print(make_environment(given.peer, given.folder, allow_cuda=given.allow_cuda))


if __name__ == "__main__":
    main()
