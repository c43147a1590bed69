"""A fit in a process of its own, so that its peak memory is its own and a crash ends nothing else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.apart import apart
from tiltfield.paper.store import Figures
from tiltfield.paper.worker import ANSWER, REQUEST, VOLUME

Tell = Callable[[float], None]


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
        failure = _wait(work, tell)
        if not (work / ANSWER).exists():
            raise NotRunError(failure)
        answer = json.loads((work / ANSWER).read_text())
        if "refused" in answer:
            raise NotRunError(answer["refused"], refused=True)
        return answer["figures"], np.load(work / VOLUME)


def _wait(work: Path, tell: Tell) -> str:
    """Run the worker, pass on its progress, and return how it failed, in case it did."""
    with apart("tiltfield.paper.worker", [str(work.resolve())]) as worker:
        for line in worker.lines():
            if (done := _share(line)) is not None:
                tell(done)
        return worker.reason


def _share(line: str) -> float | None:
    """Return the share done that a line tells, None for a line that is about something else."""
    try:
        return float(json.loads(line)[0])
    except (ValueError, TypeError, LookupError):
        return None
