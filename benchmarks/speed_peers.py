"""The peers on the cell of `speed.py`: each in an environment of its own, each for a limited time.

A peer that cannot be installed or run within its limit has the reason in its row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import PEER_SNR_DB, ROOT, peer_set, run_bounded, run_peer, run_script, simulation_of
from common import Figures, best, markdown_table, score
from peers.quantem_run import ITERATIONS
from speed_measures import SIRT_ITERATIONS, settings
from tiltfield.simulate import Simulation

PEERS = ROOT / "benchmarks" / "peers"
MORE_ITERATIONS = 60  # of mbirtorch, whose own 15 do not converge

Rows = dict[str, Figures]


def mbirtorch(python: Path, simulation: Simulation, seconds: float) -> Rows:
    """Return the best of some settings, as the truth judges, and the same with more iterations."""
    sets = [peer_set(snr_db) for snr_db in PEER_SNR_DB]
    tried = [
        (figures | score(volume, simulation), parameters)
        for parameters, (figures, volume) in zip(sets, run_peer(simulation, sets, python, seconds), strict=True)
    ]
    chosen = best(figures for figures, _ in tried)
    parameters = next(parameters for figures, parameters in tried if figures is chosen)
    rows = {f"mbirtorch, best of {len(sets)} settings, {chosen['iterations']} iterations": chosen}
    longer = {**parameters, "max_iterations": MORE_ITERATIONS, "stop_threshold_change_pct": 0}
    for figures, volume in run_peer(simulation, [longer], python, seconds):
        rows[f"the same, {MORE_ITERATIONS} iterations"] = figures | score(volume, simulation)
    return rows


def quantem(python: Path, simulation: Simulation, seconds: float) -> Rows:
    """Return quantem's neural field in its own settings, cut off by the limit."""
    spare = 60 + 0.2 * seconds  # for imports, a step that began in time, and the volume
    data = run_script(python, PEERS / "quantem_run.py", simulation, ["--seconds", str(seconds)], seconds + spare)
    figures = {"seconds": float(data["seconds"][0])} | score(data["volumes"][0], simulation)
    return {f"quantem, neural field, {data['iterations'][0]:.2f} of its {ITERATIONS} iterations": figures}


RUNNERS: Mapping[str, Callable[[Path, Simulation, float], Rows]] = {"mbirtorch": mbirtorch, "quantem": quantem}


def peers_table(size: int, out: Path, seconds: float, ours: Mapping[str, Any]) -> str:
    """Return seconds and quality of ours and of the peers as Markdown.

    Args:
        size: edge of the cell.
        out: folder of the environments.
        seconds: limit for each peer, to be installed and, again, to run.
        ours: figures of a whole run, of WBP, and of SIRT.
    """
    rows = [
        ["tiltfield, all defaults", *_cells(ours)],
        *(
            [title, *_cells({key.removeprefix(f"{name}_"): ours[key] for key in ours if key.startswith(f"{name}_")})]
            for name, title in (("sirt", f"SIRT, {SIRT_ITERATIONS} iterations"), ("wbp", "WBP"))
        ),
    ]
    for name, runner in RUNNERS.items():
        try:
            python = _installed(name, out / "peers" / name, seconds)
            rows += [[title, *_cells(figures)] for title, figures in runner(python, _cell(size), seconds).items()]
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            rows.append([f"{name}: {str(error).strip().splitlines()[-1]}", "–", "–", "–"])
    return markdown_table([f"{size}³", "seconds", "PSNR, dB", "inside, dB"], rows)


def _cell(size: int) -> Simulation:
    return simulation_of(settings(size))


def _installed(name: str, folder: Path, seconds: float) -> Path:
    script = PEERS / "environment.py"
    printed = run_bounded([sys.executable, str(script), name, "--folder", str(folder.resolve())], seconds)
    return Path(printed.splitlines()[-1])


def _cells(figures: Mapping[str, Any]) -> list[str]:
    return [f"{figures['seconds']:.1f}", f"{figures['psnr_db']:.2f}", f"{figures['inside_db']:.2f}"]
