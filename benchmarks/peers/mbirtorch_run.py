"""Reconstruct a tilt series with mbirtorch (parallel beam, qGGMRF prior) for one or more sets of parameters.

Run it with the python that `environment.py mbirtorch` makes; of tiltfield it imports nothing ::

    .venv-mbirtorch/bin/python benchmarks/peers/mbirtorch_run.py in.npz out.npz --parameters '[{"snr_db": -5}]'

Input: `sinogram` (tilt, row, col), line integrals of density over pixels, `angles_deg` (tilt,), and, if wanted,
`weights` (tilt, row, col), inverse variances up to a factor. Output: `volumes` (set, z, y, x) float32, `seconds`,
`iterations`, `sigma_y` and `sigma_x` (set,), `warm_up_seconds` (spent before the first fit), `parameters` (JSON) and
`version`. Without `--parameters` it runs `first_sweep()`; the whole protocol, for a caller who knows the truth, is
`first_sweep()`, `second_sweep(best so far)`, `final_set(best of both)`.

Conventions. mbirtorch's volume is (row, col, slice) and projects to u = col cos φ - row sin φ, all centred at (N-1)/2;
detector row r is slice r. Ours is (z, y, x) with u = x cos θ + z sin θ. So φ = -θ, z = row, y = slice, x = col, and
no axis is flipped. `--self-check` holds this against a Gaussian blob's closed-form projection.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Parameters = Mapping[str, Any]

# Arguments of `recon`; every other key goes to `set_params` (sharpness, snr_db, positivity_flag, p, q, T, ...).
RECON_KEYS = frozenset({"max_iterations", "stop_threshold_change_pct"})
# Set on every model, unless a parameter set says otherwise.
# use_ror_mask: mbirtorch's own default (True) keeps only an ellipse of the (z, x) plane and cuts off a slab's ends.
# partition_sequence: 16 subsets of voxels from the second iteration on, not mbirtorch's 128. Iteration for iteration
#   the result is the same (within 0.03 dB after 25 and after 40), at half the time or less on a CPU.
DEFAULTS: Parameters = {"use_ror_mask": False, "partition_sequence": (2, 4), "verbose": 0}

# The sweep. Measured on slabs of 96³ with ellipsoidal shells, 67 tilts in ±50°, noise of SNR 0.7 (variances), and on
# the same after an exponential, clipping to [0, 1] and the logarithm; PSNR after the best affine fit, whole cube /
# slab.
# - snr_db and sharpness are redundant. snr_db sets the data's σ_y, sharpness the prior's σ_x ∝ 2^sharpness; for small
#   steps only σ_x/σ_y counts (6.0 dB a unit of sharpness), for large ones σ_x^q/σ_y^2, q = 1.2 (3.6 dB). The best
#   snr_db was 22, 15, 7 and -4 at sharpness -2, 0, 2 and 4: about RIDGE_DB a unit. Along that ridge the slab's PSNR
#   was 18.2, 18.2, 18.1 and 18.0, the cube's (100 iterations) 19.2, 20.0, 20.0 and 20.0. Off it, 4 dB to either side
#   cost about 1 dB.
# - So snr_db is swept at the default sharpness of 1, where its best was 11 (10 on the second kind of data); then
#   sharpness, along the ridge. Both ends of the sweep were 2 to 4 dB below the best.
# - The default 15 iterations are too few: at (0, 16) the cube's PSNR was 17.3, 18.2, 19.0, 19.5 and 19.9 after 15,
#   25, 40, 60 and 90, while the slab's stood at 18.2 from 25 on: what changes is the empty space in the missing
#   wedge, slowly. So the sweep runs 25, which rank alike, and the best set runs 100. The threshold of 0.2 % would
#   stop it at about 65.
# - Positivity changed 0.03 dB or less, with either sign; it stays on, since density is not negative.
# - Weights exp(-2 sinogram) from the noisy data themselves lost 0.4 dB (they follow the noise): better none.
SNR_DB = (22.0, 17.0, 14.0, 11.0, 8.0, 4.0, -2.0)
RIDGE_DB = 4.4
SWEEP_ITERATIONS = 25
FINAL_ITERATIONS = 100


@dataclass(frozen=True)
class Series:
    """What is reconstructed.

    Attributes:
        sinogram: line integrals (tilt, row, col).
        angles_deg: tilts (tilt,), degrees, our sign.
        weights: inverse variances (tilt, row, col) up to a factor, or None for equal ones.
    """

    sinogram: Array
    angles_deg: Array
    weights: Array | None = None

    def __post_init__(self) -> None:
        if self.sinogram.ndim != 3 or self.angles_deg.shape != self.sinogram.shape[:1]:
            raise ValueError(
                f"expected a sinogram (tilt, row, col) and one angle per tilt, got shapes {self.sinogram.shape} and "
                f"{self.angles_deg.shape}"
            )
        if self.weights is not None and self.weights.shape != self.sinogram.shape:
            raise ValueError(f"expected weights of shape {self.sinogram.shape}, got {self.weights.shape}")


@dataclass(frozen=True)
class Grid:
    """Extent of the reconstruction in the plane of the beam.

    Attributes:
        n_z: voxels along the beam at zero tilt.
        n_x: voxels across the beam; above the detector's columns it is padding, cropped from the result.
    """

    n_z: int
    n_x: int

    def crop(self, n_col: int) -> slice:
        """Return the part of x that the detector's columns see at zero tilt."""
        margin = (self.n_x - n_col) // 2
        return slice(margin, margin + n_col)


@dataclass(frozen=True)
class Fit:
    """One reconstruction: the volume (z, y, x), its wall time, and what mbirtorch made of the parameters."""

    volume: Array
    seconds: float
    iterations: int
    sigma_y: float
    sigma_x: float


@dataclass
class Check:
    """Outcome of the self-check: named errors with the largest that is allowed."""

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, error: float, limit: float) -> None:
        """Note one error and print it."""
        self.errors[name] = (error, limit)
        print(f"{'ok  ' if error <= limit else 'FAIL'} {name}: {error:.4f} (at most {limit:g})")

    def passed(self) -> bool:
        """Return whether every error is within its limit."""
        return all(error <= limit for error, limit in self.errors.values())


def parameter_set(snr_db: float, sharpness: float = 1.0, iterations: int = SWEEP_ITERATIONS) -> dict[str, Any]:
    """Return one set of parameters, with positivity and exactly `iterations` iterations."""
    return {
        "snr_db": round(snr_db, 1),
        "sharpness": sharpness,
        "positivity_flag": True,
        "max_iterations": iterations,
        "stop_threshold_change_pct": 0.0,
    }


def first_sweep() -> list[dict[str, Any]]:
    """Return the sets to try first on a data set: snr_db at the default sharpness."""
    return [parameter_set(snr_db) for snr_db in SNR_DB]


def second_sweep(best: Parameters) -> list[dict[str, Any]]:
    """Return the sets to try next: sharpness two units to either side of the best set, along the ridge."""
    steps = (-2.0, 2.0)
    return [parameter_set(best["snr_db"] - RIDGE_DB * step, best["sharpness"] + step) for step in steps]


def final_set(best: Parameters) -> dict[str, Any]:
    """Return the best set of both sweeps with the iterations that its reported fit is given."""
    return {**best, "max_iterations": FINAL_ITERATIONS}


def make_grid(series: Series, n_z: int | None, n_x: int | None) -> Grid:
    """Return the grid asked for; both sides default to the number of detector columns.

    Raises:
        ValueError: `n_x` is smaller than the detector or the padding would not be the same on both sides.
    """
    n_col = series.sinogram.shape[2]
    grid = Grid(n_z or n_col, n_x or n_col)
    if grid.n_x < n_col or (grid.n_x - n_col) % 2:
        raise ValueError(f"expected --n-x of {n_col} plus an even number, got {grid.n_x}")
    return grid


def make_model(series: Series, grid: Grid, parameters: Parameters) -> Any:
    """Return mbirtorch's model of the series with `parameters` set on it."""
    import mbirtorch
    import torch

    # On a CPU, compiling takes one to two minutes per shape and saves nothing after that.
    compile_mode = "auto" if torch.cuda.is_available() else "off"
    model = mbirtorch.ParallelBeamModel(
        series.sinogram.shape, np.deg2rad(-series.angles_deg), compile_mode=compile_mode
    )
    model.set_params(recon_shape=(grid.n_z, grid.n_x, series.sinogram.shape[1]), no_warning=True)
    model.set_params(**{**DEFAULTS, **{k: v for k, v in parameters.items() if k not in RECON_KEYS}})
    return model


def to_ours(recon: NDArray[Any], columns: slice = slice(None)) -> Array:
    """Turn mbirtorch's volume (row, col, slice) into ours (z, y, x)."""
    return np.ascontiguousarray(recon[:, columns, :].transpose(0, 2, 1), dtype=np.float32)


def to_theirs(volume: NDArray[Any]) -> Array:
    """Turn our volume (z, y, x) into mbirtorch's (row, col, slice)."""
    return np.ascontiguousarray(volume.transpose(0, 2, 1), dtype=np.float32)


def reconstruct(series: Series, grid: Grid, parameters: Parameters, *, seed: int = 0) -> Fit:
    """Reconstruct one series with one set of parameters.

    Args:
        series: what is reconstructed.
        grid: extent of the volume.
        parameters: keys of `set_params`, and `max_iterations` (15) and `stop_threshold_change_pct` (0.2) of `recon`.
        seed: of the random order in which voxels are updated.

    Returns:
        the fit; its volume has the detector's width.
    """
    model = make_model(series, grid, parameters)
    options = {k: v for k, v in parameters.items() if k in RECON_KEYS}
    start = time.perf_counter()
    recon, report = model.recon(
        series.sinogram,
        weights=series.weights,
        logfile_path=None,
        print_logs=False,
        rng=np.random.default_rng(seed),
        **options,
    )
    seconds = time.perf_counter() - start
    volume = to_ours(recon, grid.crop(series.sinogram.shape[2]))
    iterations = int(report["recon_params"]["num_iterations"])
    return Fit(volume, seconds, iterations, *map(float, model.get_params(["sigma_y", "sigma_x"])))


def warm_up(series: Series, grid: Grid) -> float:
    """Run three iterations, so that no fit is charged for mbirtorch's compiling, and return the seconds it took."""
    start = time.perf_counter()
    reconstruct(series, grid, {"max_iterations": 3, "stop_threshold_change_pct": 0})
    return time.perf_counter() - start


def read_series(path: Path) -> Series:
    """Read the input file."""
    with np.load(path) as data:
        weights = data["weights"].astype(np.float32) if "weights" in data else None
        return Series(data["sinogram"].astype(np.float32), data["angles_deg"].astype(np.float32), weights)


def read_parameters(text: str | None) -> list[dict[str, Any]]:
    """Read sets of parameters from JSON (a list of objects, or one object) or `@file` with it; None: first sweep."""
    if text is None:
        return first_sweep()
    sets = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    sets = [sets] if isinstance(sets, dict) else sets
    if not isinstance(sets, list) or not sets or not all(isinstance(s, dict) for s in sets):
        raise ValueError(f"expected --parameters to be a JSON list of objects, got {text!r}")
    return sets


def write_fits(path: Path, fits: Sequence[Fit], sets: Sequence[Parameters], warm_up_seconds: float) -> None:
    """Write the output file."""
    import mbirtorch

    np.savez(
        path,
        volumes=np.stack([fit.volume for fit in fits]),
        seconds=np.array([fit.seconds for fit in fits]),
        iterations=np.array([fit.iterations for fit in fits]),
        sigma_y=np.array([fit.sigma_y for fit in fits]),
        sigma_x=np.array([fit.sigma_x for fit in fits]),
        warm_up_seconds=np.array(warm_up_seconds),
        parameters=np.array(json.dumps(list(sets))),
        version=np.array(mbirtorch.__version__),
    )


# ---- self-check ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blob:
    """A Gaussian exp(-r²/2s²) at a point (z, y, x) given in index units."""

    centre: tuple[float, float, float]
    s: float

    def volume(self, shape: tuple[int, int, int]) -> Array:
        """Return its samples on a grid (z, y, x)."""
        axes = np.ogrid[: shape[0], : shape[1], : shape[2]]
        squared = sum((axis - c) ** 2 for axis, c in zip(axes, self.centre, strict=True))
        return np.exp(-squared / (2 * self.s**2)).astype(np.float32)

    def images(self, angles_deg: Array, shape: tuple[int, int, int]) -> Array:
        """Return its line integrals (tilt, row, col): s √(2π) exp(-((u-u₀)² + (v-y)²)/2s²), u₀ = x cos θ + z sin θ."""
        n_z, n_row, n_col = shape
        z, y, x = self.centre
        theta = np.deg2rad(angles_deg.astype(np.float64))
        u0 = (x - (n_col - 1) / 2) * np.cos(theta) + (z - (n_z - 1) / 2) * np.sin(theta)
        du = (np.arange(n_col) - (n_col - 1) / 2)[None, None, :] - u0[:, None, None]
        dv = np.arange(n_row)[None, :, None] - y
        return (self.s * np.sqrt(2 * np.pi) * np.exp(-(du**2 + dv**2) / (2 * self.s**2))).astype(np.float32)


def centroid(volume: Array) -> NDArray[np.float64]:
    """Return the centre of mass (z, y, x) of what exceeds a tenth of the maximum."""
    mass = np.clip(volume.astype(np.float64) - 0.1 * volume.max(), 0, None)
    return np.array([(mass * axis).sum() / mass.sum() for axis in np.ogrid[tuple(map(slice, volume.shape))]])


def check_blob(check: Check, blob: Blob, shape: tuple[int, int, int], padding: int) -> None:
    """Project and reconstruct one blob and compare both with the formula."""
    angles = np.arange(-70, 50.1, 2.5, dtype=np.float32)
    series = Series(blob.images(angles, shape), angles)
    grid = make_grid(series, shape[0], shape[2] + padding)
    name = f"shape {shape}, padding {padding}"
    padded = np.pad(blob.volume(shape), ((0, 0), (0, 0), (padding // 2, padding // 2)))
    images = make_model(series, grid, {}).forward_project(to_theirs(padded))
    check.add(f"projection, {name}", float(np.abs(images - series.sinogram).max() / series.sinogram.max()), 0.03)
    fit = reconstruct(series, grid, {"positivity_flag": True})
    if fit.volume.shape != shape:
        raise ValueError(f"expected a volume of shape {shape}, got {fit.volume.shape}")
    check.add(f"centre, {name}", float(np.abs(centroid(fit.volume) - blob.centre).max()), 0.1)


def self_check() -> bool:
    """Return whether volumes come back in our convention: sign of the tilt, order of the axes, no half pixel lost."""
    check = Check()
    check_blob(check, Blob((27.3, 8.6, 21.7), 2.5), (40, 24, 57), padding=0)
    check_blob(check, Blob((12.2, 15.1, 37.4), 2.5), (41, 25, 56), padding=12)
    return check.passed()


# ---- command line --------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?", help="npz with sinogram, angles_deg and, if wanted, weights")
    parser.add_argument("output", type=Path, nargs="?", help="npz that is written")
    parser.add_argument("--parameters", help="JSON list of parameter sets, or @file with it (default: the first sweep)")
    parser.add_argument("--n-z", type=int, help="voxels along z (default: detector columns)")
    parser.add_argument(
        "--n-x", type=int, help="voxels along x while fitting, cropped after (default: detector columns)"
    )
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of updates (default: 0)")
    parser.add_argument("--self-check", action="store_true", help="check the orientation on a known blob, and exit")
    options = parser.parse_args()
    if not options.self_check and options.output is None:
        parser.error("expected an input and an output file, or --self-check")
    return options


def run(options: argparse.Namespace) -> None:
    """Reconstruct the input with every set of parameters and write the output."""
    series = read_series(options.input)
    grid = make_grid(series, options.n_z, options.n_x)
    sets = read_parameters(options.parameters)
    seconds = warm_up(series, grid)
    print(f"warm-up {seconds:.1f} s")
    fits = []
    for parameters in sets:
        fits.append(reconstruct(series, grid, parameters, seed=options.seed))
        print(f"{fits[-1].seconds:6.1f} s, {fits[-1].iterations:2d} iterations: {json.dumps(parameters)}", flush=True)
    write_fits(options.output, fits, sets, seconds)


def main() -> None:
    """Run the script."""
    options = arguments()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    warnings.filterwarnings("ignore", message="torch runs host tensor operations on one thread")
    if not options.self_check:
        run(options)
    elif not self_check():
        raise SystemExit("the volumes are not in our convention: see the lines marked FAIL")


if __name__ == "__main__":
    main()
