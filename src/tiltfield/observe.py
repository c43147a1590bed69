"""What a long computation tells whoever watches it: messages, progress, figures, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Observer:
    """Receives what a run reports; this one ignores everything. Subclass it to print, to draw, or to save."""

    def say(self, message: str) -> None:
        """Take one finding or decision, in words.

        Args:
            message: one line.
        """

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Mapping[str, float]) -> None:
        """Take the state of a stage.

        Args:
            stage: its name, e.g. "fit".
            done: share finished, 0 to 1.
            seconds_left: of the whole run, or None if not yet known.
            figures: what there is to watch, e.g. {"held-out": 0.093}.
        """

    def record(self, entry: Mapping[str, Any]) -> None:
        """Take one line of the run's history.

        Args:
            entry: plain values, JSON-ready.
        """

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Take everything needed to go on from here.

        Args:
            state: tensors and plain values only, so that it loads with ``weights_only=True``; the tensors are those of
                the fit, which the next step changes: they are to be written, or copied, at once.
        """
