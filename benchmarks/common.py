"""What the benchmarks share: results that survive interruption, measures against a truth, tables, demands."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate
from tiltfield.observe import Observer
from tiltfield.paper.store import Figures, Key, Store, hash_sources, key_name, read_results, write_text
from tiltfield.reconstruct import reconstruct
from tiltfield.series import TiltSeries, Volume
from tiltfield.simulate import Simulation

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tiltfield"
# What no reconstruction and no measure depends on: changes there leave results valid.
OUTSIDE = (
    *sorted(path.name for path in PACKAGE.glob("cli*.py")),
    *("__main__.py", "batch", "demo.py", "evidence", "export", "forecast.py", "io", "judge.py", "pace.py"),
    *("paper", "report", "run.py", "runfolder.py", "traits.py", "viewer.py"),
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

__all__ = ["Figures", "Key", "Store", "key_name", "read_results", "write_text"]  # from the package


# ---- results -------------------------------------------------------------------------------------------------------


def source_hash(*paths: Path) -> str:
    """Return a digest of python files, and of those in folders, by which results of other code are told apart.

    Args:
        *paths: files and folders; if none is given, the package but what is `OUTSIDE`.
    """
    return hash_sources(PACKAGE, paths, [PACKAGE / name for name in OUTSIDE])


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
