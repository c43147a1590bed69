"""What `speed.py` measures, each in a process of its own: prints the figures of one measurement as JSON.

    python benchmarks/speed_measures.py training CELL

CELL is a file that `simulate` wrote. The package is the one that Python finds first, so that another checkout can be
measured by PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

TILTS = "-60:60:2"
SECONDS = 8.0  # of training, as often as it is measured
GROUP = 4  # steps of which a flow learns in one
QUICKEST = 0.25  # share of the groups whose parts count: the others were disturbed more
SIRT_ITERATIONS = 30
ASTRA_SLICES = 8  # or a few more
NEAR_DB = 0.1

Figures = dict[str, Any]


def simulate(file: Path, size: str) -> Figures:
    """Write the cell of a size: images, truth, and what the program is told."""
    from tiltfield.simulate import simulate

    made = simulate(settings(int(size)))
    facts = {"mode": made.config.mode, "pixel_size_nm": made.config.pixel_size_nm}
    np.savez(file, images=made.noisy, angles=made.angles_deg, truth=made.truth, inside=made.inside, **facts)
    return {}


def settings(size: int) -> Any:
    """Return the settings of a cell."""
    from tiltfield.config import SimulateConfig

    return SimulateConfig(size=size, cell="paper", tilts=TILTS, snr=1)


def series_of(file: Path) -> tuple[Any, Any]:
    """Return a cell's series and its contrast."""
    from tiltfield.series import TiltSeries

    with np.load(file) as cell:
        return TiltSeries(cell["images"], cell["angles"], float(cell["pixel_size_nm"])), str(cell["mode"])


def best_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Return the least time of a call among those that fit into some seconds, after one that does not count."""
    call()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
    return least


# ---- training ------------------------------------------------------------------------------------------------------


def begin(file: Path) -> tuple[Any, Any, Any]:
    """Return problem, state and schedule of a default fit with a weight that suits, nothing rehearsed."""
    from dataclasses import replace

    from tiltfield.config import ReconstructConfig
    from tiltfield.plan import Kind, first_plan, make_problem, new_state
    from tiltfield.schedule import schedule_for

    series, mode = series_of(file)
    device = torch.device("cpu")
    plan = replace(first_plan(series, mode), noise="flow")
    problem = make_problem(series, plan, 0, device, mask_sides=False)
    weight = 0.05 / plan.deviation
    asks = next(iter(inspect.signature(schedule_for).parameters))  # "problem" in checkouts before 2026-11-25
    schedule = schedule_for({"problem": problem, "box": problem.box}[asks], ReconstructConfig(device="cpu"), weight)
    return problem, new_state(problem, plan, schedule, Kind("hashgrid", "flow"), 0, device), schedule


def pace(file: Path, undone: str = "") -> Figures:
    """Return the speed of training: of points in wall and in processor time, and of passes.

    Args:
        file: the cell.
        undone: one of `UNDONE`, a change that is undone first.
    """
    with UNDONE[undone]() if undone else contextlib.nullcontext():
        return _pace(*begin(file))


def _plain(module: str, name: str, home: str, twin: str) -> Any:
    """Return a context in which a module has the plain twin of a function or class."""
    plain = getattr(importlib.import_module(f"tiltfield.{home}"), twin)
    return mock.patch(f"tiltfield.{module}.{name}", plain)


def _whole_tables() -> Any:
    from tiltfield.fields.base import Field
    from tiltfield.fields.hashgrid import HashGrid

    return mock.patch.object(HashGrid, "groups", Field.groups)


def _pull_plainly() -> Any:
    from tiltfield.noise.base import NoiseModel

    return mock.patch("tiltfield.noise.flow._Moments.pull", NoiseModel.log_law)


UNDONE: dict[str, Callable[[], Any]] = {
    "kernels": lambda: mock.patch.dict("os.environ", {"TILTFIELD_NATIVE": "0"}),
    "network": lambda: _plain("kernels.perceptron", "_Native", "kernels.perceptron", "_Perceptron"),
    "tiles": lambda: mock.patch("tiltfield.kernels.perceptron._kernel", return_value="perceptron"),
    "density": lambda: _plain("fields.hashgrid", "density", "kernels.density", "density_plainly"),
    "encoding": lambda: _plain("kernels.interpolation", "_Native", "kernels.interpolation", "_Interpolate"),
    "projector": lambda: mock.patch("tiltfield.kernels.cpu_projector.usable", return_value=False),
    "variation": lambda: _plain("regularise", "variation", "kernels.variation", "variation_plainly"),
    "noise": lambda: mock.patch("tiltfield.noise.flow.RadialFlow._native", return_value=False),
    "pull": _pull_plainly,
    "optimiser": lambda: _plain("kernels.window", "descend", "kernels.window", "descend_plainly"),
    "windows": _whole_tables,
    "flow": lambda: mock.patch("tiltfield.fit.LEARN_EVERY", 1),
    "memory": contextlib.nullcontext,  # see main()
}


def training(file: Path) -> Figures:
    """Return the speed of training, the shares of a step's parts, and what a point needs."""
    problem, state, schedule = begin(file)
    found = _pace(problem, state, schedule)
    return found | {"shares": shares(problem, state, schedule)} | needs(problem, state, schedule)


def _pace(problem: Any, state: Any, schedule: Any) -> Figures:
    points = GROUP * _points(problem, schedule)
    times = groups_of_steps(problem, state, schedule, lambda: (time.perf_counter(), time.process_time()))
    wall, processor = (statistics.median(b[k] - a[k] for a, b in times) for k in range(2))
    quickest = min(b[0] - a[0] for a, b in times)
    steps = schedule.steps(problem.box.n_y) / schedule.passes
    return {
        "points_per_second": points / wall,
        "quickest_points_per_second": points / quickest,
        "processor_us": processor / points * 1e6,
        "pass_seconds": steps * wall / GROUP,
        "threads": torch.get_num_threads(),
    }


def _points(problem: Any, schedule: Any) -> int:
    return schedule.block * problem.box.n_z * problem.box.n_x


def groups_of_steps(problem: Any, state: Any, schedule: Any, read: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Return what is read before and after groups of steps, for some seconds, after a group that does not count."""
    from tiltfield.fit import step

    found: list[tuple[Any, Any]] = []
    end = float("inf")
    while time.perf_counter() < end or len(found) < 3:
        before = read()
        for _ in range(GROUP):
            step(problem, state, schedule, 0.2)
        found.append((before, read()))
        end = min(end, time.perf_counter() + SECONDS)
    return found[1:]


def shares(problem: Any, state: Any, schedule: Any) -> dict[str, float]:
    """Return the share of each part in the quickest of some groups of steps."""
    from speed_parts import PARTS, parts_timed

    with parts_timed(state) as clock:
        groups = [after for _, after in groups_of_steps(problem, state, schedule, clock.read)]
    quickest = sorted(groups, key=lambda group: sum(group.values()))[: max(1, round(QUICKEST * len(groups)))]
    whole = sum(sum(group.values()) for group in quickest)
    return {part: sum(group.get(part, 0.0) for group in quickest) / whole for part in PARTS}


def needs(problem: Any, state: Any, schedule: Any) -> Figures:
    """Return FLOPs of the network's products and the least bytes, a point.

    FLOPs: every weight has a product and a sum forwards, and two of each on the way back. Bytes: the planes of the
    tables that a step touches are read, their gradient written and read, they and their two moments read and written;
    density and its gradient are written and read. Features need not leave the cache.
    """
    points = _points(problem, schedule)
    entries = 0.0
    for level in state.field.levels:
        planes = min(level.nodes[1], schedule.block / level.cell + 1)
        entries += planes * level.table[0].numel()
    weights = sum(weight.numel() for weight in state.field.weights)
    return {"flop": 6 * weights, "bytes": 4 * (9 * entries / points + 4)}


# ---- whole runs ----------------------------------------------------------------------------------------------------


def whole(file: Path, seconds: str = "") -> Figures:
    """Return time and quality of a whole default run, and when its PSNR was first within 0.1 dB of its best.

    The volumes of the passes are held against the truth while the clock stands still.

    Args:
        file: the cell.
        seconds: time limit of the run, if any.
    """
    from tiltfield import neural
    from tiltfield.config import ReconstructConfig
    from tiltfield.fit import fit, step
    from tiltfield.reconstruct import reconstruct

    try:
        from tiltfield.rendering import evaluate_field
    except ImportError:  # in checkouts before 2026-11-28
        from tiltfield.fit import evaluate_field

    series, _ = series_of(file)
    with np.load(file) as cell:
        truth, inside = cell["truth"], cell["inside"]
    curve: list[tuple[float, float]] = []
    aside = 0.0

    def fit_watched(problem: Any, state: Any, schedule: Any, watch: Any = None, step: Any = step) -> Any:
        def both(state: Any, done: float, figures: dict[str, float]) -> None:
            nonlocal aside
            watch(state, done, figures)
            if not state.queue:
                now = time.perf_counter()
                density = evaluate_field(problem, state.field, schedule.block)
                side = (problem.box.n_x - problem.observed.shape[2]) // 2
                volume = density[:, :, side : problem.box.n_x - side].permute(1, 0, 2).numpy()
                curve.append((now - began - aside, score(volume, truth)))
                aside += time.perf_counter() - now

        return fit(problem, state, schedule, watch if seconds else both, step)

    given = {"max_time": float(seconds)} if seconds else {}
    began, processor = time.perf_counter(), time.process_time()
    with mock.patch.object(neural, "fit", fit_watched):
        result = reconstruct(series, ReconstructConfig(device="cpu", **given))
    figures = {"seconds": time.perf_counter() - began - aside, "processor_seconds": time.process_time() - processor}
    figures |= {"psnr_db": score(result.volume.data, truth), "inside_db": score(result.volume.data, truth, inside)}
    if curve:
        top = max(psnr for _, psnr in curve)
        figures["near_seconds"] = next(spent for spent, psnr in curve if psnr >= top - NEAR_DB)
    return figures


def score(volume: np.ndarray, truth: np.ndarray, inside: np.ndarray | None = None) -> float:
    """Return the PSNR after the best affine fit, over the whole box or inside."""
    from tiltfield.evaluate import same_box
    from tiltfield.metrics import psnr_affine
    from tiltfield.series import Volume

    return float(psnr_affine(same_box(Volume(volume), Volume(truth)), truth, *([] if inside is None else [inside])))


def classical(file: Path) -> Figures:
    """Return seconds of WBP and of SIRT, ours and ASTRA's, for the whole volume, and the quality of ours."""
    from tiltfield.config import ReconstructConfig
    from tiltfield.reconstruct import reconstruct

    series, mode = series_of(file)
    with np.load(file) as cell:
        truth, inside = cell["truth"], cell["inside"]
    figures: Figures = {}
    for method, more in (("wbp", {}), ("sirt", {"sirt_iterations": SIRT_ITERATIONS})):
        began = time.perf_counter()
        volume = reconstruct(series, ReconstructConfig(method=method, mode=mode, device="cpu", **more)).volume.data
        figures[f"{method}_seconds"] = time.perf_counter() - began
        figures |= {f"{method}_psnr_db": score(volume, truth), f"{method}_inside_db": score(volume, truth, inside)}
    return figures | astra_seconds(series)


def astra_seconds(series: Any) -> Figures:
    """Return seconds of ASTRA's WBP and SIRT on its CPU projector; none if it is not installed.

    A slice takes as long as any other: some are timed, and multiplied by their number.
    """
    try:
        import astra
    except ImportError:
        return {}
    n = series.images.shape[2]
    volume = astra.create_vol_geom(n, n)
    detector = astra.create_proj_geom("parallel", 1.0, n, -np.deg2rad(series.angles_deg))
    projector = astra.create_projector("linear", detector, volume)
    figures = {}
    n_rows = series.images.shape[1]
    rows = range(0, n_rows, max(1, n_rows // ASTRA_SLICES))
    for name, algorithm, iterations in (("wbp", "FBP", 1), ("sirt", "SIRT", SIRT_ITERATIONS)):
        began = time.perf_counter()
        for row in rows:
            data = astra.data2d.create("-sino", detector, series.images[:, row])
            result = astra.data2d.create("-vol", volume)
            ids = {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result}
            job = astra.algorithm.create({**ids, "type": algorithm})
            astra.algorithm.run(job, iterations)
            astra.algorithm.delete(job)
            astra.data2d.delete([data, result])
        figures[f"astra_{name}_seconds"] = (time.perf_counter() - began) * n_rows / len(rows)
    return figures


# ---- the machine ---------------------------------------------------------------------------------------------------


def machine(_: Path) -> Figures:
    """Return the speed of copies from memory (bytes read and written) and of products of large matrices."""
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), 2.0)
    a = torch.rand(2048, 2048)
    product = best_seconds(lambda: a @ a, 3.0)
    return {"copy_gb_s": 8 * len(source) / copy / 1e9, "matmul_gflops": 2 * 2048**3 / product / 1e9}


MEASURES = {measure.__name__: measure for measure in (simulate, pace, training, whole, classical, machine)}


def main() -> None:
    """Print the figures of one measurement."""
    from tiltfield.reconstruct import keep_freed_memory

    name, file, *more = sys.argv[1:]
    if more != ["memory"]:
        keep_freed_memory()
    figures = MEASURES[name](Path(file), *more)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    package = str(Path(inspect.getfile(keep_freed_memory)).parent)
    print(json.dumps({**figures, "memory_gb": memory, "package": package}))


if __name__ == "__main__":
    main()
