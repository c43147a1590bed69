"""The demonstration: a synthetic cell, reconstructed by every kind of method and compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tiltfield.config import ReconstructConfig, SimulateConfig
from tiltfield.errors import InputError
from tiltfield.evaluate import evaluate, same_box
from tiltfield.observe import Observer
from tiltfield.reconstruct import reconstruct
from tiltfield.report import compare_figure
from tiltfield.run import Request, RunFolder, atomic, run
from tiltfield.series import Volume
from tiltfield.simulate import Simulation, simulate

SNR, SEED = 0.7, 0
SIRT_ITERATIONS = (10, 30, 100)


@dataclass(frozen=True, eq=False)
class Entry:
    """One method's result.

    Attributes:
        name: of the method.
        volume: what it made.
        psnr_db: after the best affine fit, whole box.
        inside_db: the same inside the slab.
        seconds: it took.
    """

    name: str
    volume: Volume
    psnr_db: float
    inside_db: float
    seconds: float


def run_demo(out: Path, observer: Observer, *, size: int, max_time: float, overwrite: bool) -> list[Entry]:
    """Simulate, reconstruct with WBP, SIRT and the default method, compare, and draw.

    Args:
        out: folder for the data, the run and comparison.png.
        observer: shows progress.
        size: edge of the cell, voxels.
        max_time: seconds for the neural reconstruction.
        overwrite: replace what the folder holds.

    Returns:
        one entry per method.

    Raises:
        InputError: if the folder holds another demo or run and `overwrite` is not set.
    """
    _refuse_other(out, overwrite)
    observer.say(f"simulating a cell of {size}³ voxels, signal-to-noise ratio {SNR}")
    simulation = simulate(SimulateConfig(size=size, snr=SNR, seed=SEED))
    simulation.save(out / "data", overwrite=overwrite)
    entries = [_wbp(simulation, observer), _best_sirt(simulation, observer)]
    entries.append(_neural(simulation, out, observer, max_time, overwrite))
    truth = simulation.volume()
    named = {f"{e.name}\n{e.psnr_db:.1f} dB": Volume(same_box(e.volume, truth), truth.voxel_size_nm) for e in entries}
    with atomic(out / "comparison.png") as part:
        compare_figure(simulation.volume(), named, part)
    return entries


def demo_table(entries: list[Entry]) -> Table:
    """Return the comparison as a table.

    Args:
        entries: one per method.
    """
    table = Table(title="PSNR after the best affine fit to the truth, dB", title_justify="left")
    table.add_column("method")
    for heading in ("whole box", "inside the slab", "seconds"):
        table.add_column(heading, justify="right")
    for e in entries:
        table.add_row(e.name, f"{e.psnr_db:.2f}", f"{e.inside_db:.2f}", f"{e.seconds:.1f}")
    return table


def figures(entries: list[Entry]) -> dict[str, dict[str, float]]:
    """Return the comparison by method and figure.

    Args:
        entries: one per method.
    """
    return {e.name: {"psnr_db": e.psnr_db, "inside_db": e.inside_db, "seconds": e.seconds} for e in entries}


def show(entries: list[Entry], out: Path) -> None:
    """Print the table and say where the pictures are.

    Args:
        entries: one per method.
        out: the demo's folder.
    """
    console = Console()
    console.print(demo_table(entries))
    console.print(f"pictures: {out / 'comparison.png'}, {out / 'run' / 'preview.png'}", soft_wrap=True, highlight=False)


def _refuse_other(out: Path, overwrite: bool) -> None:
    if not overwrite and any((out / name).exists() for name in ("data", "run", "comparison.png")):
        raise InputError(f"{out} holds another demo: replace it (--overwrite) or choose another folder")
    RunFolder(out / "run", overwrite=overwrite)


def _measured(name: str, simulation: Simulation, work: Callable[[], Volume]) -> Entry:
    start = time.perf_counter()
    volume = work()
    seconds = time.perf_counter() - start
    figures = evaluate(volume, simulation.volume(), simulation.inside)
    return Entry(name, volume, float(figures["psnr_affine_db"]), float(figures["psnr_inside_db"]), seconds)


def _wbp(simulation: Simulation, observer: Observer) -> Entry:
    observer.say("WBP")
    config = ReconstructConfig(method="wbp")
    return _measured("WBP", simulation, lambda: reconstruct(simulation.series(), config).volume)


def _best_sirt(simulation: Simulation, observer: Observer) -> Entry:
    """Return SIRT at the number of iterations that suits it best, chosen with the truth in its favour."""
    observer.say(f"SIRT with {', '.join(map(str, SIRT_ITERATIONS))} iterations; the truth picks its best")
    return max((_sirt(simulation, n) for n in SIRT_ITERATIONS), key=lambda e: e.psnr_db)


def _sirt(simulation: Simulation, iterations: int) -> Entry:
    config = ReconstructConfig(method="sirt", sirt_iterations=iterations)
    name = f"SIRT, best of {len(SIRT_ITERATIONS)} ({iterations} iterations)"
    return _measured(name, simulation, lambda: reconstruct(simulation.series(), config).volume)


def _neural(simulation: Simulation, out: Path, observer: Observer, max_time: float, overwrite: bool) -> Entry:
    """Return the default method's result, by way of files and a run folder like anyone's."""
    observer.say(f"the default method, at most {max_time:g} s")
    settings = {"angles": out / "data" / "series.rawtlt", "max_time": max_time}
    request = Request(out / "run", out / "data" / "noisy.mrc", settings, overwrite=overwrite)

    def work() -> Volume:
        result = run(request, observer)
        if result is None:
            raise RuntimeError(f"the run in {out / 'run'} had finished already")
        return result.volume

    return _measured("tiltfield", simulation, work)
