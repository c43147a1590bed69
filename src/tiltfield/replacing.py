"""Files that are whole or absent, whenever a process is killed: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiltfield.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place when all went well.

    The number of the process is in its name, so that two that write the same file do not write into one another's.

    Args:
        path: the file to write, or the folder; a folder replaces one that is there.

    Yields:
        a path in the same folder with the same suffix, at which nothing is yet.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As :func:`atomic`, for files that a user named.

    Args:
        path: as there.

    Raises:
        InputError: if the folder is not there or cannot be written to.
    """
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; give a folder that exists and can be written to"
        ) from error


def clear_parts(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder; none may be writing there.

    Args:
        folder: where they wrote.
    """
    for part in folder.glob(".*.part*"):
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there.

    Args:
        path: of it.
    """
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
