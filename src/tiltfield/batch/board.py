"""A batch on the terminal: one line for each running series with the time left, or plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tiltfield.report.screen import LINE_EVERY_SECONDS, clock


class Board:
    """Shows a batch. Use it as a context.

    Args:
        console: where to write; standard error if not given.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"))
        words = TextColumn("{task.fields[words]}")
        show = self.console.is_terminal and not quiet
        self._bars = Progress(*columns, words, console=self.console, transient=True) if show else None
        self._lines: dict[str, TaskID] = {}
        self._told: dict[str, tuple[str, float]] = {}  # series to stage and time of its last plain line

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, message: str) -> None:
        """Print a message, above the lines of the series."""
        if not self.quiet:
            self.console.print(Text(message), soft_wrap=True)

    def show(self, name: str, stage: str, done: float, seconds_left: float | None) -> None:
        """Show where a series is.

        Args:
            name: of the series.
            stage: what it is at.
            done: share of the stage, 0 to 1.
            seconds_left: of the run, if known.
        """
        left = "" if seconds_left is None else f"{clock(seconds_left)} left"
        if self._bars:
            self._move(name, f"{name}: {stage}", done, left)
        elif not self.quiet and self._worth_a_line(name, stage):
            self.console.print(Text(f"{name}: {stage} {done:.0%}  {left}".rstrip()), soft_wrap=True)

    def clear(self, name: str) -> None:
        """Take a series off that runs no more."""
        self._told.pop(name, None)
        if self._bars and name in self._lines:
            self._bars.remove_task(self._lines.pop(name))

    def _move(self, name: str, title: str, done: float, words: str) -> None:
        if self._bars is None:
            return
        if name not in self._lines:
            self._lines[name] = self._bars.add_task(title, total=1.0, words=words)
        self._bars.update(self._lines[name], description=title, completed=min(done, 1.0), words=words)

    def _worth_a_line(self, name: str, stage: str) -> bool:
        last, when = self._told.get(name, ("", 0.0))
        now = time.monotonic()
        if stage == last and now - when < LINE_EVERY_SECONDS:
            return False
        self._told[name] = (stage, now)
        return True
