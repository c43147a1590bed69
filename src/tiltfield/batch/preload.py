"""What a worker of this machine does when it starts: Ctrl-C, which reaches it too, is left to the command."""

from __future__ import annotations

import logging
import signal


def dask_setup(worker: object) -> None:
    """Do nothing on Ctrl-C, and keep Dask's logs off the terminal.

    Args:
        worker: of Dask.
    """
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # not SIG_IGN: what the worker starts would inherit that
