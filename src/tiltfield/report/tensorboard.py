"""Curves of a run for TensorBoard, beside history.jsonl, which always holds the same."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from tiltfield.extras import package
from tiltfield.observe import Observer


class TensorBoard(Observer):
    """Writes every figure of a run's history as a curve named STAGE/FIGURE. Nothing leaves the machine.

    Args:
        folder: for the event files; made with the first record.

    Raises:
        InputError: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._package = package("torch.utils.tensorboard", "logs", "--log tensorboard")
        self._folder = folder
        self._writer: Any = None
        self._counts: dict[str, int] = {}

    def record(self, entry: Mapping[str, Any]) -> None:
        """Add the numbers of an entry at its step, or at its place in its stage where it has none."""
        stage = str(entry.get("stage", "run"))
        count = self._counts[stage] = self._counts.get(stage, -1) + 1
        step = int(entry.get("step", count))
        if self._writer is None:  # of a killed run that goes on, what came after the checkpoint is hidden
            self._writer = self._package.SummaryWriter(str(self._folder), purge_step=step)
        for name, value in entry.items():
            if name not in ("stage", "step") and isinstance(value, Real):
                self._writer.add_scalar(f"{stage}/{name}", float(value), step)
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()
