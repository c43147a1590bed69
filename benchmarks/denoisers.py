"""Denoisers of images against the clean images of the paper's cells: PSNR and seconds.

    python benchmarks/denoisers.py --out DIR [--size 96] [--seeds 3] [--rows bm3d,topaz,...]

Cells and noise are those of `tiltfield paper`. The Gaussian filter gets the width that suits each series best, seen
with the truth. A row whose package is missing says so.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import get_args

import numpy as np
from scipy.ndimage import gaussian_filter

from common import Figures, Key, Store, mean_spread, source_hash
from tiltfield.config import DenoiserName, SimulateConfig
from tiltfield.denoise import denoise
from tiltfield.errors import InputError
from tiltfield.paper.options import Options, cell
from tiltfield.run import atomic
from tiltfield.simulate import Simulation, simulate

WIDTHS = (0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
NOISY, GAUSSIAN = "none", "Gaussian filter of the best width"
ROWS = (NOISY, GAUSSIAN, *get_args(DenoiserName))


def psnr(images: np.ndarray, made: Simulation) -> float:
    """Return the PSNR against the clean images, peak = their range, dB."""
    error = np.mean((images.astype(np.float64) - made.clean) ** 2)
    return float(20 * np.log10(np.ptp(made.clean)) - 10 * np.log10(error))


def judge(name: str, settings: SimulateConfig) -> tuple[Figures, np.ndarray]:
    """Denoise the series of a cell and return its figures, and no volume."""
    made = simulate(settings)
    began = time.perf_counter()
    if name == NOISY:
        found = psnr(made.noisy, made)
    elif name == GAUSSIAN:
        found = max(psnr(gaussian_filter(made.noisy, (0, w, w)), made) for w in WIDTHS)
    else:
        found = psnr(denoise(made.series(), name).images, made)
    return {"psnr_db": found, "seconds": time.perf_counter() - began}, np.empty(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    args = parser.parse_args()
    store, code = Store(args.out), source_hash()
    lines = ["| denoiser | PSNR, dB | seconds |", "|---|---|---|"]
    for name in args.rows.split(","):
        found = []
        for seed in range(args.seeds):
            made = cell(Options(size=args.size), seed)
            key: Key = {"simulation": made.model_dump(mode="json"), "denoiser": name, "code": code}
            try:
                found.append(store.once(key, functools.partial(judge, name, made)))
            except InputError as error:
                print(f"{name}: not run: {error}")
                break
        cells = [mean_spread([f[key] for f in found], digits) for key, digits in (("psnr_db", 2), ("seconds", 0))]
        lines.append(f"| {name} | {' | '.join(cells) if found else 'not run | '} |")
        print(lines[-1], flush=True)
    with atomic(args.out / "denoisers.md") as part:
        part.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
