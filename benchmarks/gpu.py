"""A machine with one NVIDIA GPU: do the kernels compute what they should, how fast are they, and how fast are fits.

``benchmarks/gpu.sh`` calls this; the stages are ::

    tests          tests/kernels on the GPU
    kernels        each kernel against its floor and plain torch, for slices 256, 512 and 1000 wide (gpu_kernels.py)
    steps          training steps of 2, 4, 8 and 16 slices: what launches cost, and what points cost
    simulate:N     the paper's cell of N³ voxels, on the CPU
    fit:N          a default fit of it, end to end: seconds, memory of the GPU, the paper's 3D PSNR

What the fit of the paper's cell should take on an H100 (3.35 TB/s; 67, 495 and 990 TFLOP/s of float32, tf32 and
bfloat16): 45 passes over 1000 slices of 570 × 1000 points are 2.6e10 points, forwards and backwards. Least bytes and
operations a point, with 67 tilts, are as gpu_kernels.py counts them; for plain torch, what its operations pass over ::

    part              bytes   operations                         ns a point   seconds
    encoding            264   416 float32                             0.079       2.0
    network             296   24 576 tf32, 16 384 bfloat16            0.088       2.3
    softplus, square    116                                           0.035       0.9
    projector            17   3 039 float32                           0.045       1.2
    total variation      16   76 float32                              0.005       0.1
    noise model         168   (0.12 pixels a point)                   0.050       1.3
    optimiser           121   (1.2 numbers a point)                   0.036       0.9
    all                 998                                           0.34        9

But a step makes some 680 launches, which take the CPU about 3.4 ms, and two slices keep the GPU busy for less than
half a ms: 22 500 steps of two slices would take 77 s, limited by launches. 2 835 steps of 16 slices (3.1 ms of work
each) take about 10 s. So on a GPU a step wants sixteen slices or more; the projector gains twofold besides, for
four slices share their weights. Add some 10 s for the coarse fit and the rehearsal, bound by launches too, and
what the CPU does before and after: levels, residuals, the report, files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTHS, BLOCKS = (256, 512, 1000), (2, 16)
STEP_SLICES = (2, 4, 8, 16)
GRACE = 60.0  # seconds that an interrupted stage has for writing what it has
NO_GPU, STOPPED = 2, 130  # exit codes


# ---- stages, each in a process of its own --------------------------------------------------------------------------


def tests(work: Path, device: str) -> dict[str, Any]:
    """Run the tests of the kernels, those that take long too."""
    files = sorted(str(path) for path in (ROOT / "tests" / "kernels").glob("test_gpu_*.py"))
    words = ["pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "-m", "slow or not slow", *files]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout, file=sys.stderr)
    if done.returncode:
        raise RuntimeError(done.stdout.strip().splitlines()[-1])
    return {"said": done.stdout.strip().splitlines()[-1]}


def kernels(work: Path, device: str, widths: tuple[int, ...] = WIDTHS) -> dict[str, Any]:
    """Time the kernels."""
    import torch

    from gpu_kernels import Block, measure, rates

    where = torch.device(device)
    found = rates(where)
    print({name: f"{rate:.3g}" for name, rate in found.items()}, file=sys.stderr)
    figures: dict[str, Any] = {"rates": found}
    for n in widths:
        for slices in BLOCKS:
            block = Block(n, slices)
            figures[f"{n} wide, {slices} slices"] = measured = measure(block, where, found)
            print(f"{slices} slices of {block.n_z} × {n}", file=sys.stderr)
            for name, f in measured.items():
                told = f"{f['ms']:9.3f} ms, floor {f['floor_ms']:8.3f} ms ({f['of_floor']:4.0%}), plain torch"
                print(f"  {name:15} {told} {f['plain_ms']:9.3f} ms, error {f['error']:.1e}", file=sys.stderr)
    return figures


def steps(work: Path, device: str, widths: tuple[int, ...] = WIDTHS) -> dict[str, Any]:
    """Time training steps."""
    import torch

    import gpu_kernels

    figures = {}
    for n in widths:
        figures[str(n)] = found = gpu_kernels.steps(n, STEP_SLICES, torch.device(device))
        print(n, {name: round(value, 3) for name, value in found.items()}, file=sys.stderr)
    return figures


def simulate(work: Path, device: str, n: int) -> dict[str, Any]:
    """Simulate the paper's cell, unless it is there."""
    folder = work / f"cell-{n}"
    if (folder / "meta.yaml").exists():
        return {"seconds": 0.0, "found": True}
    began = time.perf_counter()
    _command("simulate", "--cell", "paper", "--size", str(n), "--out", str(folder), "--overwrite")
    return {"seconds": time.perf_counter() - began, "threads": os.cpu_count()}


def fit(work: Path, device: str, n: int) -> dict[str, Any]:
    """Fit the simulated cell, or go on with a fit that was stopped, and hold it against the truth."""
    import torch

    from tiltfield.evaluate import same_box
    from tiltfield.io import read_volume
    from tiltfield.metrics import psnr_minmax

    cell, run = work / f"cell-{n}", work / f"run-{n}-{device}"
    began = time.perf_counter()
    words = [str(cell / "noisy.mrc"), "--angles", str(cell / "series.rawtlt"), "--out", str(run), "--device", device]
    _command("reconstruct", *words, "--resume", good=(0, STOPPED))
    seconds = time.perf_counter() - began
    sittings = work / f"{run.name}.sittings"
    with sittings.open("a") as file:
        file.write(f"{seconds:.1f}\n")
    if not (run / "metrics.json").exists():
        raise RuntimeError("stopped before the fit began")
    told = json.loads((run / "metrics.json").read_text())
    truth = read_volume(cell / "truth.mrc")
    psnr = psnr_minmax(same_box(read_volume(run / "volume.mrc"), truth), truth.data)
    names = ("interrupted", "outcome", "steps", "thickness_pixels", "tv_weight", "device", "seconds", "notes")
    figures = {"psnr_3d_db": psnr, **{name: told.get(name) for name in names}}
    figures["seconds_of_each_sitting"] = [float(line) for line in sittings.read_text().split()]
    if device == "cuda":
        figures["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        figures["reserved_gpu_gib"] = torch.cuda.max_memory_reserved() / 2**30
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    fitted = [entry["seconds"] for entry in history if entry.get("stage") == "fit"]
    return figures | {"seconds_of_the_fit": fitted[-1] if fitted else None}


def _command(*words: str, good: tuple[int, ...] = (0,)) -> None:
    """Carry out a command of tiltfield in this process, which has to end with a good code; what it says is logged."""
    from tiltfield import cli

    sys.stdout, kept = sys.stderr, sys.stdout
    try:
        cli.main(list(words))
    except SystemExit as stop:
        if (stop.code or 0) not in good:
            raise RuntimeError(f"tiltfield {words[0]} ended with code {stop.code}") from None
    finally:
        sys.stdout = kept


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "tests": tests,
    "kernels": kernels,
    "steps": steps,
    "simulate": simulate,
    "fit": fit,
}


def carry_out(stage: str, work: Path, device: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the figures of a stage, "name" or "name:N"."""
    name, _, n = stage.partition(":")
    if name in ("kernels", "steps"):
        return STAGES[name](work, device, widths)
    return STAGES[name](work, device, *([int(n)] if n else []))


# ---- one after the other -------------------------------------------------------------------------------------------


def bounded(command: list[str], seconds: float, log: Path) -> dict[str, Any]:
    """Return what a command prints last, as JSON; or why it failed.

    Args:
        command: interrupted after some seconds, as by Ctrl-C, and killed if that does not end it.
        seconds: how long it may take.
        log: file for what it says besides.
    """
    began = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        in_time = True
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            in_time = False
            process.send_signal(signal.SIGINT)
            said = _rest(process)
    took = {"wall_seconds": time.perf_counter() - began, "in_time": in_time}
    lines = said.strip().splitlines()
    if process.returncode == 0 and lines:
        return {**json.loads(lines[-1]), **took}
    last = " | ".join(log.read_text().strip().splitlines()[-3:]) or "it said nothing"
    return {"failed": last if in_time else f"not finished in {seconds:.0f} s; {last}", **took}


def _rest(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=GRACE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def machine(device: str) -> dict[str, Any]:
    """Return what computes."""
    import torch

    from tiltfield.kernels import told

    where = torch.device(device)
    gpu = {"gpu": torch.cuda.get_device_name(where)} if device == "cuda" else {}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    return {**gpu, "said": told(where), "cpu_cores": os.cpu_count(), "system": platform.platform(), **versions}


def write(path: Path, results: dict[str, Any]) -> None:
    """Replace a file of results by what it had and these."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    """Carry the stages out, each in a process of its own, and write gpu.json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", help="of those above")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and the logs")
    parser.add_argument("--work", type=Path, required=True, help="folder for cells and runs, kept between calls")
    parser.add_argument("--seconds", type=float, default=480.0, help="that a stage may take")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = [stage for stage in given.stages if stage.partition(":")[0] not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]}, expected {', '.join(STAGES)}; simulate and fit with :N")
    if given.one:
        widths = tuple(int(n) for n in given.widths.split(","))
        print(json.dumps(carry_out(given.stages[0], given.work, given.device, widths)))
        return
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA GPU here: nothing was done", file=sys.stderr)
        raise SystemExit(NO_GPU)
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.out / "gpu.json"
    results = json.loads(path.read_text()) if path.exists() else {"stages": {}}
    results["machine"] = machine(given.device)
    same = ["--out", str(given.out), "--work", str(given.work), "--device", given.device, "--widths", given.widths]
    for stage in given.stages:
        print(f"{stage} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, stage, "--one", *same]
        found = bounded(command, given.seconds, given.out / f"{stage.replace(':', '-')}.log")
        results["stages"][stage] = found
        write(path, results)
        print(f"{stage}: {found.get('failed', 'done')}, {found['wall_seconds']:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
