"""Does the uncertainty of `tiltfield evaluate --uncertainty` grow with the error, and do its intervals cover the truth?

Each cell is simulated, reconstructed, and its volume fitted again from half sets of the tilts. Figures are of seeds
that had no part in choosing the law or its constants. What was fitted is kept in DIR, and an interrupted run goes on
where it was ::

    python benchmarks/uncertainty.py --out DIR                 # the table
    python benchmarks/uncertainty.py --out DIR --kinds sharp   # that of cells unlike those of the calibration
    python benchmarks/uncertainty.py --out DIR --calibrate     # the constants of tiltfield.evidence.uncertainty.LAW

Volumes in DIR belong to the fit that made them: take another DIR when the field, regulariser or schedule has changed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import Demand, demand_lines, markdown_table
from tiltfield.config import SimulateConfig
from tiltfield.evaluate import same_box
from tiltfield.evidence.coverage import coverage, error_by_deviation, errors, rank_correlation, widths
from tiltfield.evidence.rerun import reopen
from tiltfield.evidence.uncertainty import LAW, Law, features, half_sets, refit_halves
from tiltfield.observe import Observer
from tiltfield.replacing import atomic
from tiltfield.run import Request, run
from tiltfield.series import Volume
from tiltfield.simulate import simulate


@dataclass(frozen=True)
class Kind:
    """Cells of one kind: settings of `simulate`, and the seeds of the cells that calibrate the law or test it."""

    settings: dict[str, Any]
    calibrated: tuple[int, ...]
    tested: tuple[int, ...]


KINDS = {
    "simple": Kind(
        {"size": 48, "mode": "bf", "tilts": "-60:60:3", "snr": 0.7}, (0, 1, 2, 3, 4, 5, 100, 101), (6, 7, 8)
    ),
    "paper": Kind(
        {"size": 48, "cell": "paper", "mode": "haadf", "tilts": "-60:60:3", "snr": 1.0, "scan_correlation": 0.4},
        (0, 1, 2, 100, 101),
        (3, 4, 5),
    ),
    "demo": Kind({"size": 96, "mode": "bf", "tilts": "-50:50:1.5", "snr": 0.7}, (0, 100, 101), (1, 2, 3)),
    "sharp": Kind({"size": 48, "mode": "bf", "tilts": "-65:65:2.5", "snr": 5.0}, (), (0, 100)),
}
LEVELS = (0.5, 0.68, 0.9, 0.95)
FLOOR = 0.02  # of the law's features
SOFT = 0.1  # added to |error|, of its deviation, so that voxels that happen to be right do not count for all
TOLERANCE = 0.05  # on coverage


@dataclass(frozen=True, eq=False)
class Case:
    """A cell with its volume, refits and truth, all in the volume's box, shape (z, y, x)."""

    name: str
    volume: np.ndarray
    refits: np.ndarray
    truth: np.ndarray
    inside: np.ndarray

    @property
    def kind(self) -> str:
        """Return the kind of cell."""
        return self.name.split("-")[0]

    @property
    def error(self) -> np.ndarray:
        """Return volume - truth, in the volume's unit."""
        return errors(self.volume, self.truth)


def case(out: Path, kind: str, seed: int) -> Case:
    """Return a case, from its file if it was made before."""
    name = f"{kind}-{seed}"
    kept = out / f"{name}.npz"
    if not kept.exists():
        _make(out, kept, {**KINDS[kind].settings, "seed": seed})
    with np.load(kept) as arrays:
        return Case(name, *(arrays[key] for key in ("volume", "refits", "truth", "inside")))


def _make(out: Path, kept: Path, settings: dict[str, Any]) -> None:
    simulation = simulate(SimulateConfig.parse(settings, "benchmark"))
    files = out / kept.stem
    simulation.save(files, overwrite=True)
    asked = {"angles": files / "series.rawtlt", "threads": 1, "device": "cpu"}
    run(Request(files / "run", files / "noisy.mrc", asked, resume=True), Observer())
    found = reopen(files / "run")
    volumes = refit_halves(found, half_sets(found.series.angles_deg, found.config.seed), Observer())
    box = Volume(np.zeros_like(found.volume.data))
    truth, inside = (same_box(Volume(part.astype(np.float32)), box) for part in (simulation.truth, simulation.inside))
    with atomic(kept) as part:
        np.savez(part, volume=found.volume.data, refits=np.stack(volumes), truth=truth, inside=inside > 0.5)


def calibrate(cases: Sequence[Case]) -> Law:
    """Return the law that fits the errors of some cells best, by least squares on logarithms; every kind counts alike.

    Powers sum to 1: a density in another unit has its uncertainty in that unit. Widths are means of those that cover
    the voxels of a cell and those that cover its inside.
    """
    kinds = [found.kind for found in cases]
    shares = np.array([1 / (kinds.count(kind) * len(set(kinds))) for kind in kinds])
    rows, aims = [], []
    for found, share in zip(cases, shares, strict=True):
        *logs, last = (log.ravel() for log in features(found.volume, found.refits, FLOOR))
        weight = math.sqrt(share / last.size)
        rows.append(weight * np.stack([*(log - last for log in logs), np.ones_like(last)], axis=1))
        aims.append(weight * (np.log(np.abs(found.error).ravel() + SOFT * found.error.std()) - last))
    *powers, constant = (float(p) for p in np.linalg.lstsq(np.concatenate(rows), np.concatenate(aims), rcond=None)[0])
    law = Law(constant, (*powers, 1 - sum(powers)), FLOOR, {})
    k = dict.fromkeys(LEVELS, 0.0)
    for found, share in zip(cases, shares, strict=True):
        for where in (np.ones_like(found.inside), found.inside):
            error, deviation = found.error[where], law.deviation(found.volume, found.refits)[where]
            for level, width in widths(error, deviation, LEVELS).items():
                k[level] += share * width / 2
    unit = k[0.68]
    return replace(
        law, constant=constant + math.log(unit), widths={level: float(width / unit) for level, width in k.items()}
    )


def table(cases: Sequence[Case], law: Law) -> str:
    """Return coverage over all voxels and inside the specimen, and rank correlations, as Markdown."""
    header = ["cell", *(f"{level:.0%}" for level in LEVELS), *(f"{level:.0%} inside" for level in LEVELS)]
    figures = []
    for found in cases:
        error, deviation = found.error, law.deviation(found.volume, found.refits)
        covered = _covered(error, deviation, law) + _covered(error[found.inside], deviation[found.inside], law)
        mean, rms = error_by_deviation(error, deviation)
        ranks = [rank_correlation(error, deviation), rank_correlation(error[found.inside], deviation[found.inside])]
        figures.append([*(100 * c for c in covered), *ranks, rank_correlation(rms, mean)])
    names = [*(found.name for found in cases), "mean", "standard deviation"]
    figures += [np.mean(figures, axis=0).tolist(), np.std(figures, axis=0, ddof=1).tolist()]
    split = 2 * len(LEVELS)
    rows = [
        [name, *(f"{value:.1f}" for value in row[:split]), *(f"{value:.2f}" for value in row[split:])]
        for name, row in zip(names, figures, strict=True)
    ]
    return markdown_table([*header, "Spearman", "inside", "of 10 bins"], rows)


def _covered(error: np.ndarray, deviation: np.ndarray, law: Law) -> list[float]:
    return [coverage(error, deviation, law.widths[level]) for level in LEVELS]


def demands(cases: Sequence[Case], law: Law) -> list[Demand]:
    """Return what is asked, with its figures."""
    off: dict[str, list[list[float]]] = {"all voxels": [], "inside": []}
    ranks = []
    for found in cases:
        error, deviation = found.error, law.deviation(found.volume, found.refits)
        for where, mask in (("all voxels", np.ones_like(found.inside)), ("inside", found.inside)):
            covered = _covered(error[mask], deviation[mask], law)
            off[where].append([100 * (c - level) for c, level in zip(covered, LEVELS, strict=True)])
        mean, rms = error_by_deviation(error, deviation)
        ranks.append(rank_correlation(rms, mean))
    asked = [
        Demand(f"{where}, {level:.0%}: coverage less nominal, {how}", figure, 100 * TOLERANCE, False, "points")
        for where, rows in off.items()
        for level, column in zip(LEVELS, zip(*rows, strict=True), strict=True)
        for how, figure in (("mean", abs(float(np.mean(column)))), ("worst cell", float(np.abs(column).max())))
    ]
    return [*asked, Demand("rank correlation of error and uncertainty in bins, worst cell", min(ranks), 0.9, unit="")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["simple", "paper", "demo"])
    parser.add_argument("--calibrate", action="store_true", help="fit the law to the seeds that are there for it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = {kind: KINDS[kind].calibrated if options.calibrate else KINDS[kind].tested for kind in options.kinds}
    cases = [case(options.out, kind, seed) for kind in options.kinds for seed in seeds[kind]]
    law = calibrate(cases) if options.calibrate else LAW
    print(law)
    print(table(cases, law))
    print(demand_lines(demands(cases, law)))


if __name__ == "__main__":
    main()
