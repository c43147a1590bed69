"""A finished run read back, and fits of parts of its series by its own settings."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiltfield import neural
from tiltfield.config import ReconstructConfig
from tiltfield.contrast import Contrast
from tiltfield.errors import InputError
from tiltfield.fit import Outcome
from tiltfield.forecast import check_memory, knowing
from tiltfield.judge import uniform_within
from tiltfield.noise import Start, make_noise
from tiltfield.noise.base import NoiseModel
from tiltfield.noise.gaussian import L1, L2
from tiltfield.observe import Observer
from tiltfield.parse import parse_defocus
from tiltfield.plan import MISFIT, Plan, first_plan, make_problem
from tiltfield.problem import Problem
from tiltfield.reconstruct import keep_freed_memory, pick_device, reconstruct
from tiltfield.rendering import HELD_ROWS, render
from tiltfield.runfolder import RunFolder, fingerprint
from tiltfield.screening import fill
from tiltfield.series import TiltSeries, Volume

_BLOCK = 16  # slices rendered at a time


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run and what it was made from.

    Attributes:
        folder: where it lies.
        series: the data, bad pixels filled.
        config: its settings, resolved.
        volume: what it made.
        digest: of the volume's file, by which figures of another run are told apart.
        fit: the run's own fit.
        solution: the same with everything, of method neural.
    """

    folder: Path
    series: TiltSeries
    config: ReconstructConfig
    volume: Volume
    digest: str
    fit: Fit
    solution: neural.Solution | None


@dataclass(frozen=True, eq=False)
class Shown:
    """Images beside what a fit says of them, shape each (tilt, row, col).

    Attributes:
        observed: intensities in the fit's units.
        clean: what the fit says they are without noise.
        white: whitened residuals, standard normal if density and noise model are right; of saturated pixels and coarse
            grey values a draw from within their bounds.
        log_prob: natural log-likelihood of each pixel.
        valid: bool, the pixels that count.

    Dunn & Smyth, J. Comput. Graph. Stat. 5 (1996) 236 (randomised quantile residuals).
    """

    observed: np.ndarray
    clean: np.ndarray
    white: np.ndarray
    log_prob: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, eq=False)
class Fit:
    """A density that can be shown at any tilts, and the noise it was fitted under; in the fit's units.

    Attributes:
        plan: levels and extents.
        config: tells of the defocus.
        steepest: tilt of the series that was fitted, radians, to which the defocus refers.
        density: 1/pixel, shape (row, n_z, n_x), with padding.
        contrast: gain and offset.
        noise: the noise model; where the method has none, variance against intensity as the images show it.
    """

    plan: Plan
    config: ReconstructConfig
    steepest: float
    density: Tensor
    contrast: Contrast
    noise: NoiseModel

    @property
    def volume(self) -> np.ndarray:
        """Return the density over the field of view, float32, shape (z, y, x)."""
        return neural.in_view(self.density, self.plan.padding)

    def problem(self, series: TiltSeries) -> Problem:
        """Return any tilts of the same field of view by slices; every valid pixel is used or held."""
        device = self.density.device
        plan = replace(self.plan, scan=None)
        problem = make_problem(series, plan, self.config.seed, device, mask_sides=plan.padding > 0)
        config = _same_blur(self.config, self.steepest, _steepest(series))
        return replace(problem, blur=neural.blur_of(config, series, device))

    def show(self, series: TiltSeries) -> Shown:
        """Hold the density against images.

        Args:
            series: tilts of the same field of view, seen by the fit or not.
        """
        problem = self.problem(series)
        clean = render(problem, self.density, self.contrast, _BLOCK)
        n = len(clean)
        step = n if self.noise.axis == 0 else HELD_ROWS  # whole lines, where noise goes from pixel to pixel
        generator = torch.Generator().manual_seed(0)
        parts = [self._shown(problem.rows(i, i + step), clean[i : i + step], generator) for i in range(0, n, step)]
        return Shown(*(np.concatenate(images, axis=1) for images in zip(*parts, strict=True)))

    def _shown(self, part: Problem, clean: Tensor, generator: torch.Generator) -> list[np.ndarray]:
        """Return what is shown of a block of rows, shape each (tilt, row, col)."""
        clean, valid = part.here(clean), part.used | part.held
        labels = valid.to(torch.int8)
        with torch.no_grad():
            white = _within(*self.noise.bounds(part.observed, clean, labels), generator)
            log_prob = self.noise.log_prob(part.observed, clean, labels)
        images = (part.observed, clean, white, log_prob, valid)
        return [image.permute(1, 0, 2).cpu().numpy() for image in images]


def _steepest(series: TiltSeries) -> float:
    """Return the steepest tilt, radians."""
    return math.radians(float(np.abs(series.angles_deg).max()))


def _same_blur(config: ReconstructConfig, steepest: float, of_part: float) -> ReconstructConfig:
    """Return settings by which a part of a series has the blur that it has in the whole.

    The size in the settings is that at the steepest tilt; it grows as the tangent (:mod:`tiltfield.defocus`).

    Args:
        config: of the whole.
        steepest: tilt of the whole, radians.
        of_part: likewise.
    """
    blur = parse_defocus(config.defocus)
    if blur is None or steepest == of_part or 0 in (steepest, of_part):
        return config
    law, most = blur
    return config.model_copy(update={"defocus": f"{law}:{most * math.tan(of_part) / math.tan(steepest)!r}"})


def _within(lower: Tensor, upper: Tensor, generator: torch.Generator) -> Tensor:
    """Return z where both ends meet, else a normal draw from between them."""
    drawn = torch.special.ndtri(uniform_within(lower, upper, generator).clamp(1e-12, 1 - 1e-12))
    return torch.where(lower == upper, lower, drawn.to(lower.dtype))


def reopen(folder: Path, series: Path | None = None, threads: int | None = None) -> Run:
    """Read back a finished run with its series.

    Args:
        folder: of `tiltfield reconstruct`.
        series: where the tilt series lies now; where the run says, if None.
        threads: CPU threads; those of the run if None.

    Raises:
        InputError: if there is no finished run, or the series is not the one it was made from.
    """
    from tiltfield.io import load, read_volume

    kept = RunFolder(folder, resume=True)
    if not kept.resuming:
        raise InputError(f"{folder} holds no run of tiltfield reconstruct: expected config.yaml and volume.mrc in it")
    if not kept.finished:
        raise InputError(
            f"the run in {folder} is not finished: go on with tiltfield reconstruct --out {folder} --resume"
        )
    named, config = kept.recorded()
    path = series or named
    if path is None:
        raise InputError(f"{folder / 'config.yaml'} names no series: say where it lies with --series FILE")
    config = config.model_copy(update={} if threads is None else {"threads": threads})
    keep_freed_memory()
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = load(path, **config.reading)
    checkpoint = kept.load_checkpoint()
    if checkpoint is not None and checkpoint["run"]["series"] != fingerprint(data, config):
        raise InputError(
            f"the images, masks, angles or noise model of {path} are not those that the run in {folder} was made from"
        )
    check_memory(data.images.shape, knowing(config, data.pixel_size_nm))
    if data.valid is not None:
        data = replace(data, images=fill(data.images, data.valid))
    volume = read_volume(folder / "volume.mrc")
    solution = None
    if config.method == "neural" and checkpoint is not None:
        solution = _restored(folder, _job(data, config, Observer(), None), checkpoint["state"])
    fit = _fit_of(solution, data, config) if solution else _fit_of_volume(volume.data, kept.metrics, data, config)
    return Run(folder, data, config, volume, kept.volume_digest(), fit, solution)


def _restored(folder: Path, job: neural.Job, state: dict[str, Any]) -> neural.Solution:
    try:
        return neural.restored(job, state)
    except (RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):  # such as a lack of memory
            raise
        raise InputError(
            f"the checkpoint in {folder} does not fit this version of tiltfield: reconstruct anew, with tiltfield "
            f"reconstruct --config {folder / 'config.yaml'} --out ANOTHER ({str(error).splitlines()[0]})"
        ) from None


def fit_part(run: Run, indices: np.ndarray, seed: int, observer: Observer) -> Fit:
    """Fit some tilts of a run's series by its settings, knowing nothing of the others but the box.

    Gain, offset, noise and the regulariser's weight are found anew; a number or file that the user gave stays.

    Args:
        run: gives series, settings and box.
        indices: of the tilts.
        seed: of the fit.
        observer: told of its progress.

    Raises:
        KeyboardInterrupt: if it was stopped.
    """
    series = run.series.select(indices)
    config = _same_blur(run.config.model_copy(update={"seed": seed}), _steepest(run.series), _steepest(series))
    if run.solution is not None:
        solution = neural.solve(_job(series, config, observer, run.solution.plan), None)
        if solution.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        return _fit_of(solution, series, config)
    result = reconstruct(series, config, observer=observer)
    if result.interrupted:
        raise KeyboardInterrupt
    return _fit_of_volume(result.volume.data, result.metrics, series, config)


def fit_share(run: Run, indices: np.ndarray, seed: int, share: float) -> np.ndarray:
    """Return the volume of some tilts, fitted from scratch by the run's plan: its box, levels, noise and weight.

    Args:
        run: of method neural.
        indices: of the tilts.
        seed: of the fit.
        share: of the passes of its preset.

    Returns:
        density, shape (z, y, x).

    Raises:
        InputError: if the run is of another method.
        KeyboardInterrupt: if it was stopped.
    """
    if run.solution is None:
        raise InputError(f"the uncertainty is that of method neural, {run.folder} was made by {run.config.method}")
    series = run.series.select(indices)
    config = _same_blur(run.config.model_copy(update={"seed": seed}), _steepest(run.series), _steepest(series))
    job = _job(series, config, Observer(), None)
    solution = neural.fit_again(job, run.solution.plan, share)
    if solution.outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    return neural.volume_of(solution)


def _job(series: TiltSeries, config: ReconstructConfig, observer: Observer, box: Plan | None) -> neural.Job:
    if config.mode == "auto":
        raise InputError("config.yaml does not say the contrast: run tiltfield reconstruct anew")
    return neural.Job(series, config, config.mode, pick_device(config.device), observer, time.perf_counter(), box)


def _fit_of(solution: neural.Solution, series: TiltSeries, config: ReconstructConfig) -> Fit:
    noise = solution.state.noise.requires_grad_(False)
    if isinstance(noise, L1 | L2):
        noise = _line(solution.plan)
    return Fit(solution.plan, config, _steepest(series), solution.density, solution.state.contrast, noise)


def _fit_of_volume(volume: np.ndarray, metrics: Any, series: TiltSeries, config: ReconstructConfig) -> Fit:
    """Return what a method made that leaves a volume, gain and offset."""
    mode = config.mode if config.mode != "auto" else metrics["mode"]
    plan = replace(first_plan(series, mode), n_z=len(volume))
    span = plan.high - plan.low
    contrast = Contrast(mode, (metrics["offset"] - plan.low) / span, metrics["gain"] / span)
    density = torch.from_numpy(np.ascontiguousarray(volume.transpose(1, 0, 2)))
    return Fit(plan, config, _steepest(series), density, contrast.requires_grad_(False), _line(plan))


def _line(plan: Plan) -> NoiseModel:
    """Return the noise as differences of neighbouring pixels show it."""
    begin = Start(plan.slope, plan.floor, plan.dark, -0.1, 1.1, torch.Generator(), plan.recording, MISFIT)
    return make_noise("poisson-gaussian", begin).requires_grad_(False)
