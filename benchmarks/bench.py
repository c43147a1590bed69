"""What benchmarks of volumes share: rows of methods run on simulated series, and the peer `mbirtorch` in its sweep."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import (
    ROOT,
    Figures,
    Key,
    Store,
    best,
    centred,
    fit_and_score,
    mean_spread,
    score,
    source_hash,
)
from peers.environment import make_environment
from tiltfield.config import SimulateConfig
from tiltfield.contrast import Levels, linearise
from tiltfield.report import compare_figure
from tiltfield.run import atomic
from tiltfield.series import Volume
from tiltfield.simulate import Simulation, simulate

PEER = "mbirtorch"
# The peer's sweep, one setting after another, each at the best of those before. On seed 0 of quality.py, snr_db 10, 15,
# 20 at sharpness 0 gave 18.15, 18.50, 16.74 dB; sharpness -1 at 15 gave 17.43, no positivity 18.19, a linear sinogram
# 16.91.
PEER_SNR_DB = (12.0, 15.0, 18.0, 21.0)
PEER_STEP_DB = 3.0  # by which it goes on upwards while the largest is the best
PEER_SHARPNESS = (-0.5, 0.5)  # 0 is in the first part
# As tiltfield itself asks of the C library: where page faults are dear, steps are several times as fast.
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
PEER_SCRIPT = ROOT / "benchmarks" / "peers" / "mbirtorch_run.py"

Fitter = Callable[[Simulation, Mapping[str, Any]], tuple[Figures, np.ndarray]]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: in the table.
        variants: settings of which the truth picks the best; empty for the peer, which has its own sweep.
    """

    title: str
    variants: tuple[Mapping[str, Any], ...]


def neural(field: str, noise: str) -> tuple[Mapping[str, Any], ...]:
    """Return the one variant of a neural row."""
    return ({"field": field, "noise": noise},)


@functools.lru_cache(maxsize=2)
def simulation_of(made: SimulateConfig) -> Simulation:
    """Return a synthetic cell and its images."""
    return simulate(made)


class Bench:
    """Runs what has not been run yet.

    Args:
        store: keeps the results.
        rows: by name.
        seconds: limit of a neural fit.
        peer_iterations: if set, the peer's best set is also run with this many iterations.
        fitter: reconstructs a simulation with settings and judges it.
    """

    def __init__(
        self,
        store: Store,
        rows: Mapping[str, Row],
        seconds: float,
        *,
        peer_iterations: int | None = None,
        fitter: Fitter = fit_and_score,
    ) -> None:
        self.store, self.rows, self.seconds, self.fitter = store, rows, seconds, fitter
        self.peer_iterations = peer_iterations
        self.code = source_hash()

    def row(self, name: str, made: SimulateConfig) -> tuple[Figures, Key]:
        """Return the figures and the key of a row's best variant; volumes of seed 0 are kept for the picture."""
        if name == PEER:
            keys = self._peer(made)
        else:
            keys = [self.own(variant, made, keep=made.seed == 0) for variant in self.rows[name].variants]
        figures = {json.dumps(key): self.store.once(key, _missing) for key in keys}
        chosen = best(figures.values())
        return chosen, next(key for key in keys if figures[json.dumps(key)] is chosen)

    def sweep(self, name: str, made: SimulateConfig, factors: Sequence[float]) -> dict[float, Figures]:
        """Return a row at multiples of the weight it chose, by factor.

        The factor 1 is fitted anew: with a weight given, the time to choose one goes into the fit, so that only fits
        with given weights compare.
        """
        variant = self.rows[name].variants[0]
        chosen = self.row(name, made)[0]["tv_weight"]
        keys = {f: self.own({**variant, "tv_weight": chosen * f}, made, keep=False) for f in factors}
        return {factor: self.store.once(key, _missing) for factor, key in keys.items()}

    def own(self, variant: Mapping[str, Any], made: SimulateConfig, *, keep: bool) -> Key:
        """Run one of the package's methods, and return its key."""
        settings = {**variant} if "method" in variant else {**variant, "max_time": self.seconds, "seed": made.seed}
        key = _key(settings, made, self.code)
        self.store.once(key, lambda: _said(key, self.fitter(simulation_of(made), settings)), keep=keep)
        return key

    def _peer(self, made: SimulateConfig) -> list[Key]:
        """Run the peer's sweep, and return the keys."""
        tried = [peer_set(snr_db) for snr_db in PEER_SNR_DB]
        chosen = self._best_set(tried, made)
        while chosen["snr_db"] == tried[-1]["snr_db"]:  # the best lies at the end: beyond may be better
            tried.append(peer_set(chosen["snr_db"] + PEER_STEP_DB))
            chosen = self._best_set(tried, made)
        tried += [{**chosen, "sharpness": sharpness} for sharpness in PEER_SHARPNESS]
        chosen = self._best_set(tried, made)
        tried.append({**chosen, "positivity_flag": False})
        if self.peer_iterations:
            chosen = self._best_set(tried, made)
            tried.append({**chosen, "max_iterations": self.peer_iterations, "stop_threshold_change_pct": 0})
        self._best_set(tried, made)
        return [self._peer_key(parameters, made) for parameters in tried]

    def _best_set(self, sets: Sequence[dict[str, Any]], made: SimulateConfig) -> dict[str, Any]:
        """Run the sets of parameters that are missing, and return the best of all."""
        keep = made.seed == 0
        keys = [self._peer_key(parameters, made) for parameters in sets]
        missing = [s for s, key in zip(sets, keys, strict=True) if not self.store.has(key, keep=keep)]
        if missing:
            simulation = simulation_of(made)
            for parameters, (figures, volume) in zip(missing, run_peer(simulation, missing), strict=True):
                key = self._peer_key(parameters, made)
                result = _said(key, (figures | score(volume, simulation), volume))
                self.store.once(key, lambda result=result: result, keep=keep)
        return max(zip(sets, keys, strict=True), key=lambda pair: self.store.once(pair[1], _missing)["psnr_db"])[0]

    def _peer_key(self, parameters: Mapping[str, Any], made: SimulateConfig) -> Key:
        return _key({"peer": PEER, **parameters}, made, peer_input(made))

    def draw(self, names: Sequence[str], made: SimulateConfig, path: Path) -> None:
        """Draw the sections of some rows beside the truth; `made` has seed 0, whose volumes are kept."""
        truth = simulation_of(made).volume()
        volumes = {}
        for name in names:
            figures, key = self.row(name, made)
            data = centred(self.store.volume(key), len(truth.data))
            volumes[f"{self.rows[name].title}\n{figures['psnr_db']:.2f} dB"] = Volume(data, truth.voxel_size_nm)
        with atomic(path) as part:
            compare_figure(truth, volumes, part)


def _key(settings: Mapping[str, Any], made: SimulateConfig, code: str) -> Key:
    return {"simulation": made.model_dump(mode="json"), "settings": dict(settings), "code": code}


def _missing() -> tuple[Figures, np.ndarray]:
    raise AssertionError("this result should have been there")


def _said(key: Key, result: tuple[Figures, np.ndarray]) -> tuple[Figures, np.ndarray]:
    """Print a result as it comes, and pass it on."""
    figures, made = result[0], key["simulation"]
    words = ", ".join(f"{name} {value}" for name, value in key["settings"].items())
    print(
        f"seed {made['seed']}{', clipped' if made['clip'] else ''}: {words}: {figures['psnr_db']:.2f} dB, "
        f"inside {figures['inside_db']:.2f} dB, {figures['seconds']:.1f} s",
        flush=True,
    )
    return result


def cells(figures: Sequence[Figures]) -> list[str]:
    """Return PSNR over box and slab, seconds and weight of a row as cells of a table.

    Args:
        figures: one per seed.
    """
    digits = {"psnr_db": 2, "inside_db": 2, "seconds": 0, "tv_weight": 2}
    return [mean_spread(column(figures, name), n) for name, n in digits.items()]


def column(figures: Sequence[Figures], name: str) -> list[float]:
    """Return one figure of a row, one value per seed that has it."""
    return [f[name] for f in figures if f.get(name) is not None]


# ---- the peer ------------------------------------------------------------------------------------------------------


@functools.cache
def peer_input(made: SimulateConfig) -> str:
    """Return a digest of all that a peer's result depends on: images, truth, and its script."""
    simulation, digest = simulation_of(made), hashlib.blake2b(PEER_SCRIPT.read_bytes(), digest_size=8)
    for array in (simulation.noisy, simulation.truth, simulation.angles_deg):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def peer_set(snr_db: float, sharpness: float = 0.0, positivity: bool = True) -> dict[str, Any]:
    """Return one set of the peer's parameters."""
    return {"snr_db": snr_db, "sharpness": sharpness, "positivity_flag": positivity}


def run_peer(
    simulation: Simulation, sets: Sequence[Mapping[str, Any]], python: Path | None = None, seconds: float | None = None
) -> Iterator[tuple[Figures, np.ndarray]]:
    """Run the peer in its own environment, and yield figures and volume of each set of parameters.

    Args:
        simulation: the series.
        sets: parameters.
        python: interpreter of the environment; it is made in the repository root if None.
        seconds: limit of all sets together.
    """
    python = python or make_environment(PEER)
    data = run_script(python, PEER_SCRIPT, simulation, ["--parameters", json.dumps(list(sets))], seconds)
    for volume, spent, iterations in zip(data["volumes"], data["seconds"], data["iterations"], strict=True):
        yield {"seconds": float(spent), "iterations": int(iterations)}, volume


def run_script(
    python: Path, script: Path, simulation: Simulation, options: Sequence[str], seconds: float | None = None
) -> dict[str, np.ndarray]:
    """Run a peer's script on a series, and return the arrays that it wrote.

    Args:
        python: interpreter of the peer's environment.
        script: takes a file with `sinogram` (tilt, row, col) and `angles_deg`, one to write, and options.
        simulation: images; its true gain and offset make the sinogram, in the peer's favour.
        options: of the script.
        seconds: after which the script is killed.

    Raises:
        RuntimeError: the script failed, or was killed.
    """
    levels = Levels(0.0, 1.0, simulation.offset, simulation.gain, 1.0)
    sinogram = linearise(simulation.noisy, simulation.config.mode, levels)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, sinogram=sinogram, angles_deg=simulation.angles_deg)
        run_bounded([str(python), str(script), str(source), str(target), *options], seconds)
        with np.load(target) as data:
            return dict(data)


def run_bounded(command: Sequence[str], seconds: float | None = None) -> str:
    """Run a command and return what it printed; kill it, and all that it started, when its time is up.

    Args:
        command: program and arguments.
        seconds: limit, or None.

    Raises:
        RuntimeError: it failed, or was killed.
    """
    environment = {**os.environ, **KEEP_FREED_MEMORY}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes) as process:
        try:
            out, error = process.communicate(timeout=seconds)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise RuntimeError(f"not done within {seconds:.0f} s") from None
            raise
    if process.returncode:
        raise RuntimeError(f"{Path(command[1]).name} failed:\n{out[-1000:]}{error[-3000:]}")
    return out
