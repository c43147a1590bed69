"""How good the volumes are: every method on synthetic cells, several seeds, images unclipped and clipped.

The cells are painted and projected at twice the sampling and binned. The program is given the images, the angles and
the pixel size, nothing else. WBP, SIRT and the peer get the best of several settings, chosen with the truth; the peer
is also given the true gain and offset. Results are kept in DIR/results.jsonl as they come, and an interrupted run goes
on where it was ::

    python benchmarks/quality.py --out DIR --seeds 3 --sweep
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import (
    PACKAGE,
    ROOT,
    SIRT,
    SNR,
    TILTS,
    WBP,
    Demand,
    Figures,
    Key,
    Store,
    best,
    centred,
    demand_lines,
    difference,
    fit_and_score,
    markdown_table,
    mean_spread,
    score,
    source_hash,
    write_text,
)
from peers.mbirtorch_env import make_environment
from tiltfield.config import SimulateConfig
from tiltfield.contrast import Levels, linearise
from tiltfield.report import compare_figure
from tiltfield.run import atomic
from tiltfield.series import Volume
from tiltfield.simulate import Simulation, simulate


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: in the table.
        variants: settings of which the truth picks the best; empty for the peer, which has its own sweep.
    """

    title: str
    variants: tuple[Mapping[str, Any], ...]


def _neural(field: str, noise: str) -> tuple[Mapping[str, Any], ...]:
    return ({"field": field, "noise": noise},)


DEFAULT = "flow"
PEER = "mbirtorch"
ROWS = {
    "wbp": Row("WBP, best of 2 filters", WBP),
    "sirt": Row("SIRT, best of 10, 30, 100", SIRT),
    PEER: Row("mbirtorch, best of its sweep", ()),
    "voxels": Row("voxels + L2", _neural("voxels", "l2")),
    "mlp": Row("MLP + L2", _neural("mlp", "l2")),
    "l2": Row("hash grid + L2", _neural("hashgrid", "l2")),
    "gaussian": Row("hash grid + Gaussian", _neural("hashgrid", "gaussian")),
    "poisson-gaussian": Row("hash grid + Poisson-Gaussian", _neural("hashgrid", "poisson-gaussian")),
    DEFAULT: Row("hash grid + flow (default)", _neural("hashgrid", "flow")),
}
CLIPS = {"both": (False, True), "no": (False,), "yes": (True,)}
# Factors on the chosen weight. 1 is fitted anew: with a weight given, the time to choose one goes into the fit, so that
# only fits with given weights compare.
FACTORS = (1 / 4, 1 / 2, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0, 4.0)

# The peer's sweep, one setting after another, each at the best of those before. On seed 0, snr_db 10, 15, 20 at
# sharpness 0 gave 18.15, 18.50, 16.74 dB; sharpness -1 at 15 gave 17.43, no positivity 18.19, a linear sinogram 16.91.
PEER_SNR_DB = (12.0, 15.0, 18.0, 21.0)
PEER_SHARPNESS = (-0.5, 0.5)  # 0 is in the first part
PEER_SCRIPT = ROOT / "benchmarks" / "peers" / "mbirtorch_run.py"
# What a peer's result depends on; other changes of the package leave it valid.
PEER_PARTS = ("simulate", "contrast.py", "config.py", "evaluate.py", "metrics.py")

Results = dict[tuple[str, bool], list[Figures]]


@functools.lru_cache(maxsize=2)
def simulation_of(size: int, seed: int, clip: bool) -> Simulation:
    """Return a synthetic cell and its images."""
    return simulate(simulation_settings(size, seed, clip))


def simulation_settings(size: int, seed: int, clip: bool) -> SimulateConfig:
    """Return the settings of a cell."""
    return SimulateConfig(size=size, tilts=TILTS, mode="bf", snr=SNR, seed=seed, clip=clip)


class Bench:
    """Runs what has not been run yet.

    Args:
        store: keeps the results.
        size: edge of the cells, voxels.
        seconds: limit of a neural fit.
        peer_iterations: if set, the peer's best set is also run with this many iterations.
    """

    def __init__(self, store: Store, size: int, seconds: float, peer_iterations: int | None = None) -> None:
        self.store, self.size, self.seconds, self.peer_iterations = store, size, seconds, peer_iterations
        self.code = source_hash()
        self.peer_code = source_hash(*(PACKAGE / part for part in PEER_PARTS), PEER_SCRIPT)

    def row(self, name: str, seed: int, clip: bool) -> tuple[Figures, Key]:
        """Return the figures and the key of a row's best variant; volumes of seed 0 are kept for the picture."""
        if name == PEER:
            keys = self._peer(seed, clip)
        else:
            keys = [self._own(variant, seed, clip) for variant in ROWS[name].variants]
        figures = {json.dumps(key): self.store.once(key, _missing) for key in keys}
        chosen = best(figures.values())
        return chosen, next(key for key in keys if figures[json.dumps(key)] is chosen)

    def sweep(self, clip: bool) -> dict[float, Figures]:
        """Return the default at multiples of the weight it chose on seed 0, by factor."""
        variant = ROWS[DEFAULT].variants[0]
        chosen = self.row(DEFAULT, 0, clip)[0]["tv_weight"]
        keys = {f: self._own({**variant, "tv_weight": chosen * f}, 0, clip, keep=False) for f in FACTORS}
        return {factor: self.store.once(key, _missing) for factor, key in keys.items()}

    def _own(self, variant: Mapping[str, Any], seed: int, clip: bool, *, keep: bool | None = None) -> Key:
        """Run one of the package's methods, and return its key."""
        settings = {**variant} if "method" in variant else {**variant, "max_time": self.seconds, "seed": seed}
        key = self._key(settings, seed, clip, self.code)
        self.store.once(
            key,
            lambda: _said(key, fit_and_score(simulation_of(self.size, seed, clip), settings)),
            keep=seed == 0 if keep is None else keep,
        )
        return key

    def _key(self, settings: Mapping[str, Any], seed: int, clip: bool, code: str) -> Key:
        made = simulation_settings(self.size, seed, clip).model_dump(mode="json")
        return {"simulation": made, "settings": dict(settings), "code": code}

    def _peer(self, seed: int, clip: bool) -> list[Key]:
        """Run the peer's sweep, and return the keys."""
        tried = [peer_set(snr_db) for snr_db in PEER_SNR_DB]
        chosen = self._best_set(tried, seed, clip)
        tried += [{**chosen, "sharpness": sharpness} for sharpness in PEER_SHARPNESS]
        chosen = self._best_set(tried, seed, clip)
        tried.append({**chosen, "positivity_flag": False})
        if self.peer_iterations:
            chosen = self._best_set(tried, seed, clip)
            tried.append({**chosen, "max_iterations": self.peer_iterations, "stop_threshold_change_pct": 0})
        self._best_set(tried, seed, clip)
        return [self._peer_key(parameters, seed, clip) for parameters in tried]

    def _best_set(self, sets: Sequence[dict[str, Any]], seed: int, clip: bool) -> dict[str, Any]:
        """Run the sets of parameters that are missing, and return the best of all."""
        keys = [self._peer_key(parameters, seed, clip) for parameters in sets]
        missing = [s for s, key in zip(sets, keys, strict=True) if not self.store.has(key, keep=seed == 0)]
        if missing:
            simulation = simulation_of(self.size, seed, clip)
            for parameters, (figures, volume) in zip(missing, run_peer(simulation, missing), strict=True):
                key = self._peer_key(parameters, seed, clip)
                result = _said(key, (figures | score(volume, simulation), volume))
                self.store.once(key, lambda result=result: result, keep=seed == 0)
        return max(zip(sets, keys, strict=True), key=lambda pair: self.store.once(pair[1], _missing)["psnr_db"])[0]

    def _peer_key(self, parameters: Mapping[str, Any], seed: int, clip: bool) -> Key:
        return self._key({"peer": PEER, **parameters}, seed, clip, self.peer_code)


def _missing() -> tuple[Figures, np.ndarray]:
    raise AssertionError("this result should have been there")


def _said(key: Key, result: tuple[Figures, np.ndarray]) -> tuple[Figures, np.ndarray]:
    """Print a result as it comes, and pass it on."""
    figures, made = result[0], key["simulation"]
    words = ", ".join(f"{name} {value}" for name, value in key["settings"].items())
    print(
        f"seed {made['seed']}{', clipped' if made['clip'] else ''}: {words}: {figures['psnr_db']:.2f} dB, "
        f"inside {figures['inside_db']:.2f} dB, {figures['seconds']:.1f} s",
        flush=True,
    )
    return result


# ---- the peer ------------------------------------------------------------------------------------------------------


def peer_set(snr_db: float, sharpness: float = 0.0, positivity: bool = True) -> dict[str, Any]:
    """Return one set of the peer's parameters."""
    return {"snr_db": snr_db, "sharpness": sharpness, "positivity_flag": positivity}


def run_peer(simulation: Simulation, sets: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Figures, np.ndarray]]:
    """Run the peer in its own environment, and yield figures and volume of each set of parameters.

    Args:
        simulation: images; its true gain and offset make the sinogram, in the peer's favour.
        sets: parameters.
    """
    levels = Levels(0.0, 1.0, simulation.offset, simulation.gain, 1.0)
    sinogram = linearise(simulation.noisy, simulation.config.mode, levels)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, sinogram=sinogram, angles_deg=simulation.angles_deg)
        command = [str(make_environment()), str(PEER_SCRIPT), str(source), str(target)]
        done = subprocess.run(
            [*command, "--parameters", json.dumps(list(sets))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{PEER} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        with np.load(target) as data:
            for volume, seconds, iterations in zip(data["volumes"], data["seconds"], data["iterations"], strict=True):
                yield {"seconds": float(seconds), "iterations": int(iterations)}, volume


# ---- the report ----------------------------------------------------------------------------------------------------


def column(results: Results, name: str, clip: bool, figure: str) -> list[float]:
    """Return one figure of a row, one value per seed."""
    return [figures[figure] for figures in results.get((name, clip), []) if figures.get(figure) is not None]


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
            rows.append([row.title, *(cell for clip in clips for cell in _cells(results, name, clip))])
    return markdown_table(header, rows)


def _cells(results: Results, name: str, clip: bool) -> list[str]:
    digits = {"psnr_db": 2, "inside_db": 2, "seconds": 0, "tv_weight": 2}
    return [mean_spread(column(results, name, clip, figure), n) for figure, n in digits.items()]


def outline_line(results: Results) -> str:
    """Return what the bare outline of the slab scores over the whole box, for comparison."""
    clip = all(clipped for _, clipped in results)
    values = max((column(results, name, clip, "outline_db") for name in ROWS), key=len)
    return f"The bare outline of the slab, without anything in it, scores {mean_spread(values)} dB over the whole box."


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
        return difference(column(results, DEFAULT, clip, "psnr_db"), column(results, other, clip, "psnr_db"))

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
        demands.append(Demand(f"{kind}: flow - best analytic noise model", min(analytic, default=None), -0.1))
        slowest = max(column(results, DEFAULT, clip, "seconds"), default=None)
        demands.append(Demand(f"{kind}: slowest default fit", slowest, seconds, at_least=False, unit="s"))
    cost = difference(column(results, DEFAULT, False, "psnr_db"), column(results, DEFAULT, True, "psnr_db"))
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


def draw(bench: Bench, names: Sequence[str], clip: bool, path: Path) -> None:
    """Draw the sections of every row on seed 0."""
    truth = simulation_of(bench.size, 0, clip).volume()
    volumes = {}
    for name in names:
        figures, key = bench.row(name, 0, clip)
        data = centred(bench.store.volume(key), len(truth.data))
        volumes[f"{ROWS[name].title}\n{figures['psnr_db']:.2f} dB"] = Volume(data, truth.voxel_size_nm)
    with atomic(path) as part:
        compare_figure(truth, volumes, part)


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
    bench = Bench(Store(options.out), options.size, options.seconds, options.peer_iterations)
    clips = CLIPS[options.clip]
    results: Results = {(name, clip): [] for name in options.names for clip in clips}
    for seed in range(options.seeds):
        for clip in clips:
            for name in options.names:
                results[name, clip].append(bench.row(name, seed, clip)[0])
    sweep = bench.sweep(clips[0]) if options.sweep else {}
    text = report(results, sweep, options.size, options.seconds)
    write_text(options.out / "quality.md", text)
    draw(bench, options.names, clips[0], options.out / "quality.png")
    print(text + f"\n{options.out / 'quality.md'}{os.linesep}{options.out / 'quality.png'}")


if __name__ == "__main__":
    main()
