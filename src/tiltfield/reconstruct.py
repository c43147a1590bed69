"""From a tilt series to a volume: the one entry point, whichever the method."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiltfield import classical, kernels, neural, ranks, threads
from tiltfield.config import CLASSICAL, DENOISED, READING, ReconstructConfig
from tiltfield.contrast import ContrastMode, decide_mode, estimate_levels, linearise
from tiltfield.denoise import denoise
from tiltfield.errors import InputError
from tiltfield.fit import Outcome
from tiltfield.forecast import Forecast, check_memory, forecast, knowing
from tiltfield.geometry import SliceGeometry
from tiltfield.io import load
from tiltfield.observe import Observer
from tiltfield.pace import step_seconds
from tiltfield.projector import SliceProjector
from tiltfield.residuals import solution_figures, tilt_figures
from tiltfield.result import Reconstruction
from tiltfield.screening import fill
from tiltfield.series import TiltSeries, Volume

__all__ = ["Forecast", "Reconstruction", "check_memory", "expected", "forecast", "reconstruct"]

CLASSICAL_ROWS = 64
EXCEEDED = 1.2  # times its limit that a run may take before that is told of
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def expected(shape: tuple[int, int, int], config: ReconstructConfig) -> Forecast:
    """Return what a reconstruction is expected to take on this machine, by some of its steps unless it is limited.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.

    Raises:
        InputError: if it would not fit into memory; it names the ``--bin`` that fits.
    """
    keep_freed_memory()
    device = pick_device(config.device)
    cost = check_memory(shape, config)
    if config.max_time is not None:
        return cost
    with threads.as_many_as(config.threads):
        return forecast(shape, config, step_seconds(shape, config, device))


def reconstruct(
    series: TiltSeries | str | Path,
    config: ReconstructConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    resume: Mapping[str, Any] | None = None,
    began: float | None = None,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct a volume from a tilt series.

    Args:
        series: the tilt series, or the path of one, which is read by the settings `angles`, `tilt_axis`, `bin`, ….
        config: settings; by default those of `ReconstructConfig`.
        out: folder for all that the command line keeps of a run (volume.mrc, report.html, …), for
            :func:`tiltfield.run.open_run`; a series that comes from no path is kept there too. Stopped early, the run
            is gone on with by ``tiltfield reconstruct --out DIR --resume``.
        overwrite: replace the run in that folder.
        observer: told of findings, progress, figures and checkpoints.
        resume: the `state` of an earlier, unfinished reconstruction of the same series with the same settings; not for
            `out`.
        began: when the run began, on the clock of `time.perf_counter`, if before this call; `max_time` counts
            from there.
        **settings: single settings by name, over `config`.

    Returns:
        the volume, its images and figures.

    Raises:
        InputError: if the settings, the series or the folder cannot be used.

    Kniesel et al., Clean Implicit 3D Structure from Noisy 2D STEM Images, CVPR 2022.
    """
    began = time.perf_counter() if began is None else began
    keep_freed_memory()
    observer = observer or Observer()
    series = _readable(series, settings)
    config = ReconstructConfig.settled(config, settings)
    if out is not None and resume is not None:
        raise InputError(f"a run in a folder is gone on with by: tiltfield reconstruct --out {out} --resume")
    if out is not None:
        return _kept(series, config, Path(out), observer, overwrite=overwrite, began=began)
    if not isinstance(series, TiltSeries):
        series = load(series, **config.reading)
    with threads.as_many_as(config.threads):
        return _reconstructed(series, config, observer, resume, began)


def _reconstructed(
    series: TiltSeries,
    config: ReconstructConfig,
    observer: Observer,
    resume: Mapping[str, Any] | None,
    began: float,
) -> Reconstruction:
    """Reconstruct a series that has been read, by settings that are complete."""
    check_memory(series.images.shape, knowing(config, series.pixel_size_nm))
    _check_processes(series, config)
    if config.thickness != "auto" and series.pixel_size_nm is None:
        raise InputError(f"{series.name}: a thickness in nm needs the pixel size: give --pixel-size-nm")
    if series.valid is not None:
        series = replace(series, images=fill(series.images, series.valid))
    device = pick_device(config.device)
    if device.type == "cuda":
        observer.say(kernels.told(device))
    if config.ignored:
        observer.say(f"method {config.method} makes no use of {', '.join(config.ignored)}")
    mode = _mode(series, config, observer)
    if config.method in CLASSICAL:
        solved = _classical(series, config, mode, device, observer)
    else:
        solved = _neural(neural.Job(series, config, mode, device, observer, began), resume)
    used, seconds = torch.get_num_threads(), time.perf_counter() - began
    if config.max_time is not None and seconds > EXCEEDED * config.max_time:
        observer.say(
            f"the limit of {config.max_time:g} s was exceeded, {seconds:.0f} s: what comes before the fit is not cut"
        )
    resolved = config.model_copy(update={"mode": mode, "device": device.type, "threads": used})
    metrics = {
        "method": config.method,
        "mode": mode,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {used} thread{'s' * (used > 1)}",
        **solved.figures,
    }
    volume = Volume(solved.volume, series.pixel_size_nm)
    return Reconstruction(volume, solved.rendered, metrics, resolved, solved.state, solved.interrupted)


def _readable(series: TiltSeries | str | Path, settings: Mapping[str, Any]) -> TiltSeries | Path:
    """Return the series or its path; refuse what is neither, and settings that a series in memory has no use for."""
    if isinstance(series, str | Path):
        return Path(series)
    if not isinstance(series, TiltSeries):
        raise InputError(
            f"expected a tilt series or the path of one, got {type(series).__name__}: "
            "read it with tiltfield.load, or make a TiltSeries of images and angles"
        )
    late = [name for name in READING if name in settings]
    if late:
        raise InputError(
            f"{', '.join(late)}: how a file is read, but {series.name} is in memory already: "
            "give it to tiltfield.load, or give the path of the series here"
        )
    return series


def _kept(
    series: TiltSeries | Path,
    config: ReconstructConfig,
    out: Path,
    observer: Observer,
    *,
    overwrite: bool,
    began: float,
) -> Reconstruction:
    """Reconstruct into a folder, as the command line does."""
    from tiltfield.run import Request, run

    if ranks.launched() > 1:
        raise InputError("several processes write a folder by the command line alone: torchrun … tiltfield reconstruct")
    settings = config.model_dump(exclude_unset=True)
    if isinstance(series, TiltSeries):
        series = replace(series, numbers=None)  # in the folder's file, which is read as it is, they count from 1
        settings = {name: value for name, value in settings.items() if name not in READING}
    result = run(Request(out, series, settings, overwrite=overwrite, began=began), observer)
    if result is None:
        raise RuntimeError(f"the run in {out} had finished already")
    return result


def _check_processes(series: TiltSeries, config: ReconstructConfig) -> None:
    """Refuse what several processes cannot share."""
    n = ranks.launched()
    if n == 1:
        return
    if config.method != "neural":
        raise InputError(f"method {config.method} runs in one process, got {n}: start it without torchrun")
    if 2 * n > series.images.shape[1]:
        raise InputError(f"every process takes two rows of the images at least, got {n} for {series.images.shape[1]}")


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
        name: "auto" (a GPU if there is one, for each process that shares the work), "cpu" or "cuda".

    Raises:
        InputError: if "cuda" is asked for and there is none, or fewer than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda was asked for, but torch sees no CUDA GPU: use --device cpu, or install torch with CUDA"
        )
    if name == "cuda" and not ranks.have_gpus():
        raise InputError(
            f"--device cuda: torchrun started {ranks.on_this_machine()} processes on a machine of "
            f"{torch.cuda.device_count()} GPUs, and each takes one: give --nproc-per-node so many, or --device cpu"
        )
    if name == "cpu" or not ranks.have_gpus():
        return torch.device("cpu")
    return torch.device("cuda", ranks.local()) if ranks.launched() > 1 else torch.device("cuda")


def peak_memory() -> int:
    """Return the most memory the process has held, bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _mode(series: TiltSeries, config: ReconstructConfig, observer: Observer) -> ContrastMode:
    if config.mode == "auto":
        mode, reason = decide_mode(series)
        observer.say(f"contrast {reason}")
        return mode
    with suppress(InputError):  # the images need not tell
        mode, reason = decide_mode(series)
        if mode != config.mode:
            observer.say(f"warning contrast: {config.mode} was asked for, but the images look like {reason}")
    return config.mode


@dataclass(frozen=True, eq=False)
class _Solved:
    """What a method found: see :class:`tiltfield.result.Reconstruction`."""

    volume: np.ndarray
    rendered: np.ndarray
    figures: dict[str, Any]
    state: dict[str, Any] | None = None
    interrupted: bool = False


def _neural(job: neural.Job, resume: Mapping[str, Any] | None) -> _Solved:
    series, config, figures = job.series, job.config, dict[str, Any]()
    if config.method in DENOISED:
        seen = denoise(series, config.denoiser, seed=config.seed, device=job.device, observer=job.observer)
        job = replace(job, series=seen)
        figures["denoiser"] = config.denoiser
    solution = neural.solve(job, resume)
    if solution.outcome is not Outcome.FINISHED:
        job.observer.say(solution.outcome.value)
    rendered = neural.rendered_of(solution)
    figures |= solution_figures(series, solution, rendered, noisy=config.method not in DENOISED)
    return _Solved(
        neural.volume_of(solution),
        rendered,
        figures | neural.metrics_of(solution),
        neural.checkpoint_of(solution.plan, solution.state, solution.prepared),
        solution.outcome is Outcome.INTERRUPTED,
    )


def _classical(
    series: TiltSeries, config: ReconstructConfig, mode: ContrastMode, device: torch.device, observer: Observer
) -> _Solved:
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
    figures = {
        "rmse": float(np.sqrt(np.mean((series.images - rendered) ** 2))),
        "tilts": tilt_figures(series, rendered),
        "gain": levels.gain,
        "offset": levels.offset,
        "thickness_pixels": n_z,
    }
    return _Solved(volume, rendered, figures)
