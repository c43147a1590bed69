"""What the benchmarks share: results that survive interruption, measures against a truth, tables, demands."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.observe import Observer
from tiltfield.reconstruct import reconstruct
from tiltfield.run import atomic
from tiltfield.runfolder import as_json
from tiltfield.series import TiltSeries, Volume
from tiltfield.simulate import Simulation

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tiltfield"
# What no reconstruction and no measure depends on: changes there leave results valid.
OUTSIDE = (
    *("cli.py", "cli_noise.py", "demo.py", "run.py", "runfolder.py", "report", "io", "judge.py", "traits.py"),
    *("noise/file.py", "noise/learn.py", "noise/pairs.py", "noise/poisson.py", "noise/repeats.py", "noise/restore.py"),
    "noise/sources.py",
)
DEVICE = "cpu"  # what is asked is asked of two cores
SIRT_ITERATIONS = (10, 30, 100)
WBP_FILTERS = ("hann", "ram-lak")
SIRT = tuple({"method": "sirt", "sirt_iterations": n} for n in SIRT_ITERATIONS)
WBP = tuple({"method": "wbp", "wbp_filter": name} for name in WBP_FILTERS)
TILTS = "-50:49:1.5"
SNR = 0.7

Figures = dict[str, Any]
Key = Mapping[str, Any]


# ---- results -------------------------------------------------------------------------------------------------------


def source_hash(*paths: Path) -> str:
    """Return a digest of python files, and of those in folders, by which results of other code are told apart.

    Args:
        *paths: files and folders; if none is given, the package but what is `OUTSIDE`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in paths or (PACKAGE,):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if paths or not any(file.is_relative_to(PACKAGE / name) for name in OUTSIDE):
                digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def key_name(key: Key) -> str:
    """Return a short name of a key, the same for the same settings in any order."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()


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
        return np.load(self._volume_path(key))

    def _volume_path(self, key: Key) -> Path:
        return self.folder / "volumes" / f"{key_name(key)}.npy"


def read_results(text: str) -> Iterable[tuple[str, Figures]]:
    """Yield name and figures of each whole line of results; the last of a name counts."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            yield entry["name"], entry["figures"]
        except (ValueError, KeyError, TypeError):
            continue


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as part:
        part.write_text(text)


# ---- reconstructions and measures ----------------------------------------------------------------------------------


def fit(
    series: TiltSeries, settings: Mapping[str, Any], observer: Observer | None = None
) -> tuple[Figures, np.ndarray]:
    """Reconstruct a series and return what there is to note, and the volume.

    Args:
        series: the tilt series, all that the program is told.
        settings: of the method.
        observer: told of everything.
    """
    began = time.perf_counter()
    result = reconstruct(series, ReconstructConfig(device=DEVICE, **settings), observer=observer)
    figures = {"seconds": time.perf_counter() - began}
    noted = ("tv_weight", "outcome", "heldout_nll", "thickness_pixels", "padding_pixels", "steps", "gain", "offset")
    figures |= {name: result.metrics[name] for name in noted if name in result.metrics}
    noise = result.metrics.get("noise", {})
    return figures | {name: noise[name] for name in ("model", "scan_axis") if name in noise}, result.volume.data


def score(volume: np.ndarray, simulation: Simulation) -> Figures:
    """Return affine PSNR over the whole box and inside the true slab, and what the bare outline would score."""
    figures = evaluate(Volume(volume), simulation.volume(), simulation.inside)
    names = {"psnr_db": "psnr_affine_db", "inside_db": "psnr_inside_db", "outline_db": "psnr_flat_slab_db"}
    return {short: float(figures[name]) for short, name in names.items()}


def fit_and_score(
    simulation: Simulation, settings: Mapping[str, Any], observer: Observer | None = None
) -> tuple[Figures, np.ndarray]:
    """Reconstruct a simulated series, and hold the volume against the truth.

    Args:
        simulation: gives the series; the truth is used afterwards.
        settings: of the method.
        observer: told of everything.
    """
    figures, volume = fit(simulation.series(), settings, observer)
    return figures | score(volume, simulation), volume


def centred(volume: np.ndarray, n_z: int) -> np.ndarray:
    """Return a volume (z, y, x) padded with zeros, or cropped, alike on both sides along z.

    Args:
        volume: the volume.
        n_z: layers wanted; differs from the volume's by an even number.

    Raises:
        InputError: if the difference is odd.
    """
    extra = n_z - len(volume)
    if extra % 2:
        raise InputError(f"{len(volume)} layers have no common centre with {n_z}: expected both even or both odd")
    if extra < 0:
        return volume[-extra // 2 : extra // 2]
    return np.pad(volume, ((extra // 2, extra // 2), (0, 0), (0, 0)))


def best(results: Iterable[Figures]) -> Figures:
    """Return the result with the highest PSNR: the choice that the truth makes in a method's favour."""
    return max(results, key=lambda figures: figures["psnr_db"])


# ---- tables and demands --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """One thing asked.

    Attributes:
        name: what is asked.
        figure: what was measured, or None if it was not.
        limit: the bound.
        at_least: whether the figure must not be below the bound, rather than not above.
        unit: of both.
    """

    name: str
    figure: float | None
    limit: float
    at_least: bool = True
    unit: str = "dB"

    @property
    def met(self) -> bool:
        """Return whether it was measured and holds."""
        if self.figure is None:
            return False
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def line(self) -> str:
        """Return it in words with its figure and "met" or "NOT met"."""
        asked = f"asked {'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".rstrip()
        if self.figure is None:
            return f"- {self.name}: not measured ({asked})"
        measured = f"{self.figure:.2f} {self.unit}".rstrip()
        return f"- {self.name}: {measured} ({asked}): {'met' if self.met else 'NOT met'}"


def demand_lines(demands: Iterable[Demand]) -> str:
    """Return the demands as a Markdown list."""
    return "\n".join(demand.line() for demand in demands)


def mean_spread(values: Sequence[float], digits: int = 2) -> str:
    """Return "mean ± standard deviation", the mean alone for one value, a dash for none.

    Args:
        values: one per seed.
        digits: after the point.
    """
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def difference(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the mean of a minus the mean of b, or None if they are not of the same seeds."""
    return statistics.fmean(a) - statistics.fmean(b) if a and len(a) == len(b) else None


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column flush left and the others right.

    Args:
        header: titles.
        rows: cells, as many as titles.
    """
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
