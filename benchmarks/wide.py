"""A slab that goes on beyond the image, against the same slab in vacuum; and what padding costs where none is needed.

Three fits by the default method: the wide slab, the narrow one, and the narrow one with padding forced on it ::

    python benchmarks/wide.py --out DIR
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from common import (
    SNR,
    TILTS,
    Demand,
    Figures,
    Store,
    centred,
    demand_lines,
    fit_and_score,
    markdown_table,
    source_hash,
    write_text,
)
from tiltfield import plan
from tiltfield.config import SimulateConfig
from tiltfield.report import compare_figure
from tiltfield.run import atomic
from tiltfield.series import Volume
from tiltfield.simulate import Simulation, simulate

BORDER = 3  # columns on each side
WALL = 1.15  # bright walls: the border is denser against the middle than in the truth by this factor
CASES = {"wide": (True, False), "narrow": (False, False), "narrow, padded": (False, True)}  # slab wide, padding forced


@contextlib.contextmanager
def padding_forced(forced: bool) -> Iterator[None]:
    """Make every specimen count as one that goes on beyond the field of view, if `forced`."""
    before = plan.BESIDE
    plan.BESIDE = -1.0 if forced else before
    try:
        yield
    finally:
        plan.BESIDE = before


def border_ratio(volume: np.ndarray, inside: np.ndarray, border: int = BORDER) -> float:
    """Return the mean density in the outer columns over that in the central half, within the slab.

    Args:
        volume: shape (z, y, x).
        inside: bool, same shape: the slab.
        border: columns on each side.
    """
    n_x = volume.shape[2]
    columns = np.arange(n_x)
    outer = (columns < border) | (columns >= n_x - border)
    middle = (columns >= n_x // 4) & (columns < n_x - n_x // 4)
    return float(volume[inside & outer].mean() / volume[inside & middle].mean())


def measure(simulation: Simulation, seconds: float, *, forced: bool) -> tuple[Figures, np.ndarray]:
    """Reconstruct, and return figures and the volume in the truth's box."""
    with padding_forced(forced):
        figures, volume = fit_and_score(simulation, {"max_time": seconds})
    volume = centred(volume, len(simulation.truth))
    ratios = {
        "border": border_ratio(volume, simulation.inside),
        "true_border": border_ratio(simulation.truth, simulation.inside),
    }
    return figures | ratios, volume


def wide_table(results: Mapping[str, Figures]) -> str:
    """Return the Markdown table.

    Args:
        results: case to figures.
    """
    header = [
        "case",
        "whole box, dB",
        "inside the slab, dB",
        "padding, columns",
        "border / middle",
        "the truth's",
        "seconds",
    ]
    rows = []
    for name, f in results.items():
        decibels = [f"{f['psnr_db']:.2f}", f"{f['inside_db']:.2f}", str(f["padding_pixels"])]
        rows.append([name, *decibels, f"{f['border']:.3f}", f"{f['true_border']:.3f}", f"{f['seconds']:.0f}"])
    return markdown_table(header, rows)


def wide_demands(results: Mapping[str, Figures]) -> list[Demand]:
    """Return what is asked, with its figures."""
    wide, narrow, padded = (results[name] for name in CASES)
    lines = []
    for figure, where in (("psnr_db", "whole box"), ("inside_db", "inside the slab")):
        lines.append(Demand(f"narrow - wide, {where}", narrow[figure] - wide[figure], 0.5, at_least=False))
    wall = wide["border"] / wide["true_border"]
    lines.append(Demand("wide: border / middle over the truth's", wall, WALL, at_least=False, unit=""))
    for figure, where in (("psnr_db", "whole box"), ("inside_db", "inside the slab")):
        lines.append(Demand(f"narrow - narrow padded, {where}", narrow[figure] - padded[figure], 0.1, at_least=False))
    return lines


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--size", type=int, default=96, help="edge of the cell, voxels (default: 96)")
    parser.add_argument("--seconds", type=float, default=150, help="limit of each fit (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="of the cell and its noise (default: 0)")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    store, code = Store(options.out), source_hash()
    results, volumes = {}, {}
    for name, (wide, forced) in CASES.items():
        config = SimulateConfig(size=options.size, tilts=TILTS, mode="bf", snr=SNR, seed=options.seed, wide=wide)
        simulation = simulate(config)
        key = {
            "simulation": config.model_dump(mode="json"),
            "forced": forced,
            "seconds": options.seconds,
            "code": code,
        }
        results[name] = store.once(key, lambda s=simulation, f=forced: measure(s, options.seconds, forced=f), keep=True)
        volumes[f"{name}\n{results[name]['psnr_db']:.2f} dB"] = Volume(store.volume(key), config.pixel_size_nm)
    text = "\n\n".join(["# Wide slab", wide_table(results), demand_lines(wide_demands(results))]) + "\n"
    write_text(options.out / "wide.md", text)
    with atomic(options.out / "wide.png") as part:
        compare_figure(simulation.volume(), volumes, part)
    print(f"{text}\n{options.out / 'wide.md'}\n{options.out / 'wide.png'}")


if __name__ == "__main__":
    main()
