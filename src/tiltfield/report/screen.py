"""Messages and progress on the terminal, or as plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tiltfield.observe import Observer
from tiltfield.parse import clock as clock

LINE_EVERY_SHARE = 0.1
LINE_EVERY_SECONDS = 30.0


class Screen(Observer):
    """Shows a run: a progress bar on a terminal, a line now and then elsewhere. Use it as a context.

    Args:
        console: where to write; standard error if not given.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._start = time.monotonic()
        self._bar = _Bar(self.console) if self.console.is_terminal and not quiet else None
        self._last = ("", 0.0, 0.0)  # stage, share and time of the last plain line

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.display.stop()

    def say(self, message: str) -> None:
        """Print a message, above the bar if there is one."""
        if not self.quiet:
            self.console.print(Text(message), soft_wrap=True)

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Mapping[str, float]) -> None:
        """Move the bar, or print a line if enough has happened since the last one."""
        elapsed = time.monotonic() - self._start
        words = _words(elapsed, seconds_left, figures)
        if self._bar:
            self._bar.show(stage, done, words)
        elif not self.quiet and self._worth_a_line(stage, done, elapsed):
            self._last = (stage, done, elapsed)
            self.console.print(Text(f"{stage} {done:.0%}  {words}"), soft_wrap=True)

    def _worth_a_line(self, stage: str, done: float, elapsed: float) -> bool:
        last_stage, last_done, last_elapsed = self._last
        if stage != last_stage or elapsed - last_elapsed >= LINE_EVERY_SECONDS:
            return True
        return done - last_done >= LINE_EVERY_SHARE or (done >= 1 > last_done)


class _Bar:
    """One rich progress bar that changes its name with the stage."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"))
        self.display = Progress(*columns, TextColumn("{task.fields[words]}"), console=console, transient=True)
        self._task: TaskID | None = None

    def show(self, stage: str, done: float, words: str) -> None:
        if self._task is None:
            self._task = self.display.add_task(stage, total=1.0, words="")
        self.display.update(self._task, description=stage, completed=min(done, 1.0), words=words)


def _words(elapsed: float, seconds_left: float | None, figures: Mapping[str, float]) -> str:
    parts = [clock(elapsed)]
    if seconds_left is not None:
        parts.append(f"{clock(seconds_left)} left")
    parts += [f"{name} {value:.4g}" for name, value in figures.items()]
    return "  ".join(parts)
