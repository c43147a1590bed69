"""Which series a batch is of, and what their folders are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiltfield.errors import InputError


def find_series(words: Iterable[Path]) -> list[Path]:
    """Return the series that are meant, as absolute paths, each once.

    Args:
        words: paths of series; patterns such as ``data/*.st`` that no shell has expanded; text files (.txt) of both,
            one a line, relative to the text file.

    Raises:
        InputError: if a text file cannot be read, a pattern fits nothing, or nothing is named at all.
    """
    named = [word for given in words for word in (_listed(given) if given.suffix.lower() == ".txt" else [given])]
    found = dict.fromkeys(Path(os.path.abspath(path)) for word in named for path in _expanded(word))
    if not found:
        raise InputError("no tilt series given: name the files, as in 'tiltfield batch data/*.st --out DIR'")
    return list(found)


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of series {path}: {error}") from None
    return [path.parent / line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _expanded(path: Path) -> list[Path]:
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise InputError(f"no file fits the pattern {path}")
    return found


def folder_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each series: its file name without the suffix, and more of its path where that is not unique.

    Case does not make names different, as on some disks it does not.

    Args:
        paths: absolute, all different.
    """
    levels = [0] * len(paths)
    while True:
        names = [_name(path, level) for path, level in zip(paths, levels, strict=True)]
        count = Counter(name.casefold() for name in names)
        again = [k for k, name in enumerate(names) if count[name.casefold()] > 1]
        if not again:
            return names
        if all(levels[k] > len(paths[k].parts) for k in again):
            shared = ", ".join(str(paths[k]) for k in again)
            raise InputError(f"these series would share a folder: {shared}; give them different names")
        for k in again:
            levels[k] += 1


def _name(path: Path, level: int) -> str:
    """Return the stem, then the file's name, then that with one folder more each time."""
    if level == 0:
        return path.stem
    return "-".join(part.strip(os.sep) or "root" for part in path.parts[-level:])


def shared_names(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return in words which series could not be called by their own names alone.

    Args:
        paths: the series.
        names: as :func:`folder_names` has them.
    """
    return [
        f"{path} shares its name with another series: its folder is {name}"
        for path, name in zip(paths, names, strict=True)
        if name != path.stem
    ]
