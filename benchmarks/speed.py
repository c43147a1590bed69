"""How fast the fit is: field points a second, where the time goes, and how near the machine's limits that is.

Every size is measured in a process of its own, on a simulated cell of 61 tilts, for some seconds of training by the
default method; the parts of a step are timed by themselves on the block that the step takes. With ``--converge`` a
whole fit tells after how many seconds its PSNR lies within 0.1 dB of the best of its passes. WBP and SIRT are ours and
ASTRA's. Compare ratios within one table: absolute times drift with what else the machine does ::

    python benchmarks/speed.py --sizes 64,96,128,192,256 --converge 64,96 --out DIR
    python benchmarks/speed.py --sizes 96 --source OTHER/src    # another checkout, with the same figures

The points of a step are those of its slices: rows · n_z · n_x. A pass visits every slice once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TILTS = "-60:60:2"
TRAIN_SECONDS, PART_SECONDS = 8.0, 1.0
SIRT_ITERATIONS = 30
NEAR_DB = 0.1
GIB = 2.0**30


def best_seconds(call: Callable[[], Any], seconds: float = PART_SECONDS) -> float:
    """Return the least time of a call among those that fit into some seconds, after one that does not count."""
    call()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
    return least


# ---- one size, in a process of its own -----------------------------------------------------------------------------


def measure(size: int, converge: bool) -> dict[str, Any]:
    """Return the figures of one size."""
    import torch

    from tiltfield.config import SimulateConfig
    from tiltfield.simulate import simulate

    made = simulate(SimulateConfig(size=size, cell="paper", tilts=TILTS, snr=1))
    figures = {"size": size, "threads": torch.get_num_threads(), **classical(made)}
    figures |= training(made)
    if converge:
        figures |= convergence(made)
    return figures | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}


def begin(made: Any, passes: int | None = None) -> tuple[Any, Any, Any]:
    """Return problem, state and schedule of a default fit with a weight that suits, nothing rehearsed."""
    from dataclasses import replace

    import torch

    from tiltfield.config import ReconstructConfig
    from tiltfield.plan import Kind, first_plan, make_problem, new_state
    from tiltfield.schedule import schedule_for

    series, device = made.series(), torch.device("cpu")
    plan = replace(first_plan(series, made.config.mode), noise="flow")
    weight = 0.05 / plan.deviation
    problem = make_problem(series, plan, 0, device, mask_sides=False)
    schedule = schedule_for(problem.box, ReconstructConfig(device="cpu"), weight)
    if passes:
        schedule = replace(schedule, passes=passes)
    return problem, new_state(problem, plan, schedule, Kind("hashgrid", "flow"), 0, device), schedule


def training(made: Any) -> dict[str, Any]:
    """Return the speed of training and the shares of a step's parts."""
    from tiltfield.fit import step

    problem, state, schedule = begin(made)
    points = schedule.block * problem.box.n_z * problem.box.n_x
    seconds = best_seconds(lambda: [step(problem, state, schedule, 0.2) for _ in range(4)], TRAIN_SECONDS) / 4
    steps = schedule.steps(problem.box.n_y) / schedule.passes
    parts = parts_of(problem, state, schedule)
    rest = {"noise and rest": 1 - sum(parts.values()) / seconds}
    return {
        "points_per_second": points / seconds,
        "pass_seconds": steps * seconds,
        "step_points": points,
        "shares": {name: part / seconds for name, part in parts.items()} | rest,
    }


def parts_of(problem: Any, state: Any, schedule: Any) -> dict[str, float]:
    """Return seconds of encoding, network, projector, total variation (each forwards and backwards) and optimiser."""
    import torch

    from tiltfield.fit import slices_of
    from tiltfield.regularise import total_variation

    rows = slice(0, schedule.block)
    field = state.field
    density = slices_of(field, problem.box, rows).detach().requires_grad_()
    features: list[torch.Tensor] = []
    decode = field.decode
    field.decode = lambda x: (features.append(x.detach()), decode(x))[1]
    slices_of(field, problem.box, rows)
    field.decode = decode
    encoded = features[0].requires_grad_()

    def both(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for optimiser in state.optimisers:
                optimiser.zero_grad()
            made = forward()
            made.backward(torch.ones_like(made))

        return run

    whole = best_seconds(both(lambda: slices_of(field, problem.box, rows)))
    network = best_seconds(both(lambda: field.decode(encoded)))
    both(lambda: slices_of(field, problem.box, rows))()
    return {
        "encoding": max(0.0, whole - network),
        "network": network,
        "projector": best_seconds(both(lambda: problem.image(density, state.contrast))),
        "variation": best_seconds(both(lambda: total_variation(density, problem.scale))),
        "optimiser": best_seconds(lambda: [optimiser.step() for optimiser in state.optimisers]),
    }


def convergence(made: Any) -> dict[str, Any]:
    """Return the seconds of training until the PSNR stays within 0.1 dB of its best, and that best."""
    from tiltfield.fit import evaluate_field, fit
    from tiltfield.metrics import psnr_affine

    problem, state, schedule = begin(made)
    curve: list[tuple[float, float]] = []
    spent = 0.0

    def watch(state: Any, done: float, figures: dict[str, float]) -> None:
        nonlocal spent
        if state.queue:
            return
        began = time.perf_counter()
        volume = evaluate_field(problem, state.field, schedule.block).permute(1, 0, 2).numpy()
        curve.append((state.elapsed - spent, psnr_affine(volume, made.truth)))
        spent += time.perf_counter() - began

    fit(problem, state, schedule, watch)
    top = max(psnr for _, psnr in curve)
    near = next(seconds for seconds, psnr in curve if psnr >= top - NEAR_DB)
    return {"near_seconds": near, "psnr_db": top, "fit_seconds": curve[-1][0]}


def classical(made: Any) -> dict[str, Any]:
    """Return seconds of WBP and of SIRT, ours and ASTRA's, for the whole volume."""
    from tiltfield.config import ReconstructConfig
    from tiltfield.reconstruct import reconstruct

    series = made.series()
    figures: dict[str, Any] = {}
    for method, more in (("wbp", {}), ("sirt", {"sirt_iterations": SIRT_ITERATIONS})):
        began = time.perf_counter()
        reconstruct(series, ReconstructConfig(method=method, mode=made.config.mode, device="cpu", **more))
        figures[f"{method}_seconds"] = time.perf_counter() - began
    try:
        import astra
    except ImportError:
        return figures
    import numpy as np

    n = series.images.shape[2]
    volume = astra.create_vol_geom(n, n)
    detector = astra.create_proj_geom("parallel", 1.0, n, -np.deg2rad(series.angles_deg))
    projector = astra.create_projector("linear", detector, volume)
    for name, algorithm, iterations in (("wbp", "FBP", 1), ("sirt", "SIRT", SIRT_ITERATIONS)):
        began = time.perf_counter()
        for row in range(series.images.shape[1]):
            _astra_slice(astra, series.images[:, row], (volume, detector, projector), algorithm, iterations)
        figures[f"astra_{name}_seconds"] = time.perf_counter() - began
    return figures


def _astra_slice(astra: Any, sinogram: Any, geometry: tuple[Any, Any, Any], algorithm: str, iterations: int) -> None:
    volume, detector, projector = geometry
    data = astra.data2d.create("-sino", detector, sinogram)
    result = astra.data2d.create("-vol", volume)
    settings = {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result, "type": algorithm}
    job = astra.algorithm.create(settings)
    astra.algorithm.run(job, iterations)
    astra.algorithm.delete(job)
    astra.data2d.delete([data, result])


# ---- the machine ---------------------------------------------------------------------------------------------------


def machine() -> dict[str, float]:
    """Return the speed of copies from memory (bytes read and written) and of products of large matrices."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    source = torch.rand(32 * 2**20)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source))
    a = torch.rand(2048, 2048)
    product = best_seconds(lambda: a @ a, 3.0)
    return {"copy_gb_s": 8 * len(source) / copy / 1e9, "matmul_gflops": 2 * 2048**3 / product / 1e9}


def limits(size: int) -> dict[str, float]:
    """Return FLOPs and least bytes a point of the default field, forwards and backwards.

    FLOPs: the products of the network, 24·64 + 64, forwards, again on the way back, and for weights and inputs; those
    of the interpolation along z and x, of 4 features a level, by matrices whose inner length is that of the level.
    Bytes: tables with their moments and gradient, read and written once; features and density, likewise.
    """
    cells = [2.0**k for k in range(6)]
    network = 2 * 4 * (24 * 64 + 64)
    interpolation = 2 * 3 * 4 * sum(2 * size / cell for cell in cells)
    entries = 4 * sum(cell**-3 for cell in cells)
    return {"flop": network + interpolation, "bytes": 4 * 2 * (4 * entries + 24 + 1)}


# ---- the table -----------------------------------------------------------------------------------------------------


def table(results: list[dict[str, Any]], speed: dict[str, float]) -> str:
    """Return all figures as Markdown."""
    from common import markdown_table

    names = list(results[0]["shares"])
    header = ["size", "M points/s", "s a pass", *names, "peak GiB", "s to 0.1 dB", "WBP s", "SIRT s", "ASTRA WBP s"]
    header += ["ASTRA SIRT s", "of FLOP limit", "of copy limit"]
    rows = []
    for found in results:
        rate, least = found["points_per_second"], limits(found["size"])
        cells = [f"{found['size']}³", f"{rate / 1e6:.2f}", f"{found['pass_seconds']:.2f}"]
        cells += [f"{found['shares'][name]:.0%}" for name in names] + [f"{found['peak_gib']:.2f}"]
        cells += [f"{found['near_seconds']:.1f}" if "near_seconds" in found else "–"]
        cells += [
            f"{found[name]:.1f}" if name in found else "–"
            for name in ("wbp_seconds", "sirt_seconds", "astra_wbp_seconds", "astra_sirt_seconds")
        ]
        cells += [f"{rate * least['flop'] / speed['matmul_gflops'] / 1e9:.0%}"]
        cells += [f"{rate * least['bytes'] / speed['copy_gb_s'] / 1e9:.0%}"]
        rows.append(cells)
    threads = results[0]["threads"]
    told = f"copy {speed['copy_gb_s']:.1f} GB/s, products {speed['matmul_gflops']:.0f} GFLOP/s, {threads} threads"
    return f"{markdown_table(header, rows)}\n\n{told}"


def main() -> None:
    """Measure the sizes one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,96,128", help="edges of the cells, voxels")
    parser.add_argument("--converge", default="", help="sizes of which a whole fit is run")
    parser.add_argument("--source", type=Path, help="folder that holds another tiltfield package")
    parser.add_argument("--out", type=Path, help="folder for speed.md and speed.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    converge = [int(n) for n in given.converge.split(",") if n]
    if given.one:
        print(json.dumps(measure(given.one, given.one in converge)))
        return
    results = []
    for size in [int(n) for n in given.sizes.split(",")]:
        command = [sys.executable, __file__, "--one", str(size), "--converge", given.converge]
        path = {"PYTHONPATH": str(given.source)} if given.source else {}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **path})
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{size}³: {results[-1]['points_per_second'] / 1e6:.2f} million points/s", file=sys.stderr, flush=True)
    speed = machine()
    text = table(results, speed)
    print(text)
    if given.out:
        from common import write_text

        given.out.mkdir(parents=True, exist_ok=True)
        write_text(given.out / "speed.md", text + "\n")
        write_text(given.out / "speed.json", json.dumps({"machine": speed, "sizes": results}, indent=1))


if __name__ == "__main__":
    main()
