"""One series in a process of its own: ``python -m tiltfield.batch.child``.

The first line of standard input is the task as JSON. Progress goes to standard output, a line of JSON each time; the
last one says how it ended. An exception that is a bug's ends the process with its traceback.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltfield.apart import live_no_longer_than_the_parent
from tiltfield.errors import InputError
from tiltfield.observe import Observer

EVERY_SECONDS = 0.5


class Teller(Observer):
    """Prints what there is to see for the process that waits."""

    def __init__(self) -> None:
        self._last = ("", 0.0)

    def say(self, message: str) -> None:
        """Pass on a message."""
        tell(said=message)

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Mapping[str, float]) -> None:
        """Pass on where the run is, not more often than can be read."""
        last, when = self._last
        now = time.monotonic()
        if stage != last or now - when >= EVERY_SECONDS:
            self._last = (stage, now)
            tell(stage=stage, done=done, left=seconds_left)


def tell(**event: Any) -> None:
    """Print an event."""
    print(json.dumps(event), flush=True)


def main() -> None:
    """Carry out the task on standard input."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if what started the worker ignores it
    task = json.loads(sys.stdin.buffer.readline())
    live_no_longer_than_the_parent()
    try:
        from tiltfield.run import Request, run

        out = Path(task["out"])
        resume = (out / "config.yaml").exists()
        result = run(Request(out, Path(task["series"]), task["settings"], resume=resume), Teller())
        tell(outcome="stopped" if result is not None and result.interrupted else "finished")
    except InputError as error:
        tell(outcome="refused", message="; ".join(line.strip() for line in str(error).splitlines()))
    except KeyboardInterrupt:
        tell(outcome="stopped")


if __name__ == "__main__":
    main()
