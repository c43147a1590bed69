"""Results that survive interruption: one line of JSON each as soon as they are there, and volumes beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.jsontext import as_json
from tiltfield.replacing import atomic

Figures = dict[str, Any]
Key = Mapping[str, Any]


def key_name(key: Key) -> str:
    """Return a short name of a key, the same for the same settings in any order.

    Args:
        key: JSON-ready.
    """
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()


def hash_sources(root: Path, paths: Iterable[Path] = (), outside: Iterable[Path] = ()) -> str:
    """Return a digest of python files, by which results of other code are told apart.

    Args:
        root: a package: it counts if no path is given.
        paths: files and folders that count instead.
        outside: files and folders of the package that do not count.
    """
    digest, paths, outside = hashlib.blake2b(digest_size=8), list(paths), list(outside)
    for path in paths or [root]:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if paths or not any(file.is_relative_to(other) for other in outside):
                digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Store:
    """Results in `results.jsonl`, one line each as soon as they are there, and the volumes that are wanted later.

    Args:
        folder: where they are; made if absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "volumes").mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"
        self._figures = dict(read_results(self.path.read_text() if self.path.exists() else ""))

    def once(self, key: Key, work: Callable[[], tuple[Figures, np.ndarray]], *, keep: bool = False) -> Figures:
        """Return the figures of a key; do the work only if they are not there yet.

        Args:
            key: every setting that matters, JSON-ready.
            work: gives figures and volume.
            keep: keep the volume too.
        """
        name = key_name(key)
        if name not in self._figures or (keep and not self._volume_path(key).exists()):
            figures, volume = work()
            if keep:
                with atomic(self._volume_path(key)) as part:
                    np.save(part, volume)
            self.add(key, figures)
        return self._figures[name]

    def has(self, key: Key, *, keep: bool = False) -> bool:
        """Return whether the figures of a key (and its volume, to `keep`) are there."""
        return key_name(key) in self._figures and (not keep or self._volume_path(key).exists())

    def figures(self, key: Key) -> Figures:
        """Return the figures of a key that are there."""
        return self._figures[key_name(key)]

    def add(self, key: Key, figures: Figures) -> None:
        """Append a result in one write; a line that a killed run left unfinished is closed first."""
        line = as_json({"name": key_name(key), "key": dict(key), "figures": figures}) + "\n"
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, ("\n" * torn + line).encode())
            os.fsync(file)
        finally:
            os.close(file)
        self._figures[key_name(key)] = json.loads(line)["figures"]

    def volume(self, key: Key) -> np.ndarray:
        """Return a volume that was kept."""
        return np.asarray(np.load(self._volume_path(key)))

    def _volume_path(self, key: Key) -> Path:
        return self.folder / "volumes" / f"{key_name(key)}.npy"


def read_results(text: str) -> Iterable[tuple[str, Figures]]:
    """Yield name and figures of each whole line of results; the last of a name counts.

    Args:
        text: of `results.jsonl`.
    """
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            yield entry["name"], entry["figures"]
        except (ValueError, KeyError, TypeError):
            continue


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: the file.
        text: what it is to hold.
    """
    with atomic(path) as part:
        part.write_text(text)
