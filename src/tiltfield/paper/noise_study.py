"""The study of noise models: fitted to one simulated cell, judged by another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tiltfield
from tiltfield.judge import compare
from tiltfield.noise import NoiseModel
from tiltfield.noise.learn import Pairs, learn
from tiltfield.noise.pairs import given
from tiltfield.observe import Observer
from tiltfield.paper import RESULTS
from tiltfield.paper.cells import array, cell_folder
from tiltfield.paper.options import Options, cell, cell_key
from tiltfield.paper.rows import NOISE_STUDY
from tiltfield.paper.store import Key, Store, hash_sources
from tiltfield.paper.study import IMAGES, simulating
from tiltfield.paper.table import Report, row_report
from tiltfield.replacing import atomic
from tiltfield.report.noise import save_noise_figure

MODELS = {
    "Poisson": "poisson",
    "Gaussian": "gaussian",
    "flow (the paper's)": "flow-paper",
    "flow (tiltfield's)": "flow",
}
PUBLISHED = {
    "Poisson": {"jsd": 0.96, "bc": 0.99, "bd": 0.15},
    "Gaussian": {"jsd": 1.07, "bc": 0.99, "bd": 0.12},
    "flow (the paper's)": {"jsd": 0.58, "bc": 1.00, "bd": 0.03},
}
FLOOR = "floor (even against odd rows)"
MOST_PIXELS = 4_000_000  # of the images that models are fitted to, and judged by
EXPECTED_SECONDS = 90.0  # a seed
NOTE = (
    "Models are fitted to the images of one cell and judged by those of the next. The noise itself was drawn from a "
    "flow of the paper's kind, that of real frames, and clipped. The floor is what chance alone makes of two halves of "
    "the noise; a model is held against both."
)

Shown = Callable[[float], None]


class NoiseRunner:
    """Runs the study, each pair of cells once.

    Args:
        folder: results and cells are kept there, and the picture.
        options: the set-up.
        observer: told of everything.
    """

    def __init__(self, folder: Path, options: Options, observer: Observer) -> None:
        self.folder, self.options, self.observer = folder, options, observer
        self.store = Store(folder)
        self._source = hash_sources(Path(tiltfield.__file__).parent)  # of what this process has loaded
        self.picture = folder / f"{NOISE_STUDY}.png"

    def missing(self) -> list[int]:
        """Return the seeds that are not there yet."""
        seeds = range(self.options.seeds)
        return [s for s in seeds if not self.store.has(self._key(s)) or (s == 0 and not self.picture.exists())]

    def run(self, seed: int, show: Shown) -> None:
        """Fit the models to the cell of a seed, and judge them by the next.

        Args:
            seed: of the cell.
            show: called with the share done.
        """
        training, judged = (self._pairs(s) for s in self._cells(seed))
        models, seconds = _fitted(training, seed, show)
        comparison = compare(models, judged, seed=seed)
        rows = {v.name: {**vars(v.distances), "log_likelihood": v.log_likelihood} for v in comparison.verdicts}
        figures = {title: row | {"seconds": seconds[title]} for title, row in rows.items()}
        if seed == 0:
            with atomic(self.picture) as part:
                save_noise_figure(part, comparison, models, judged, seed)
        found = {"rows": figures | {FLOOR: vars(comparison.floor)}, "source": self._source}
        self.store.add(self._key(seed), found)
        self.observer.say(f"noise models, seed {seed}: done")

    def report(self, reason: str = "stopped before it") -> Report:
        """Return the report from what is there.

        Args:
            reason: why the rest is not.
        """
        seeds = range(self.options.seeds)
        there = {s: self.store.figures(self._key(s)) for s in seeds if self.store.has(self._key(s))}
        absent = [f"seed {s} not run: {reason}" for s in seeds if s not in there]
        rows = [
            row_report(
                title,
                [{"seed": s, **figures["rows"][title]} for s, figures in there.items()],
                published=PUBLISHED.get(title),
                remarks=absent if there else [f"not run: {reason}"],
                rival=title != FLOOR,
            )
            for title in (*MODELS, FLOOR)
        ]
        return {
            "study": NOISE_STUDY,
            "title": "Noise models",
            "origin": "Table 1, Fig. 4",
            "options": self.options.plain(),
            "images": IMAGES,
            "note": NOTE,
            "picture": self.picture.name,
            "tiltfield": tiltfield.__version__,
            "sources": sorted({figures["source"] for figures in there.values()}),
            "devices": [],
            "rows": rows,
        }

    def _cells(self, seed: int) -> tuple[int, int]:
        """Return the cell to learn from and the one to judge by."""
        return seed, (seed + 1) % max(2, self.options.seeds)

    def _key(self, seed: int) -> Key:
        train, judge = (cell_key(cell(self.options, s)) for s in self._cells(seed))
        return {"results": RESULTS, "models": list(MODELS.values()), "train": train, "judge": judge, "seed": seed}

    def _pairs(self, seed: int) -> Pairs:
        """Return clean and noisy images of a cell, some of the tilts if all have too many pixels."""
        kept = cell_folder(cell(self.options, seed), self.folder / "cells", simulating(self.observer, seed))
        clean, noisy = (array(kept, name) for name in ("clean", "noisy"))
        step = -(-clean.size // MOST_PIXELS)
        return given(np.array(clean[::step]), np.array(noisy[::step]))


def _fitted(training: Pairs, seed: int, show: Shown) -> tuple[dict[str, NoiseModel], dict[str, float]]:
    """Return the models, and the seconds that each took."""
    models: dict[str, NoiseModel] = {}
    seconds = {}
    for title, name in MODELS.items():
        show(len(models) / (len(MODELS) + 1))
        began = time.perf_counter()
        models[title] = learn(name, training, seed=seed)
        seconds[title] = time.perf_counter() - began
    return models, seconds
