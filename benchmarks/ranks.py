"""Strong scaling: one series by several processes of one thread each, against one process of as many threads.

Both are timed in turns, from the start of the command to its last file, and once more within the program, without the
start of Python. Means something on a quiet machine only. ::

    python benchmarks/ranks.py --out DIR
    python benchmarks/ranks.py --out DIR --size 128 --processes 4 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import markdown_table
from tiltfield.config import SimulateConfig
from tiltfield.metrics import psnr_affine
from tiltfield.series import Volume
from tiltfield.simulate import simulate

ASKED = 0.85


def main() -> None:
    """Run both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the series and the runs")
    parser.add_argument("--size", type=int, default=96, help="edge of the cell, voxels")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--preset", default="standard")
    options = parser.parse_args()
    made = simulate(SimulateConfig(size=options.size, cell="paper", tilts="-60:60:2", snr=1))
    made.save(options.out, overwrite=True)
    n = options.processes
    module = ["-m", "tiltfield"]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    starts = {f"1 process, {n} threads": ([*module], n), f"{n} processes, 1 thread": ([*together, *module], 1)}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in starts}
    for _ in range(options.repeats):
        for name, (start, threads) in starts.items():
            run = options.out / "run"
            shutil.rmtree(run, ignore_errors=True)
            series = [options.out / "noisy.mrc", "--angles", options.out / "series.rawtlt", "--mode", made.config.mode]
            words = [*start, "reconstruct", *series, "--out", run, "--preset", options.preset, "--device", "cpu"]
            began = time.perf_counter()
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True, env=environment)
            wall = time.perf_counter() - began
            seconds = json.loads((run / "metrics.json").read_text())["seconds"]
            quality = psnr_affine(_in_cube(Volume.load(run / "volume.mrc"), options.size), made.truth)
            found[name].append((wall, seconds, quality))
            print(f"{name}: {wall:.1f} s, {quality:.2f} dB", file=sys.stderr, flush=True)
    medians = {name: [statistics.median(values) for values in zip(*runs, strict=True)] for name, runs in found.items()}
    rows = [[name, f"{wall:.1f}", f"{inside:.1f}", f"{db:.2f}"] for name, (wall, inside, db) in medians.items()]
    print(markdown_table(["", "s, whole command", "s, reconstruction", "affine PSNR"], rows))
    whole, inside = (sorted(a[k] / b[k] for a, b in zip(*found.values(), strict=True)) for k in (0, 1))
    ratio = statistics.median(inside)
    verdict = "met" if ratio >= ASKED else "NOT met"
    print(
        f"\nspeed of {n} processes over one of {n} threads, medians of {options.repeats} pairs: {ratio:.3f} "
        f"({inside[0]:.2f} to {inside[-1]:.2f}; asked ≥ {ASKED}: {verdict}), whole commands "
        f"{statistics.median(whole):.2f}; load {os.getloadavg()[0]:.1f}"
    )


def _in_cube(volume: Volume, size: int) -> object:
    """Return a volume with empty layers above and below, up to a cube."""
    import numpy as np

    more = size - volume.data.shape[0]
    return np.pad(volume.data, ((more // 2, more - more // 2), (0, 0), (0, 0)))


if __name__ == "__main__":
    main()
