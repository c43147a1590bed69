"""The needle: a real HAADF series with every third tilt and added noise, against the reconstruction from all of it.

The reference is the default method on every tilt as recorded. Then every third tilt is taken and Gaussian noise added,
as strong as the variance of the least tilted image (at an SNR of 1), and the methods are asked how close to the
reference they come. SIRT and WBP get the best of several settings, chosen with the reference in their favour ::

    python benchmarks/needle.py --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import (
    ROOT,
    SIRT,
    WBP,
    Demand,
    Figures,
    Key,
    Store,
    best,
    centred,
    demand_lines,
    fit,
    markdown_table,
    source_hash,
    write_text,
)
from tiltfield.io import load
from tiltfield.metrics import affine_fit, psnr_affine
from tiltfield.run import atomic
from tiltfield.runfolder import fingerprint
from tiltfield.series import TiltSeries

SERIES = ROOT.parent / "shared" / "data" / "needle" / "HAADF_Aligned.hspy"
EVERY = 3


def noisy_subset(series: TiltSeries, every: int, snr: float, seed: int) -> TiltSeries:
    """Return every n-th tilt with white Gaussian noise, the same on each image.

    Args:
        series: the whole.
        every: n.
        snr: variance of the least tilted image over that of the noise.
        seed: of the noise.
    """
    flat = series.images[np.argmin(np.abs(series.angles_deg))].astype(np.float64)
    part = series.select(np.arange(0, len(series.angles_deg), every))
    rng = np.random.default_rng(seed)
    noise = np.sqrt(flat.var() / snr) * rng.standard_normal(part.images.shape)
    return replace(part, images=(part.images + noise).astype(np.float32), quantum=None)


class Bench:
    """Runs what has not been run yet.

    Args:
        store: keeps the results.
        series: all tilts as recorded.
        noisy: what the methods get.
        seconds: limit of a neural fit.
    """

    def __init__(self, store: Store, series: TiltSeries, noisy: TiltSeries, seconds: float) -> None:
        self.store, self.noisy = store, noisy
        self.neural = {"max_time": seconds}
        self.code = source_hash()
        key = self._key(series, self.neural)
        self.reference_figures = store.once(key, lambda: fit(series, self.neural), keep=True)
        self.reference = store.volume(key)

    def best_of(self, variants: Sequence[Mapping[str, Any]]) -> tuple[Figures, np.ndarray]:
        """Return figures and volume of the variant closest to the reference."""
        chosen = best(self._figures(settings) for settings in variants)
        return chosen, self.store.volume(self._key(self.noisy, chosen["settings"]))

    def _figures(self, settings: Mapping[str, Any]) -> Figures:
        return self.store.once(self._key(self.noisy, settings), lambda: self._work(settings), keep=True)

    def _work(self, settings: Mapping[str, Any]) -> tuple[Figures, np.ndarray]:
        figures, volume = fit(self.noisy, settings)
        volume = centred(volume, len(self.reference))
        return figures | {"settings": dict(settings), "psnr_db": psnr_affine(volume, self.reference)}, volume

    def _key(self, series: TiltSeries, settings: Mapping[str, Any]) -> Key:
        return {
            "series": fingerprint(series),
            "reference": self.neural,
            "settings": dict(settings),
            "code": self.code,
        }


def needle_table(rows: Mapping[str, Figures]) -> str:
    """Return the Markdown table.

    Args:
        rows: method to figures.
    """
    cells = [[name, f"{f['psnr_db']:.2f}", f"{f['seconds']:.0f}"] for name, f in rows.items()]
    return markdown_table(["method", "PSNR against the reference, dB", "seconds"], cells)


def needle_demands(rows: Mapping[str, Figures]) -> list[Demand]:
    """Return what is asked, with its figure."""
    return [Demand("default - best SIRT", rows["default"]["psnr_db"] - rows["SIRT"]["psnr_db"], 3.0)]


def report(bench: Bench, rows: Mapping[str, Figures], n_all: int, snr: float) -> str:
    """Return the whole report as Markdown."""
    head = (
        f"The reference is the default method on all {n_all} tilts ({bench.reference_figures['seconds']:.0f} s); "
        f"the methods got {len(bench.noisy.angles_deg)} tilts with noise of SNR {snr:g}. PSNR after the best "
        f"affine fit; SIRT ({rows['SIRT']['settings']['sirt_iterations']} iterations of {_choices(SIRT)}) and WBP "
        f"({rows['WBP']['settings']['wbp_filter']} of {_choices(WBP)}) at what comes closest to the reference."
    )
    return "\n\n".join(["# Needle", head, needle_table(rows), demand_lines(needle_demands(rows))]) + "\n"


def _choices(variants: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(list(settings.values())[-1]) for settings in variants)


def draw(volumes: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the central sections of volumes of one shape, in the grey scale of the first.

    Args:
        volumes: title to volume (z, y, x); all are brought to the first by the best affine fit.
        path: the picture.
    """
    reference = next(iter(volumes.values()))
    low, high = np.percentile(reference, (0.5, 99.8))
    n_z, n_y, n_x = reference.shape
    figure = Figure(figsize=(4 * len(volumes), 4 * (n_y + 2 * n_z) / n_x + 0.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, len(volumes), squeeze=False, height_ratios=(n_y, n_z, n_z * n_x / n_y))
    for column, (title, volume) in zip(panels.T, volumes.items(), strict=True):
        scale, shift = affine_fit(volume, reference)
        sections = (volume[n_z // 2], volume[:, n_y // 2], volume[:, :, n_x // 2])
        for axes, section, name in zip(column, sections, ("xy", "xz", "yz"), strict=True):
            axes.imshow(scale * section + shift, cmap="gray", vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[], ylabel=name)
        column[0].set_title(title)
    with atomic(path) as part:
        figure.savefig(part)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path, nargs="?", default=SERIES, help="HAADF_Aligned.hspy")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=180, help="limit of each neural fit (default: 180)")
    parser.add_argument("--snr", type=float, default=1.0, help="of the untilted image with noise (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--bin", type=int, default=1, help="average blocks of this many pixels first (default: 1)")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    series = load(options.series, tilt_axis="x", bin=options.bin)
    noisy = noisy_subset(series, EVERY, options.snr, options.seed)
    bench = Bench(Store(options.out), series, noisy, options.seconds)
    found = {"default": bench.best_of([bench.neural]), "SIRT": bench.best_of(SIRT), "WBP": bench.best_of(WBP)}
    text = report(bench, {name: figures for name, (figures, _) in found.items()}, len(series.angles_deg), options.snr)
    write_text(options.out / "needle.md", text)
    shown = {f"{name}, {found[name][0]['psnr_db']:.2f} dB": found[name][1] for name in ("default", "SIRT")}
    draw({f"reference, {len(series.angles_deg)} tilts": bench.reference, **shown}, options.out / "needle.png")
    print(f"{text}\n{options.out / 'needle.md'}\n{options.out / 'needle.png'}")


if __name__ == "__main__":
    main()
