"""What is found out about a series before the fit: levels, extents, noise.

The images alone give levels, noise and how the detector wrote them down; :mod:`tiltfield.coarse` refines gain and
offset, and finds where the specimen is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tiltfield.contrast import Contrast, ContrastMode, estimate_levels
from tiltfield.errors import InputError
from tiltfield.fields import make_field
from tiltfield.fields.base import Box
from tiltfield.fit import FitState, start
from tiltfield.geometry import SliceGeometry
from tiltfield.noise import NOISES, Recording, Start, load_noise, make_noise
from tiltfield.noise.base import NoiseModel
from tiltfield.noise.estimate import SLACK, estimate_noise, find_recording, scaled
from tiltfield.noise.poisson import Poisson
from tiltfield.noise.scan import Scan
from tiltfield.problem import GUARD, Problem, held_out_pixels, inside_box, placed
from tiltfield.projector import SliceProjector
from tiltfield.schedule import Schedule
from tiltfield.series import TiltSeries

MEAN = 0.5  # initial density, in units of the typical one
UNCORRELATED = 0.1  # correlation below which pixels tell little of each other's noise
LONGEST_GUARD = 16  # pixels
SHARED = 0.5  # least share of the images' range that a fitted noise model must know
MISFIT = 0.01  # of the range of intensities: alignment, interpolation and a common gain explain images no better
FIRST_MISFIT = 0.05  # likewise, of a fit that has only begun; the noise model learns how fast it falls


@dataclass(frozen=True)
class Plan:
    """What was found out about a series before the fit; plain values, kept in checkpoints.

    Attributes:
        mode: contrast.
        low: intensity that becomes 0 in the fit's units.
        high: intensity that becomes 1.
        offset: o, in the fit's units.
        gain: g, in the fit's units.
        n_z: extent of the specimen along z, pixels.
        margin: layers at each end of z that are believed empty.
        padding: columns added on each side.
        scale: typical density, 1/pixel.
        slope: variance of the noise per intensity.
        floor: variance of the noise at the dark level.
        dark: intensity without electrons.
        saturated_low: whether dark pixels saturate.
        saturated_high: whether bright pixels saturate.
        quantum: spacing of grey values, or None where small against the noise.
        tv_weight: weight of the total variation; 0 until chosen.
        noise: name of the noise model or path of a fitted one; empty until chosen.
        scan: dimension of (row, tilt, col) along which noise is correlated, or None.
        correlation: of the noise along it, lag 1 on.
    """

    mode: ContrastMode
    low: float
    high: float
    offset: float
    gain: float
    n_z: int
    margin: int
    padding: int
    scale: float
    slope: float
    floor: float
    dark: float
    saturated_low: float | None
    saturated_high: float | None
    quantum: float | None
    tv_weight: float = 0.0
    noise: str = ""
    scan: int | None = None
    correlation: tuple[float, ...] = ()

    @property
    def recording(self) -> Recording:
        """Return how the detector wrote the intensities down."""
        return Recording(self.saturated_low, self.saturated_high, self.quantum, SLACK)

    @property
    def guard(self) -> int:
        """Return how far apart pixels along the scan must be to tell little of each other's noise, less one."""
        known, lag = [abs(rho) for rho in self.correlation], 1
        ratio = known[-1] / known[-2] if len(known) > 1 and 0 < known[-1] < known[-2] else 0.0
        while lag < LONGEST_GUARD and (known[lag - 1] if lag <= len(known) else 0.0) >= UNCORRELATED:
            lag += 1
            if lag > len(known):  # beyond the lags that were measured correlation falls as it did over the last two
                known.append(known[-1] * ratio)
        return max(GUARD, lag)

    @property
    def deviation(self) -> float:
        """Return the typical standard deviation of the noise."""
        return math.sqrt(self.floor + self.slope * max(0.0, 0.5 - self.dark))


@dataclass(frozen=True)
class Kind:
    """Which field and which noise model a fit has.

    Attributes:
        field: name of the field.
        noise: name of the noise model, or path of a fitted one.
        features: size of the field; its own if None.
        flow_layers: of a flow; its own number if None.
    """

    field: str
    noise: str
    features: int | None = None
    flow_layers: int | None = None


def first_plan(series: TiltSeries, mode: ContrastMode) -> Plan:
    """Return what the images alone tell: levels, noise, recording; the specimen is taken as thick as the field is wide.

    Args:
        series: the tilt series.
        mode: contrast.
    """
    levels = estimate_levels(series, mode)
    span = levels.high - levels.low
    line = estimate_noise(scaled(series.images_by_tilt, levels.low, levels.high), series.valid_by_tilt)
    recording = find_recording(series, line, levels.low, levels.high)
    n_z = series.images.shape[2]
    return Plan(
        mode=mode,
        low=levels.low,
        high=levels.high,
        offset=(levels.offset - levels.low) / span,
        gain=levels.gain / span,
        n_z=n_z,
        margin=0,
        padding=0,
        scale=2 * levels.depth / n_z,
        slope=line.slope,
        floor=line.floor,
        dark=line.dark,
        saturated_low=recording.low,
        saturated_high=recording.high,
        quantum=recording.quantum,
    )


def make_problem(series: TiltSeries, plan: Plan, seed: int, device: torch.device, *, mask_sides: bool) -> Problem:
    """Return the series as slices, with its held-out pixels and its projector.

    Args:
        series: the tilt series.
        plan: extents and levels.
        seed: of the held-out pixels.
        device: where to compute.
        mask_sides: leave out rays that leave the box through its sides.
    """
    n_y, n_u = series.images.shape[1:]
    observed = torch.from_numpy(scaled(series.images, plan.low, plan.high)).permute(1, 0, 2).contiguous()
    held, near = held_out_pixels(tuple(observed.shape), plan.scan, seed, plan.guard)
    valid = torch.ones_like(held)
    if series.valid is not None:
        valid = torch.from_numpy(np.ascontiguousarray(series.valid.transpose(1, 0, 2)))
    n_x = n_u + 2 * plan.padding
    if mask_sides:
        valid = valid & torch.from_numpy(inside_box(series.angles_deg, n_u, n_x, plan.n_z))
    geometry = SliceGeometry.from_degrees(plan.n_z, n_x, n_u, series.angles_deg)
    projector = SliceProjector(geometry, device=device)
    observed, used, held = placed((observed, valid & ~held & ~near, valid & held), device)
    box = Box(plan.n_z, n_y, n_x)
    return Problem(observed, used, held, projector, box, plan.scale, plan.margin, device=device)


def new_state(
    problem: Problem, plan: Plan, schedule: Schedule, kind: Kind, seed: int, device: torch.device
) -> FitState:
    """Return a fresh fit.

    Args:
        problem: gives the box and the typical density.
        plan: levels and noise to start from.
        schedule: gives the learning rates.
        kind: of field and noise model.
        seed: of the initial values and of all randomness of the fit.
        device: where to compute.
    """
    generator = torch.Generator().manual_seed(seed)
    box, scale = problem.box, problem.scale
    density = make_field(kind.field, box, scale=scale, mean=MEAN, features=kind.features, generator=generator).to(
        device
    )
    model = new_noise(plan, kind.noise, generator, kind.flow_layers).to(device)
    return start(density, model, Contrast(plan.mode, plan.offset, plan.gain).to(device), schedule, generator)


def new_noise(plan: Plan, noise: str, generator: torch.Generator, n_layers: int | None = None) -> NoiseModel:
    """Return a noise model in the fit's units: fresh by name, or fitted and frozen from a file.

    Args:
        plan: levels, noise and correlation to start from.
        noise: one of `NOISES`, or the path of a fitted model.
        generator: source of the initial values.
        n_layers: of a flow; its own number if None.
    """
    axis = -1 if plan.scan is None else plan.scan
    if noise not in NOISES:
        return fitted_noise(plan, noise, axis)
    begin = Start(
        slope=plan.slope,
        floor=max(plan.floor, FIRST_MISFIT**2),
        dark=plan.dark,
        low=-0.1,
        high=1.1,
        generator=generator,
        recording=plan.recording,
        misfit=MISFIT,
        axis=axis,
        n_layers=n_layers,
    )
    model = make_noise(noise, begin)
    if isinstance(model, Scan) and plan.correlation:
        model.correlate_(torch.tensor(plan.correlation))
    return model


def fitted_noise(plan: Plan, path: str, axis: int, seen: tuple[float, float] | None = None) -> NoiseModel:
    """Return a fitted noise model in the fit's units, frozen; it is told how this series was recorded.

    Args:
        plan: levels and recording.
        path: a file of `tiltfield noise fit`.
        axis: dimension of (row, tilt, col) that is the scan's.
        seen: range of the clean images, in the units of the series; that of the plan if None.

    Raises:
        InputError: if the file cannot be used, holds for other intensities than the images have, or is a Poisson model.
    """
    noise = load_noise(path)
    if isinstance(noise.model, Poisson):
        raise InputError(
            f"{path} holds a Poisson model, for which pixels below its offset cannot be, so that a fit has nothing "
            "to go by; use poisson-gaussian, flow or scan-flow"
        )
    low, high = seen or (plan.low, plan.high)
    shared = min(noise.high, high) - max(noise.low, low)
    if shared < SHARED * (high - low):
        raise InputError(
            f"{path} was fitted at intensities from {noise.low:.5g} to {noise.high:.5g}, the images have "
            f"{low:.5g} to {high:.5g}: fit it to frames recorded and scaled like the series"
        )
    span = plan.high - plan.low
    model = noise.model.rescaled(1 / span, -plan.low / span).requires_grad_(False)
    marginal = model
    if isinstance(model, Scan):
        model.axis, marginal = axis, model.marginal
    marginal.recording = plan.recording
    return model
