"""From a tilt series to a volume: the one entry point, whichever the method."""

from __future__ import annotations

import ctypes
import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch

from tiltfield import classical, neural, published
from tiltfield.config import CLASSICAL, DENOISED, PUBLISHED, ReconstructConfig
from tiltfield.contrast import ContrastMode, decide_mode, estimate_levels, linearise
from tiltfield.defocus import halo_of
from tiltfield.denoise import denoise
from tiltfield.errors import InputError
from tiltfield.fields import FEATURES, WIDTH
from tiltfield.fit import Outcome
from tiltfield.geometry import SliceGeometry
from tiltfield.observe import Observer
from tiltfield.parse import parse_defocus
from tiltfield.projector import STORED_LIMIT, SliceProjector
from tiltfield.result import Reconstruction
from tiltfield.schedule import PASSES, POINTS
from tiltfield.screening import fill
from tiltfield.series import TiltSeries, Volume

__all__ = ["Forecast", "Reconstruction", "check_memory", "forecast", "reconstruct"]

POINTS_PER_SECOND = {"hashgrid": 1.1e6, "mlp": 4e4, "voxels": 6e6}  # field points in training, two CPU cores
BYTES_PER_VOXEL = {"hashgrid": 90, "mlp": 8, "voxels": 36}  # parameters, gradients, moments, best copy, the volume
BYTES_PER_POINT = {"hashgrid": 600, "mlp": 30_000, "voxels": 80}  # activations of a step
GRID_BYTES, TV_BYTES = 36, 84  # of a published grid, a voxel: parameters, gradients, moments, best copy; with TV
GRID_SECONDS, TV_SECONDS = 1e-8, 4e-8  # of its step, a voxel
BYTES_PER_PIXEL = 40  # images, their slices, masks, likelihood, rendered images
BASE_BYTES = 400e6  # the interpreter and its libraries
OWN_FEATURES = {"hashgrid": FEATURES, "mlp": WIDTH, "voxels": 1}
DENOISING_SECONDS = {"bm3d": 1e-4, "topaz": 9e-5, "dwk-p": 7e-6, "dwk-g": 7e-6, "noise2self": 7e-5}  # a pixel
CLASSICAL_ROWS = 64
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@dataclass(frozen=True)
class Forecast:
    """What a reconstruction is expected to take.

    Attributes:
        memory_bytes: peak memory of the process.
        seconds: run time on two CPU cores.
    """

    memory_bytes: int
    seconds: float


def forecast(shape: tuple[int, int, int], config: ReconstructConfig) -> Forecast:
    """Return the expected peak memory and time of a reconstruction of a specimen as thick as 60 % of the image is wide.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
    """
    if config.method in CLASSICAL:
        cost, limit = _classical_forecast(shape, config), None
    else:
        cost = _published_forecast(shape, config) if config.method in PUBLISHED else _neural_forecast(shape, config)
        limit = config.max_time
    if config.method in DENOISED:
        cost = replace(cost, seconds=cost.seconds + DENOISING_SECONDS[config.denoiser] * math.prod(shape))
    return cost if limit is None else replace(cost, seconds=min(cost.seconds, limit))


def _classical_forecast(shape: tuple[int, int, int], config: ReconstructConfig) -> Forecast:
    n_tilts, _, n_x = shape
    pixels = math.prod(shape)
    voxels = n_x * pixels // n_tilts
    iterations = config.sirt_iterations if config.method == "sirt" else 1
    seconds = 2 + 2e-9 * iterations * n_tilts * voxels * 3
    return Forecast(int(BASE_BYTES + _projector_bytes(n_tilts, n_x * n_x) + 16 * voxels + 24 * pixels), seconds)


def _neural_forecast(shape: tuple[int, int, int], config: ReconstructConfig) -> Forecast:
    n_tilts, n_y, n_x = shape
    n_z = math.ceil(0.6 * n_x)
    voxels = n_z * n_y * n_x
    block = max(2, min(16, round(POINTS[config.field] / (n_z * n_x))))
    blur = parse_defocus(config.defocus)
    wider = 1.0 if blur is None else 1 + 2 * halo_of(*blur) / block  # each block is seen with its neighbours
    larger = 1.0 if config.features is None else config.features / OWN_FEATURES[config.field]
    seconds = 6 + wider * max(1.0, larger) * (PASSES[config.preset] + 8) * voxels / POINTS_PER_SECOND[config.field]
    memory = BASE_BYTES + _projector_bytes(n_tilts, n_z * n_x) + BYTES_PER_PIXEL * math.prod(shape)
    memory += larger * BYTES_PER_VOXEL[config.field] * voxels
    memory += wider * larger * BYTES_PER_POINT[config.field] * max(POINTS["voxels"], block * n_z * n_x)
    return Forecast(int(memory), seconds)


def _published_forecast(shape: tuple[int, int, int], config: ReconstructConfig) -> Forecast:
    n_tilts, n_y, n_x = shape
    scaled = published.Scaled.to(shape, config.steps)
    voxels = n_y * n_x * n_x
    memory = BASE_BYTES + _projector_bytes(n_tilts, n_x * n_x) + BYTES_PER_PIXEL * math.prod(shape) + 12 * voxels
    if published.RECIPES[config.method].explicit:
        each, second = (TV_BYTES, TV_SECONDS) if config.tv_weight else (GRID_BYTES, GRID_SECONDS)
        return Forecast(int(memory + each * voxels), scaled.steps * voxels * second)
    points = scaled.rays * sum(scaled.samples)
    wider = (config.features or published.FEATURES) / published.FEATURES
    rate = POINTS_PER_SECOND["mlp"] * (2 if config.reduced else 1) / wider**2
    seconds = (published.PARTS * scaled.steps * points + voxels / 3) / rate
    return Forecast(int(memory + wider * BYTES_PER_POINT["mlp"] * points), seconds)


def _projector_bytes(n_tilts: int, samples: int) -> int:
    """Return the memory of the projector of slices with so many samples."""
    return (60 * n_tilts if samples <= STORED_LIMIT else 80) * samples


def check_memory(shape: tuple[int, int, int], config: ReconstructConfig, available: int | None = None) -> Forecast:
    """Refuse a reconstruction that would not fit into memory.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        available: bytes; by default what the machine has free.

    Returns:
        the forecast.

    Raises:
        InputError: if the forecast exceeds what is available; it names the ``--bin`` that fits.
    """
    available = psutil.virtual_memory().available if available is None else available
    cost = forecast(shape, config)
    if cost.memory_bytes <= available:
        return cost
    fits = [b for b in range(2, 33) if _binned_forecast(shape, config, b) <= available]
    advice = f"try --bin {fits[0] * config.bin}" if fits else "a machine with more memory is needed"
    raise InputError(
        f"this reconstruction is expected to need {cost.memory_bytes / 2**30:.1f} GiB of memory, "
        f"{available / 2**30:.1f} GiB are free: {advice}"
    )


def _binned_forecast(shape: tuple[int, int, int], config: ReconstructConfig, bin_by: int) -> int:
    return forecast((shape[0], max(1, shape[1] // bin_by), max(1, shape[2] // bin_by)), config).memory_bytes


def reconstruct(
    series: TiltSeries,
    config: ReconstructConfig | None = None,
    *,
    observer: Observer | None = None,
    resume: Mapping[str, Any] | None = None,
    began: float | None = None,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct a volume from a tilt series.

    Args:
        series: the tilt series.
        config: settings; by default those of :class:`ReconstructConfig`.
        observer: told of findings, progress, figures and checkpoints.
        resume: the `state` of an earlier, unfinished reconstruction of the same series with the same settings.
        began: when the run began, on the clock of :func:`time.perf_counter`, if before this call; `max_time` counts
            from there.
        **settings: single settings by name, over `config`.

    Returns:
        the volume, its images and figures.

    Raises:
        InputError: if the settings or the series cannot be used.

    Kniesel et al., Clean Implicit 3D Structure from Noisy 2D STEM Images, CVPR 2022.
    """
    began = time.perf_counter() if began is None else began
    keep_freed_memory()
    observer = observer or Observer()
    config = _settled(config, settings)
    check_memory(series.images.shape, config)
    if config.thickness != "auto" and series.pixel_size_nm is None:
        raise InputError(f"{series.name}: a thickness in nm needs the pixel size: give --pixel-size-nm")
    if series.valid is not None:
        series = replace(series, images=fill(series.images, series.valid))
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    mode = _mode(series, config, observer)
    seen = series
    figures: dict[str, Any] = {}
    if config.method in DENOISED:
        seen = denoise(series, config.denoiser, seed=config.seed, device=device, observer=observer)
        figures["denoiser"] = config.denoiser
    if config.method not in CLASSICAL:
        job = neural.Job(seen, config, mode, device, observer, began)
        parts = _neural(neural.solve(job, resume), observer)
    else:
        parts = _classical(seen, config, mode, device, observer)
    volume, rendered, found, state, interrupted = parts
    if config.method in CLASSICAL:
        figures["rmse"] = float(np.sqrt(np.mean((series.images - rendered) ** 2)))
    resolved = config.model_copy(update={"mode": mode, "device": device.type, "threads": torch.get_num_threads()})
    metrics = {
        "method": config.method,
        "mode": mode,
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": peak_memory(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        **figures,
        **found,
    }
    return Reconstruction(Volume(volume, series.pixel_size_nm), rendered, metrics, resolved, state, interrupted)


def _settled(config: ReconstructConfig | None, settings: dict[str, Any]) -> ReconstructConfig:
    base = {} if config is None else config.model_dump(exclude_unset=True)
    return ReconstructConfig.parse({**base, **settings}, "settings")


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next step instead of returning it to the system.

    Every step frees and allocates tensors of some megabytes. Where page faults are dear, returning them each time made
    steps up to 26 times slower. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """Return the device of a setting.

    Args:
        name: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: if "cuda" is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda was asked for, but torch sees no CUDA GPU: use --device cpu, or install torch with CUDA"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def peak_memory() -> int:
    """Return the most memory the process has held, bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _mode(series: TiltSeries, config: ReconstructConfig, observer: Observer) -> ContrastMode:
    if config.mode != "auto":
        return config.mode
    mode, reason = decide_mode(series)
    observer.say(f"contrast {reason}")
    return mode


Parts = tuple[np.ndarray, np.ndarray, dict[str, Any], dict[str, Any] | None, bool]


def _neural(solution: neural.Solution, observer: Observer) -> Parts:
    if solution.outcome is not Outcome.FINISHED:
        observer.say(solution.outcome.value)
    state = neural.checkpoint_of(solution.plan, solution.state, solution.prepared)
    interrupted = solution.outcome is Outcome.INTERRUPTED
    return neural.volume_of(solution), neural.rendered_of(solution), neural.metrics_of(solution), state, interrupted


def _classical(
    series: TiltSeries, config: ReconstructConfig, mode: ContrastMode, device: torch.device, observer: Observer
) -> Parts:
    n_tilts, n_y, n_u = series.images.shape
    n_z = n_u
    if config.thickness != "auto" and series.pixel_size_nm is not None:
        n_z = max(1, round(float(config.thickness) / series.pixel_size_nm))
    levels = estimate_levels(series, mode)
    sinograms = torch.from_numpy(linearise(series.images, mode, levels)).permute(1, 0, 2)
    projector = SliceProjector(SliceGeometry.from_degrees(n_z, n_u, n_u, series.angles_deg), device=device)
    volume = np.empty((n_z, n_y, n_u), np.float32)
    rendered = np.empty((n_tilts, n_y, n_u), np.float32)
    for first in range(0, n_y, CLASSICAL_ROWS):
        rows = slice(first, min(first + CLASSICAL_ROWS, n_y))
        part = sinograms[rows].contiguous().to(device)
        if config.method != "sirt":
            density = classical.wbp(projector, part, config.wbp_filter)
        else:
            used = None if series.valid is None else torch.from_numpy(series.valid[:, rows]).permute(1, 0, 2).to(device)
            density = classical.sirt(projector, part, config.sirt_iterations, used=used)
        depth = projector(density)
        signal = torch.exp(-depth) if mode == "bf" else depth
        volume[:, rows] = density.permute(1, 0, 2).cpu().numpy()
        rendered[:, rows] = (levels.offset + levels.gain * signal).permute(1, 0, 2).cpu().numpy()
        observer.progress(config.method, rows.stop / n_y, None, {})
    figures = {"gain": levels.gain, "offset": levels.offset, "thickness_pixels": n_z}
    return volume, rendered, figures, None, False
