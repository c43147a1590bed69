"""What commands ask of the files they are to write."""

from __future__ import annotations

from pathlib import Path

from tiltfield.errors import InputError


def free(path: Path | None, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or is there already.

    Args:
        path: the file, or None for none.
        overwrite: whether it may be replaced.

    Raises:
        InputError: if it is refused.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already: choose another name or give --overwrite")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.absolute().parent} does not exist; make it first")
