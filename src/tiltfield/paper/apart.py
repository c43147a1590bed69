"""A fit in a process of its own, so that its peak memory is its own and a crash ends nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.paper.store import Figures
from tiltfield.paper.worker import ANSWER, REQUEST, VOLUME

Tell = Callable[[float], None]
_LOG = "errors.txt"


class NotRunError(Exception):
    """A fit that came to nothing; its message is the reason.

    Args:
        reason: in words.
        refused: whether the input was refused, which another seed would not change.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


def fit_apart(
    cell: Path, images: str, settings: Mapping[str, Any], folder: Path, tell: Tell
) -> tuple[Figures, np.ndarray]:
    """Reconstruct a cell's images in another process, and hold the volume against the truth.

    Args:
        cell: folder of the cell.
        images: noisy or clean.
        settings: of the reconstruction.
        folder: for files in use.
        tell: called with the share done.

    Returns:
        figures of :func:`tiltfield.paper.worker.fit`, and the volume in half precision, (z, y, x).

    Raises:
        NotRunError: if the input was refused, or the process failed or was killed.
    """
    with tempfile.TemporaryDirectory(prefix=".fit-", dir=folder) as name:
        work = Path(name)
        request = {"cell": str(cell.resolve()), "images": images, "settings": dict(settings)}
        (work / REQUEST).write_text(json.dumps(request))
        code = _wait(work, tell)
        if not (work / ANSWER).exists():
            raise NotRunError(_failure(code, (work / _LOG).read_text(errors="replace")))
        answer = json.loads((work / ANSWER).read_text())
        if "refused" in answer:
            raise NotRunError(answer["refused"], refused=True)
        return answer["figures"], np.load(work / VOLUME)


def _wait(work: Path, tell: Tell) -> int:
    """Run the worker, pass on its progress, and return its exit code; it ends when this does, however it ends."""
    command = [sys.executable, "-P", "-m", "tiltfield.paper.worker", str(work.resolve())]  # -P: not what lies here
    with (
        (work / _LOG).open("w") as log,
        # In a session of its own, so that Ctrl-C reaches only this process, which then ends the other.
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as process,
    ):
        try:
            for line in process.stdout or ():
                if (done := _share(line)) is not None:
                    tell(done)
            return process.wait()
        finally:
            process.kill()


def _share(line: str) -> float | None:
    """Return the share done that a line tells, None for a line that is about something else."""
    try:
        return float(json.loads(line)[0])
    except (ValueError, TypeError, LookupError):
        return None


def _failure(code: int, errors: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}" + (", out of memory as it seems" if name == "SIGKILL" else "")
    lines = [line for line in errors.splitlines() if line.strip()]
    return f"failed: {lines[-1].strip()}" if lines else f"failed with exit code {code}"
