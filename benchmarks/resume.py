"""Runs of the command line: the same twice, one killed half-way and resumed, one with a time limit.

Two runs of the same seed must give the same volume bit for bit; a run that is killed half-way through its fit and
gone on with must end as close to the truth; and a limit on time must be kept ::

    python benchmarks/resume.py --out DIR
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common import DEVICE, SNR, TILTS, Demand, demand_lines, markdown_table, score, write_text
from tiltfield.config import SimulateConfig
from tiltfield.series import Volume
from tiltfield.simulate import Simulation, simulate

POLL_SECONDS = 0.05
TOLERANCE = 10.0  # percent of the time limit


class Command:
    """`tiltfield reconstruct` on one series, with settings of its own each time.

    Args:
        folder: of data and runs.
        simulation: the series; written to the folder.
    """

    def __init__(self, folder: Path, simulation: Simulation) -> None:
        self.folder, self.simulation = folder, simulation
        simulation.save(folder / "data", overwrite=True)

    def start(self, run: str, *flags: str) -> subprocess.Popen[bytes]:
        """Start a run and return its process."""
        data, log = self.folder / "data", self.folder / f"{run}.log"
        words = ["reconstruct", str(data / "noisy.mrc"), "--angles", str(data / "series.rawtlt")]
        words += ["--out", str(self.folder / run), "--device", DEVICE, *flags]
        with log.open("ab") as file:
            return subprocess.Popen([sys.executable, "-m", "tiltfield.cli", *words], stdout=file, stderr=file)

    def run(self, run: str, *flags: str) -> float:
        """Carry a run out to its end, and return the wall time, seconds.

        Raises:
            RuntimeError: if it fails.
        """
        began = time.perf_counter()
        process = self.start(run, *flags)
        try:
            code = process.wait()
        finally:
            process.kill()
        if code:
            raise RuntimeError(f"the run '{run}' failed with exit code {code}: see {self.folder / f'{run}.log'}")
        return time.perf_counter() - began

    def kill_after(self, run: str, passes: int, *flags: str) -> int:
        """Start a run, kill it (SIGKILL) when there is a checkpoint and its fit has made some passes.

        Args:
            run: its name.
            passes: over all slices.
            *flags: of the command.

        Returns:
            the passes it had made.

        Raises:
            RuntimeError: if it came to its end before.
        """
        process = self.start(run, *flags)
        folder = self.folder / run
        try:
            while process.poll() is None:
                made = fit_passes(folder)
                if made >= passes and (folder / "checkpoint.pt").exists():
                    return made
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        raise RuntimeError(f"the run '{run}' ended before it could be killed: see {self.folder / f'{run}.log'}")

    def volume(self, run: str) -> Volume:
        """Return the volume of a finished run."""
        return Volume.load(self.folder / run / "volume.mrc")

    def psnr(self, run: str) -> tuple[float, float]:
        """Return the affine PSNR of a finished run, over the whole box and inside the slab."""
        figures = score(self.volume(run).data, self.simulation)
        return figures["psnr_db"], figures["inside_db"]


def fit_passes(folder: Path) -> int:
    """Return how many passes of its fit a run has written down."""
    path = folder / "history.jsonl"
    if not path.exists():
        return 0
    return sum(entry.get("stage") == "fit" for entry in _entries(path.read_text()))


def _entries(text: str) -> list[dict[str, object]]:
    """Return the whole lines of a history that is being written."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def resume_table(runs: Mapping[str, tuple[float, float, float]]) -> str:
    """Return the Markdown table.

    Args:
        runs: name to PSNR over the whole box, PSNR inside the slab, and wall time.
    """
    rows = [[name, f"{whole:.3f}", f"{inside:.3f}", f"{wall:.1f}"] for name, (whole, inside, wall) in runs.items()]
    return markdown_table(["run", "whole box, dB", "inside the slab, dB", "wall time, s"], rows)


def resume_demands(runs: Mapping[str, tuple[float, float, float]], bits: bool, limit: float) -> list[Demand]:
    """Return what is asked, with its figures.

    Args:
        runs: as in :func:`resume_table`.
        bits: whether two runs of the same seed gave the same volume.
        limit: on the time of the last run, seconds.
    """
    apart = [abs(runs["resumed"][i] - runs["first"][i]) for i in (0, 1)]
    over = 100 * (runs["limited"][2] / limit - 1)
    return [
        Demand("same seed, same volume bit for bit (1: yes)", float(bits), 1.0, unit=""),
        Demand("resumed and uninterrupted apart, whole box", apart[0], 0.05, at_least=False),
        Demand("resumed and uninterrupted apart, inside the slab", apart[1], 0.05, at_least=False),
        Demand(f"wall time beyond --max-time {limit:g}", over, TOLERANCE, at_least=False, unit="%"),
    ]


def carry_out(command: Command, preset: str, limit: float) -> tuple[dict[str, tuple[float, float, float]], bool]:
    """Carry out all the runs, and return their figures and whether the first two are the same bit for bit."""
    flags = ("--preset", preset)
    walls = {name: command.run(name, *flags, "--overwrite") for name in ("first", "second")}
    half = max(1, fit_passes(command.folder / "first") // 2)
    began = time.perf_counter()
    made = command.kill_after("resumed", half, *flags, "--overwrite")
    print(f"killed after {made} passes of {fit_passes(command.folder / 'first')}; going on", flush=True)
    command.run("resumed", "--resume")
    walls["resumed"] = time.perf_counter() - began
    walls["limited"] = command.run("limited", "--preset", "fine", "--max-time", str(limit), "--overwrite")
    same = np.array_equal(command.volume("first").data, command.volume("second").data)
    return {name: (*command.psnr(name), wall) for name, wall in walls.items()}, same


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data and the runs, which are replaced")
    parser.add_argument("--size", type=int, default=64, help="edge of the cell, voxels (default: 64)")
    parser.add_argument("--preset", default="standard", help="of the first three runs (default: standard)")
    parser.add_argument("--max-time", type=float, default=30, help="limit of the last run, seconds (default: 30)")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    config = SimulateConfig(size=options.size, tilts=TILTS, mode="bf", snr=SNR)
    command = Command(options.out, simulate(config))
    runs, same = carry_out(command, options.preset, options.max_time)
    verdict = f"The first two runs gave {'the same volume bit for bit' if same else 'DIFFERENT volumes'}."
    demands = demand_lines(resume_demands(runs, same, options.max_time))
    text = "\n\n".join(["# Interrupted and limited runs", resume_table(runs), verdict, demands]) + "\n"
    write_text(options.out / "resume.md", text)
    print(text)


if __name__ == "__main__":
    main()
