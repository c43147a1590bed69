"""A module run in a process of its own, so that its memory is its own and a crash ends nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, eq=False)
class Apart:
    """A module that runs in a process of its own.

    Attributes:
        process: what runs it.
        stderr: file of what it writes to standard error.
    """

    process: subprocess.Popen[str]
    stderr: IO[str]

    def tell(self, line: str) -> None:
        """Write a line to its standard input; in vain, if it has ended.

        Args:
            line: text without a line break.
        """
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    def lines(self) -> Iterator[str]:
        """Yield what it prints, line by line, until it ends."""
        yield from self.process.stdout or ()
        self.process.wait()

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    @property
    def killed(self) -> bool:
        """Whether it was ended by a signal."""
        return (self.process.returncode or 0) < 0

    @property
    def errors(self) -> str:
        """What it wrote to standard error, to be asked when it has ended."""
        self.stderr.seek(0)
        return self.stderr.read()

    @property
    def reason(self) -> str:
        """How it ended, in words, if it did not do what it was asked for."""
        return failure(self.process.returncode or 0, self.errors)


@contextmanager
def apart(module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Apart]:
    """Run a module in a process of its own, which is gone when the context ends.

    It is in a session of its own, so that Ctrl-C reaches only the process that started it. Its standard input stays
    open for as long as that one lives: see :func:`live_no_longer_than_the_parent`.

    Args:
        module: what ``python -m`` runs.
        arguments: its arguments.
        environment: variables over those of this process.
    """
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
        subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],  # -P: not what lies here
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield Apart(process, stderr)
        finally:
            process.kill()


def failure(code: int, errors: str) -> str:
    """Return in words how a process ended that did not do what it was asked for.

    Args:
        code: its exit code; a signal's number with a minus if one ended it.
        errors: what it wrote to standard error.
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}" + (", out of memory as it seems" if name == "SIGKILL" else "")
    lines = [line for line in errors.splitlines() if line.strip()]
    return f"failed: {lines[-1].strip()}" if lines else f"failed with exit code {code}"


def live_no_longer_than_the_parent() -> None:
    """End this process at once when the one that started it through :func:`apart` is gone, however it ended."""

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock a thread must not hold when Python ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
