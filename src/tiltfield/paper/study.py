"""Studies of volumes: runs what has not been run yet, and reports what there is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tiltfield
from tiltfield.config import DENOISED, ReconstructConfig
from tiltfield.denoise.bm3d import LICENCE
from tiltfield.observe import Observer
from tiltfield.paper.apart import NotRunError, fit_apart
from tiltfield.paper.cells import array, cell_folder
from tiltfield.paper.figure import save_sections
from tiltfield.paper.options import Options, cell, fit_settings, key_of
from tiltfield.paper.rows import STUDIES, Row, Settings, Study
from tiltfield.paper.store import Figures, Key, Store, hash_sources, key_name
from tiltfield.paper.table import Report, row_report
from tiltfield.reconstruct import forecast
from tiltfield.replacing import atomic

QUIET_SECONDS = 5.0  # before the making of a cell is shown
START_SECONDS = 8.0  # to start a process, and to measure what it made
IMAGES = (
    "cells and tilts (-50° to 49° in 1.5° steps) of the paper's recipe, noise of real repeated STEM frames, clipped to "
    "the range of the clean images"
)


@dataclass(frozen=True)
class Unit:
    """One fit.

    Attributes:
        row: it is for.
        settings: one of the row's variants.
        seed: of cell and fit.
        key: what determines it.
    """

    row: Row
    settings: Settings
    seed: int
    key: Key

    @property
    def keep(self) -> bool:
        """Whether the volume is kept: that of the first cell, for the picture."""
        return self.seed == 0

    @property
    def kind(self) -> str:
        """What the seed does not change."""
        return json.dumps([dict(self.settings), self.row.images], sort_keys=True)


class Meter:
    """Tells how much of all work is done and how long the rest takes.

    Args:
        expected: seconds that each piece of work is taken to last.
        observer: shown it.
    """

    def __init__(self, expected: Sequence[float], observer: Observer) -> None:
        self._total, self._done, self._observer = max(sum(expected), 1e-9), 0.0, observer
        self._began = time.monotonic()

    def show(self, stage: str, seconds: float) -> None:
        """Show that so many seconds of the piece in work are done."""
        done = self._done + seconds
        pace = (time.monotonic() - self._began) / done if done > 0 else 1.0
        self._observer.progress(stage, done / self._total, (self._total - done) * pace, {})

    def finish(self, seconds: float) -> None:
        """Count a piece that was expected to last so long as done."""
        self._done += seconds


class Runner:
    """Runs the fits of studies, each once, and remembers what could not run.

    Args:
        folder: results, cells and volumes are kept there.
        options: the set-up.
        observer: told of everything.
    """

    def __init__(self, folder: Path, options: Options, observer: Observer) -> None:
        self.folder, self.options, self.observer = folder, options, observer
        self.store = Store(folder)
        self.reasons: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._told = False  # of the licence of BM3D, which the process of a fit has nobody to tell

    def units(self, study: Study, only: str = "") -> list[Unit]:
        """Return all fits of a study, those of the first cell first; `only` of rows with this in their title."""
        return [
            Unit(row, settings, seed, key_of(row, settings, self.options, seed))
            for seed in range(self.options.seeds)
            for row in study.rows
            for settings in row.variants
            if only.lower() in row.title.lower()
        ]

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Return the units that are not there yet, each once."""
        by_name = {key_name(u.key): u for u in units if not self.store.has(u.key, keep=u.keep)}
        return list(by_name.values())

    def expected(self, unit: Unit) -> float:
        """Return the seconds that a unit is taken to last."""
        config = ReconstructConfig.parse(fit_settings(unit.settings, self.options, unit.seed), "settings")
        tilts = len(cell(self.options, unit.seed).angles_deg)
        return START_SECONDS + forecast((tilts, self.options.size, self.options.size), config).seconds

    def run(self, unit: Unit, meter: Meter) -> bool:
        """Run a unit, note what keeps it from running, and return False if that was known already."""
        name, words = key_name(unit.key), f"{unit.row.title}, seed {unit.seed}"
        if name in self.reasons:
            return False
        if is_bm3d(unit.settings) and not self._told:
            self._told = True
            self.observer.say(LICENCE)
        try:
            if unit.kind in self._refused:
                raise NotRunError(self._refused[unit.kind], refused=True)
            figures = self.store.once(unit.key, lambda: self._fit(unit, meter, words), keep=unit.keep)
            self.observer.say(f"{words}: {_said(unit, figures)}")
        except NotRunError as error:
            self.reasons[name] = str(error)
            if error.refused:
                self._refused[unit.kind] = str(error)
            self.observer.say(f"{words}: not run: {error}")
        return True

    def _fit(self, unit: Unit, meter: Meter, words: str) -> tuple[Figures, np.ndarray]:
        kept = self.cell(unit.row, unit.seed)
        expected = self.expected(unit)
        source = hash_sources(Path(tiltfield.__file__).parent)  # of now: a study may last longer than an edit
        meter.show(words, 0.0)
        figures, volume = fit_apart(
            kept,
            unit.key["images"],
            fit_settings(unit.settings, self.options, unit.seed),
            self.folder,
            lambda done: meter.show(words, min(1.0, done) * expected),
        )
        return figures | {"source": source}, volume

    def cell(self, row: Row, seed: int) -> Path:
        """Return the folder of the cell that a row sees, simulated if need be."""
        made = cell(self.options, seed, row.images)
        return cell_folder(made, self.folder / "cells", simulating(self.observer, seed))

    # ---- what there is ---------------------------------------------------------------------------------------------

    def chosen(self, row: Row, seed: int) -> tuple[Settings, Key, Figures] | None:
        """Return the variant of a row with the highest 3D PSNR, once none is missing that can run; None before."""
        found = []
        for settings in row.variants:
            key = key_of(row, settings, self.options, seed)
            if self.store.has(key):
                found.append((settings, key, self.store.figures(key)))
            elif key_name(key) not in self.reasons:
                return None
        return max(found, key=lambda f: f[2]["psnr_minmax_db"] or 0.0) if found else None

    def report(self, name: str) -> Report:
        """Return the report of a study from what is there."""
        study = STUDIES[name]
        rows = [self._row(row) for row in study.rows]
        seeds = [figures for row in rows for figures in row["seeds"]]
        return {
            "study": name,
            "title": study.title,
            "origin": study.origin,
            "options": self.options.plain(),
            "images": IMAGES,
            "note": study.note,
            "picture": f"{name}.png",
            "tiltfield": tiltfield.__version__,
            "sources": sorted({f["source"] for f in seeds if "source" in f}),
            "devices": sorted({f["device"] for f in seeds if "device" in f}),
            "rows": rows,
        }

    def _row(self, row: Row) -> Report:
        chosen = [(seed, self.chosen(row, seed)) for seed in range(self.options.seeds)]
        found = [(seed, c[0], c[2]) for seed, c in chosen if c is not None]
        picked = [settings for _, settings, _ in found] if len(row.variants) > 1 else []
        published = None if row.published is None else vars(row.published)
        return row_report(
            row.title,
            [{"seed": seed, **figures, "settings": dict(settings)} for seed, settings, figures in found],
            sees=row.images,
            rival=row.rival,
            published=published,
            remarks=[
                *_choice(row, picked),
                *_ends(found),
                *self._why_not(row, [seed for seed, c in chosen if c is None]),
            ],
        )

    def _why_not(self, row: Row, seeds: Sequence[int]) -> list[str]:
        """Return why these seeds of a row are not there, all in one if it is the same."""
        reasons = {}
        for seed in seeds:
            names = [key_name(key_of(row, settings, self.options, seed)) for settings in row.variants]
            reasons[seed] = next((self.reasons[n] for n in names if n in self.reasons), "stopped before it")
        if len(set(reasons.values())) == 1 and len(reasons) == self.options.seeds:
            return [f"not run: {next(iter(reasons.values()))}"]
        return [f"seed {seed} not run: {reason}" for seed, reason in reasons.items()]

    def draw(self, name: str, path: Path) -> None:
        """Draw sections of all volumes of a study for the first cell, if there are any."""
        volumes = {}
        for row in STUDIES[name].rows:
            chosen = self.chosen(row, 0)
            if chosen is not None and self.store.has(chosen[1], keep=True):
                title = f"{row.title}\n{chosen[2]['psnr_minmax_db']:.2f} dB"
                volumes[title] = lambda key=chosen[1]: self.store.volume(key)
        if volumes:
            truth = array(self.cell(STUDIES[name].rows[0], 0), "truth")
            with atomic(path) as part:
                save_sections(part, truth, volumes)


def is_bm3d(settings: Settings) -> bool:
    """Return whether a fit denoises by BM3D.

    Args:
        settings: a row's.
    """
    return settings.get("method") in DENOISED and settings.get("denoiser", "bm3d") == "bm3d"


def simulating(observer: Observer, seed: int) -> Callable[[str, float], None]:
    """Return what shows the making of a cell, if that takes a while.

    Args:
        observer: shown it.
        seed: of the cell.
    """
    began = time.monotonic()

    def show(stage: str, done: float) -> None:
        if time.monotonic() - began > QUIET_SECONDS:
            observer.progress(f"cell {seed}: {stage}", done, None, {})

    return show


def _said(unit: Unit, figures: Figures) -> str:
    words = [f"{name} {unit.settings[name]}" for name in _differing(unit.row)]
    found = f"3D {figures['psnr_minmax_db']:.2f} dB, affine {figures['psnr_affine_db']:.2f} dB"
    return ", ".join([*words, found, f"{figures['seconds']:.1f} s"])


def _ends(found: Sequence[tuple[int, Settings, Figures]]) -> list[str]:
    """Return which fits did not come to the end of their schedule, and how they ended."""
    return [
        f"seed {seed} {figures['outcome']} after {figures['steps']} steps"
        for seed, _, figures in found
        if figures.get("outcome", "finished") not in ("finished", "converged")
    ]


def _choice(row: Row, picked: Sequence[Settings]) -> list[str]:
    """Return which variants the truth chose, by the settings in which they differ."""
    if not picked:
        return []
    return [f"best {n}: {', '.join(dict.fromkeys(str(settings[n]) for settings in picked))}" for n in _differing(row)]


def _differing(row: Row) -> list[str]:
    """Return the settings in which the variants of a row differ."""
    return [n for n in row.variants[0] if len({str(v.get(n)) for v in row.variants}) > 1]
