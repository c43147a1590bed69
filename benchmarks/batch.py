"""Which workers get most done on this machine: the same series by fewer workers of more threads, and by more of fewer.

Means something on a quiet machine only ::

    python benchmarks/batch.py --out DIR
    python benchmarks/batch.py --out DIR --size 128 --series 8 --shares 1x8,2x4,4x2,8x1
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from tiltfield.batch.board import Board
from tiltfield.batch.many import BatchRequest, run_batch
from tiltfield.config import SimulateConfig
from tiltfield.io import write_stack
from tiltfield.simulate import simulate


def series_of(size: int, count: int, out: Path) -> list[Path]:
    """Return simulated series, made if they are not there yet."""
    paths = [out / f"{size}-{seed}.mrc" for seed in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            series = simulate(SimulateConfig(size=size, tilts="-60:60:2", seed=seed)).series()
            path.with_suffix(".rawtlt").write_text("".join(f"{angle}\n" for angle in series.angles_deg))
            write_stack(series.images, path, 1.0)
    return paths


def main() -> None:
    """Run every share, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--series", type=int, default=4)
    parser.add_argument("--shares", default="1x1,1x2,2x1", help="WORKERSxTHREADS, several")
    parser.add_argument("--preset", default="draft")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = series_of(options.size, options.series, options.out)
    print("| workers | threads each | seconds | series an hour |\n| --- | --- | --- | --- |")
    for share in options.shares.split(","):
        workers, threads = (int(n) for n in share.split("x"))
        out = options.out / f"run-{share}"
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        result = run_batch(
            BatchRequest(out, paths, {"preset": options.preset, "threads": threads}, workers=workers), Board(quiet=True)
        )
        seconds = time.perf_counter() - began
        if result.unfinished:
            raise SystemExit(f"not all series finished: see {out / 'summary.csv'}")
        print(f"| {workers} | {threads} | {seconds:.0f} | {3600 * len(paths) / seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
