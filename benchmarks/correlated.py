"""How good the volumes are where noise is correlated along the scan: noise models, the peer, and held-out pixels.

Cells of 96³ voxels in HAADF, tilts ±60° by 2°, SNR 1, noise of a detector that answers slowly: neighbours along the
scan correlate by 0.5. The program is given the images, the angles and the pixel size, nothing else. Results are kept in
DIR/results.jsonl as they come, and an interrupted run goes on where it was ::

    python benchmarks/correlated.py --out DIR --seeds 3 --sweep
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench import PEER, Bench, Row, cells, column, neural
from common import (
    SIRT,
    Demand,
    Figures,
    Store,
    best,
    demand_lines,
    difference,
    fit_and_score,
    markdown_table,
    write_text,
)
from tiltfield import rehearsal
from tiltfield.config import SimulateConfig
from tiltfield.simulate import Simulation

TILTS, SNR, CORRELATION = "-60:60:2", 1.0, 0.5
AXES = ("x", "y")  # along which the scan can run
DEFAULT = "auto"
INDEPENDENT = "single pixels held out"
TWIN = "scan-poisson-gaussian"  # what the default starts from
MODELS = ("l2", "gaussian", "poisson-gaussian", "flow", "flow-paper", TWIN)
ROWS = {
    "sirt": Row("SIRT, best of 10, 30, 100", SIRT),
    PEER: Row("mbirtorch, best of its sweep", ()),
    **{name: Row(f"hash grid + {name}", neural("hashgrid", name)) for name in MODELS},
    DEFAULT: Row("default, noise model told", neural("hashgrid", "auto")),
    INDEPENDENT: Row(
        "default, single held-out pixels", ({"field": "hashgrid", "noise": "auto", "held_out": "pixels"},)
    ),
}
DRAWN = ("sirt", PEER, "l2", "flow", DEFAULT, INDEPENDENT)
FACTORS = (1 / 2, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0)  # on the chosen weight

Results = dict[str, list[Figures]]
Sweeps = list[dict[float, Figures]]


def settings_of(size: int, seed: int, axis: str) -> SimulateConfig:
    """Return the settings of a cell and its images."""
    return SimulateConfig(
        size=size, tilts=TILTS, mode="haadf", snr=SNR, scan_correlation=CORRELATION, scan_axis=axis, seed=seed
    )


def fitted(simulation: Simulation, settings: Mapping[str, Any]) -> tuple[Figures, np.ndarray]:
    """Reconstruct and judge; ``held_out: pixels`` leaves the held-out pixels single, where they should be runs."""
    given = dict(settings)
    if given.pop("held_out", None) is None:
        return fit_and_score(simulation, given)
    with mock.patch.object(rehearsal, "hold_out_again", lambda problem, *_: problem):
        return fit_and_score(simulation, given)


def sweep_table(sweeps: Sweeps) -> str:
    """Return the sweeps of the weight as a Markdown table, one column per seed."""
    rows = [
        [f"{factor:.3g}", *(f"{sweep[factor]['psnr_db']:.2f} ({sweep[factor]['tv_weight']:.2g})" for sweep in sweeps)]
        for factor in FACTORS
    ]
    return markdown_table(["weight / chosen", *(f"seed {seed}, dB (weight)" for seed in range(len(sweeps)))], rows)


def demands_of(results: Results, sweeps: Sweeps, seeds: int, axis: str) -> list[Demand]:
    """Return what is asked, with its figures."""
    ours = column(results.get(DEFAULT, []), "psnr_db")
    found = [f.get("scan_axis") == axis for f in results.get(DEFAULT, [])]
    demands = [Demand("seeds whose scan axis was found", float(sum(found)), seeds, unit="")]
    gains = {name: difference(ours, column(results.get(name, []), "psnr_db")) for name in MODELS}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    demands.append(Demand("default - best other noise model", min(known.values(), default=None), 0.0))
    single = [gain for name, gain in known.items() if name != TWIN]  # which take pixels one by one
    demands.append(Demand("default - best noise model of single pixels", min(single, default=None), 0.0))
    demands.append(Demand("default - best mbirtorch", difference(ours, column(results.get(PEER, []), "psnr_db")), 0.8))
    lost = [best(sweep.values())["psnr_db"] - sweep[1.0]["psnr_db"] for sweep in sweeps]
    worst = max(lost, default=None)
    return [*demands, Demand("best weight of the sweep - chosen weight, worst seed", worst, 0.15, at_least=False)]


def held_out_line(results: Results) -> str:
    """Return how far off the weight is that single held-out pixels choose."""
    single, runs = (results.get(name, []) for name in (INDEPENDENT, DEFAULT))
    off = [a["tv_weight"] / b["tv_weight"] for a, b in zip(single, runs, strict=False)]
    lost = difference(column(runs, "psnr_db"), column(single, "psnr_db"))
    if not off or lost is None:
        return ""
    factors = ", ".join(f"{f:.2f}" for f in off)
    return f"Single held-out pixels choose {factors} times the weight that runs choose, and cost {lost:.2f} dB."


def report(results: Results, sweeps: Sweeps, options: argparse.Namespace) -> str:
    """Return the whole report as Markdown."""
    seeds, axis = options.seeds, options.axis
    head = (
        f"PSNR after the best affine fit to the truth; cells of {options.size}³ voxels, tilts {TILTS}, HAADF, "
        f"SNR {SNR:g}, noise of neighbours along {axis} correlated by {CORRELATION:g}; mean ± standard deviation "
        f"over {seeds} seed{'s' * (seeds > 1)}; at most {options.seconds:g} s a neural fit."
    )
    header = ["method", "whole box, dB", "inside the slab, dB", "seconds", "weight"]
    table = markdown_table(header, [[ROWS[name].title, *cells(figures)] for name, figures in results.items()])
    parts = ["# Correlated noise", head, table, held_out_line(results)]
    if sweeps:
        parts += ["## Weight sweep of the default", sweep_table(sweeps)]
    return "\n\n".join([*parts, "## Asked", demand_lines(demands_of(results, sweeps, seeds, axis))]) + "\n"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3, help="number of cells (default: 3)")
    parser.add_argument("--size", type=int, default=96, help="edge of the cells, voxels (default: 96)")
    parser.add_argument("--axis", choices=AXES, default="x", help="along which the scan runs (default: x)")
    parser.add_argument("--seconds", type=float, default=60, help="limit of a neural fit (default: 60)")
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--peer-iterations", type=int, help=f"run {PEER}'s best set with this many iterations as well")
    parser.add_argument("--sweep", action="store_true", help="fit with multiples of the chosen weight")
    options = parser.parse_args()
    options.names = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := [name for name in options.names if name not in ROWS]:
        parser.error(f"unknown rows {', '.join(unknown)}: expected some of {', '.join(ROWS)}")
    return options


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    bench = Bench(
        Store(options.out),
        ROWS,
        options.seconds,
        peer_iterations=options.peer_iterations,
        fitter=fitted,
    )
    cases = [settings_of(options.size, seed, options.axis) for seed in range(options.seeds)]
    results = {name: [bench.row(name, made)[0] for made in cases] for name in ROWS if name in options.names}
    sweeps = [bench.sweep(DEFAULT, made, FACTORS) for made in cases] if options.sweep else []
    text = report(results, sweeps, options)
    write_text(options.out / "correlated.md", text)
    bench.draw([name for name in DRAWN if name in results], cases[0], options.out / "correlated.png")
    print(text + f"\n{options.out / 'correlated.md'}{os.linesep}{options.out / 'correlated.png'}")


if __name__ == "__main__":
    main()
