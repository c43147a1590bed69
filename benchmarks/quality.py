"""How good the volumes are: every method on synthetic cells, several seeds, images unclipped and clipped.

The cells are painted and projected at twice the sampling and binned. The program is given the images, the angles and
the pixel size, nothing else. WBP, SIRT and the peer get the best of several settings, chosen with the truth; the peer
is also given the true gain and offset. Results are kept in DIR/results.jsonl as they come, and an interrupted run goes
on where it was ::

    python benchmarks/quality.py --out DIR --seeds 3 --sweep
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path

from bench import PEER, Bench, Row, cells, column, neural
from common import (
    SIRT,
    SNR,
    TILTS,
    WBP,
    Demand,
    Figures,
    Store,
    best,
    demand_lines,
    difference,
    markdown_table,
    mean_spread,
    write_text,
)
from tiltfield.config import SimulateConfig

DEFAULT = "auto"
ROWS = {
    "wbp": Row("WBP, best of 2 filters", WBP),
    "sirt": Row("SIRT, best of 10, 30, 100", SIRT),
    PEER: Row("mbirtorch, best of its sweep", ()),
    "voxels": Row("voxels + L2", neural("voxels", "l2")),
    "mlp": Row("MLP + L2", neural("mlp", "l2")),
    "l2": Row("hash grid + L2", neural("hashgrid", "l2")),
    "gaussian": Row("hash grid + Gaussian", neural("hashgrid", "gaussian")),
    "poisson-gaussian": Row("hash grid + Poisson-Gaussian", neural("hashgrid", "poisson-gaussian")),
    "flow": Row("hash grid + flow", neural("hashgrid", "flow")),
    DEFAULT: Row("hash grid, noise model told (default)", neural("hashgrid", "auto")),
}
CLIPS = {"both": (False, True), "no": (False,), "yes": (True,)}
FACTORS = (1 / 4, 1 / 2, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0, 4.0)  # on the chosen weight

Results = dict[tuple[str, bool], list[Figures]]


def settings_of(size: int, seed: int, clip: bool) -> SimulateConfig:
    """Return the settings of a cell and its images."""
    return SimulateConfig(size=size, tilts=TILTS, mode="bf", snr=SNR, seed=seed, clip=clip)


def values(results: Results, name: str, clip: bool, figure: str) -> list[float]:
    """Return one figure of a row, one value per seed."""
    return column(results.get((name, clip), []), figure)


def quality_table(results: Results) -> str:
    """Return the Markdown table: mean ± standard deviation over the seeds, unclipped and clipped side by side.

    Args:
        results: figures per row and clipping, one per seed.
    """
    clips = [clip for clip in (False, True) if any(c == clip for _, c in results)]
    header = ["method"]
    for kind in ("clipped" if clip else "unclipped" for clip in clips):
        header += [f"{kind}: whole box, dB", "inside the slab, dB", "seconds", "weight"]
    rows = []
    for name, row in ROWS.items():
        if any((name, clip) in results for clip in clips):
            rows.append([row.title, *(cell for clip in clips for cell in cells(results.get((name, clip), [])))])
    return markdown_table(header, rows)


def outline_line(results: Results) -> str:
    """Return what the bare outline of the slab scores over the whole box, for comparison."""
    clip = all(clipped for _, clipped in results)
    scores = max((values(results, name, clip, "outline_db") for name in ROWS), key=len)
    return f"The bare outline of the slab, without anything in it, scores {mean_spread(scores)} dB over the whole box."


def sweep_table(sweep: Mapping[float, Figures]) -> str:
    """Return the sweep of the weight as a Markdown table."""
    rows = [
        [f"{factor:.3g}", f"{f['tv_weight']:.3g}", f"{f['psnr_db']:.2f}", f"{f['inside_db']:.2f}"]
        for factor, f in sorted(sweep.items())
    ]
    return markdown_table(["weight / chosen", "weight", "whole box, dB", "inside the slab, dB"], rows)


def demands_of(results: Results, sweep: Mapping[float, Figures], seconds: float) -> list[Demand]:
    """Return what is asked, with its figures.

    Args:
        results: figures per row and clipping, one per seed.
        sweep: figures per factor on the chosen weight; may be empty.
        seconds: that a fit may take.
    """

    def gain(other: str, clip: bool) -> float | None:
        return difference(values(results, DEFAULT, clip, "psnr_db"), values(results, other, clip, "psnr_db"))

    demands = []
    for clip in (c for c in (False, True) if any(c == shown for _, shown in results)):
        kind = "clipped" if clip else "unclipped"
        demands += [
            Demand(f"{kind}: default - best SIRT", gain("sirt", clip), 4.0),
            Demand(f"{kind}: default - best mbirtorch", gain(PEER, clip), 1.2),
            Demand(f"{kind}: default - voxels + L2", gain("voxels", clip), 0.6),
        ]
        if clip:
            demands.append(Demand("clipped: default - hash grid + L2", gain("l2", clip), 0.6))
        analytic = [g for g in (gain("gaussian", clip), gain("poisson-gaussian", clip)) if g is not None]
        demands.append(Demand(f"{kind}: default - best analytic noise model", min(analytic, default=None), -0.1))
        slowest = max(values(results, DEFAULT, clip, "seconds"), default=None)
        demands.append(Demand(f"{kind}: slowest default fit", slowest, seconds, at_least=False, unit="s"))
    cost = difference(values(results, DEFAULT, False, "psnr_db"), values(results, DEFAULT, True, "psnr_db"))
    demands.append(Demand("cost of clipping to the default", cost, 0.3, at_least=False))
    lost = best(sweep.values())["psnr_db"] - sweep[1.0]["psnr_db"] if sweep else None
    return [*demands, Demand("best weight of the sweep - chosen weight", lost, 0.15, at_least=False)]


def report(results: Results, sweep: Mapping[float, Figures], size: int, seconds: float) -> str:
    """Return the whole report as Markdown."""
    seeds = max(len(figures) for figures in results.values())
    head = (
        f"PSNR after the best affine fit to the truth; cells of {size}³ voxels, tilts {TILTS}, bright field, "
        f"SNR {SNR:g}; mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; "
        f"at most {seconds:g} s a neural fit."
    )
    parts = ["# Quality", head, quality_table(results), outline_line(results)]
    if sweep:
        parts += ["## Weight sweep, seed 0", sweep_table(sweep)]
    return "\n\n".join([*parts, "## Asked", demand_lines(demands_of(results, sweep, seconds))]) + "\n"


# ---- command line --------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3, help="number of cells (default: 3)")
    parser.add_argument("--size", type=int, default=96, help="edge of the cells, voxels (default: 96)")
    parser.add_argument("--seconds", type=float, default=60, help="limit of a neural fit (default: 60)")
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--clip", choices=CLIPS, default="both", help="images clipped to [0, 1] (default: both)")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help=f"run {PEER}")
    parser.add_argument("--peer-iterations", type=int, help="run its best set with this many iterations as well")
    parser.add_argument("--sweep", action="store_true", help="fit with multiples of the chosen weight, seed 0")
    options = parser.parse_args()
    options.names = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := [name for name in options.names if name not in ROWS]:
        parser.error(f"unknown rows {', '.join(unknown)}: expected some of {', '.join(ROWS)}")
    if options.seeds < 1:
        parser.error(f"expected at least one seed, got {options.seeds}")
    options.names = [name for name in ROWS if name in options.names and (name != PEER or options.peer)]
    return options


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    bench = Bench(Store(options.out), ROWS, options.seconds, peer_iterations=options.peer_iterations)
    clips = CLIPS[options.clip]
    results: Results = {(name, clip): [] for name in options.names for clip in clips}
    for seed in range(options.seeds):
        for clip in clips:
            for name in options.names:
                results[name, clip].append(bench.row(name, settings_of(options.size, seed, clip))[0])
    first = settings_of(options.size, 0, clips[0])
    sweep = bench.sweep(DEFAULT, first, FACTORS) if options.sweep else {}
    text = report(results, sweep, options.size, options.seconds)
    write_text(options.out / "quality.md", text)
    bench.draw(options.names, first, options.out / "quality.png")
    print(text + f"\n{options.out / 'quality.md'}{os.linesep}{options.out / 'quality.png'}")


if __name__ == "__main__":
    main()
