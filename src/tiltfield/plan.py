"""What is found out about a series before the fit: levels, extents, noise.

The images alone give levels, noise and how the detector wrote them down; a coarse fit of binned images gives gain and
offset, and where the specimen is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from tiltfield.config import ReconstructConfig
from tiltfield.contrast import Contrast, ContrastMode, estimate_levels
from tiltfield.fields import make_field
from tiltfield.fields.base import Box
from tiltfield.fit import FitState, Problem, Schedule, evaluate_field, fit, start
from tiltfield.geometry import SliceGeometry, full_padding, side_padding
from tiltfield.noise import make_noise
from tiltfield.noise.base import Recording
from tiltfield.noise.estimate import estimate_noise, find_recording
from tiltfield.observe import Observer
from tiltfield.projector import SliceProjector
from tiltfield.series import TiltSeries

HELD_OUT = 0.05  # share of the pixels kept out of the loss
COARSE_COLUMNS = 32  # the coarse fit bins images to about this many columns
COARSE_STRENGTH = 0.036  # weight of the total variation in the coarse fit, times the noise deviation
GENTLE = 60.0  # degrees: the box is made wide enough for rays of tilts up to this
EDGE = 0.15  # density of the coarse fit where the specimen ends along z, from the emptiest layer (0) to the densest (1)
BLURRED = 1.2  # true extent over that at which the coarse profile, narrowed by the missing wedge, falls to EDGE
MARGIN = 0.02  # share of the field of view added above and below, and believed empty
BESIDE = 0.25  # share of the specimen's mean density above which the specimen goes on beyond the field of view
MEAN = 0.5  # initial density, in units of the typical one
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

    @property
    def recording(self) -> Recording:
        """Return how the detector wrote the intensities down."""
        return Recording(self.saturated_low, self.saturated_high, self.quantum)

    @property
    def deviation(self) -> float:
        """Return the typical standard deviation of the noise."""
        return math.sqrt(self.floor + self.slope * max(0.0, 0.5 - self.dark))


def first_plan(series: TiltSeries, mode: ContrastMode) -> Plan:
    """Return what the images alone tell: levels, noise, recording; the specimen is taken as thick as the field is wide.

    Args:
        series: the tilt series.
        mode: contrast.
    """
    levels = estimate_levels(series, mode)
    span = levels.high - levels.low
    line = estimate_noise((series.images - levels.low) / span)
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
    observed = torch.from_numpy((series.images - plan.low) / (plan.high - plan.low)).permute(1, 0, 2).contiguous()
    generator = torch.Generator().manual_seed(seed)
    held = torch.rand(observed.shape, generator=generator) < HELD_OUT
    valid = torch.ones_like(held)
    if series.valid is not None:
        valid = torch.from_numpy(np.ascontiguousarray(series.valid.transpose(1, 0, 2)))
    n_x = n_u + 2 * plan.padding
    if mask_sides:
        valid = valid & torch.from_numpy(inside_box(series.angles_deg, n_u, n_x, plan.n_z))
    geometry = SliceGeometry.from_degrees(plan.n_z, n_x, n_u, series.angles_deg)
    projector = SliceProjector(geometry, device=device)
    return Problem(
        observed.to(device),
        (valid & ~held).to(device),
        (valid & held).to(device),
        projector,
        Box(plan.n_z, n_y, n_x),
        plan.scale,
        plan.margin,
    )


def inside_box(angles_deg: np.ndarray, n_u: int, n_x: int, n_z: int) -> np.ndarray:
    """Return which rays stay between the sides of the box all the way through the slab.

    A ray at column u is at x = (u - z sin θ)/cos θ; within |z| ≤ n_z/2 it stays inside |x| ≤ n_x/2 if
    |u| ≤ (n_x/2) cos θ - (n_z/2) |sin θ|.

    Args:
        angles_deg: tilts, degrees, shape (tilt,).
        n_u: detector columns.
        n_x: width of the box, pixels.
        n_z: thickness of the slab, pixels.

    Returns:
        bool, shape (tilt, n_u).
    """
    theta = np.deg2rad(angles_deg)[:, None]
    u = np.arange(n_u)[None] - (n_u - 1) / 2
    return np.abs(u) <= n_x / 2 * np.cos(theta) - n_z / 2 * np.abs(np.sin(theta)) + 0.5


def coarse_fit(series: TiltSeries, plan: Plan, config: ReconstructConfig, device: torch.device) -> Plan:
    """Return the plan with gain, offset, extents and typical density from a fit of binned images.

    The box is as thick as the field of view is wide and wide enough for every ray, so that the fit itself shows where
    the specimen is: in z, and beyond the field of view.

    Args:
        series: the tilt series.
        plan: what the images alone told.
        config: thickness, if the user gave it.
        device: where to compute.
    """
    n_full = series.images.shape[2]
    bin_by = min(max(1, math.ceil(n_full / COARSE_COLUMNS)), series.images.shape[1])
    gentle = _gentle(series.angles_deg)
    binned = series.select(gentle)
    binned = binned.binned(bin_by)
    n_u = binned.images.shape[2]
    room = full_padding(n_u, n_u, binned.angles_deg)
    small = replace(
        plan,
        n_z=n_u,
        padding=room,
        scale=plan.scale * bin_by,
        slope=plan.slope / bin_by**2,
        floor=plan.floor / bin_by**2,
        saturated_low=None,
        saturated_high=None,
        quantum=None,
    )
    problem = make_problem(binned, small, config.seed, device, mask_sides=False)
    schedule = Schedule(
        passes=150,
        block=min(8, problem.box.n_y),
        tv_weight=COARSE_STRENGTH / small.deviation,
        learning_rate=0.3,
        contrast_rate=1e-3,
    )
    state = new_state(problem, small, schedule, "voxels", "gaussian", config.seed, device)
    fit(problem, state, schedule)
    density = evaluate_field(problem, state.field, problem.box.n_y).cpu().numpy()
    profile = density[:, :, room : room + n_u].mean(axis=(0, 2))
    if config.thickness == "auto":
        seen, margin = _thickness(profile, bin_by), round(MARGIN * n_full)
        n_z = min(_whole(seen + 2 * margin, n_full), n_full)
        margin = max(0, min(margin, round((n_z - seen) / 2)))
    else:
        margin = 0
        n_z = _whole(float(config.thickness) / (series.pixel_size_nm or 1.0), n_full)
    full = _goes_on(density, room, n_z / bin_by, binned.angles_deg)
    padding = 0
    if full:  # rays that see little of the field of view still tell what lies beside it, which the others cross
        padding = max(side_padding(n_z, series.angles_deg), full_padding(n_full, n_z, series.angles_deg[gentle]))
    return replace(
        plan,
        offset=state.contrast.offset.item(),
        gain=state.contrast.gain.item(),
        scale=max(float(profile.max()) / bin_by, 1e-6),
        n_z=n_z,
        margin=margin,
        padding=padding,
    )


def _gentle(angles_deg: np.ndarray) -> np.ndarray:
    """Return the indices of the tilts up to GENTLE, of all if they are few; room for steeper rays would be dear."""
    gentle = np.flatnonzero(np.abs(angles_deg) <= GENTLE)
    return gentle if len(gentle) >= 5 else np.arange(len(angles_deg))


def _thickness(profile: np.ndarray, bin_by: int) -> float:
    """Return the extent along z that holds the specimen, pixels, from the mean density of the coarse layers.

    The ends of the box gather what no layer explains, so only the layers that join on to the densest one count.
    """
    height = (profile - profile.min()) / max(float(np.ptp(profile)), 1e-12)
    peak, middle = int(height.argmax()), (len(height) - 1) / 2
    above = _fall(height[peak:]) + peak - middle
    below = _fall(height[peak::-1]) - peak + middle
    return 2 * BLURRED * max(above, below) * bin_by


def _fall(height: np.ndarray) -> float:
    """Return where a profile first falls below EDGE, in fractions of an index; its length less a half if nowhere."""
    low = np.flatnonzero(height < EDGE)
    if not low.size or low[0] == 0:  # a profile without a peak ends nowhere
        return len(height) - 0.5
    after = int(low[0])
    return after - (EDGE - height[after]) / (height[after - 1] - height[after])


def _whole(thickness: float, n_u: int) -> int:
    """Return a thickness in whole pixels, even or odd as the field of view is wide, so that both share a centre."""
    odd = n_u % 2
    return max(4 + odd, 2 * round((thickness - odd) / 2) + odd)


def _goes_on(density: np.ndarray, room: int, thickness: float, angles_deg: np.ndarray) -> bool:
    """Return whether a coarse density (y, z, x) with `room` columns on each side goes on beyond the field of view."""
    z = np.abs(np.arange(density.shape[1]) - (density.shape[1] - 1) / 2)
    slab = density[:, z <= thickness / 2]
    near = min(room, max(1, side_padding(thickness, angles_deg)))
    end = density.shape[2] - room
    beside = np.concatenate([slab[:, :, room - near : room], slab[:, :, end : end + near]], axis=2)
    return bool(beside.mean() > BESIDE * slab[:, :, room:end].mean())


def new_state(
    problem: Problem, plan: Plan, schedule: Schedule, field: str, noise: str, seed: int, device: torch.device
) -> FitState:
    """Return a fresh fit.

    Args:
        problem: gives the box and the typical density.
        plan: levels and noise to start from.
        schedule: gives the learning rates.
        field: name of the field.
        noise: name of the noise model.
        seed: of the initial values and of all randomness of the fit.
        device: where to compute.
    """
    generator = torch.Generator().manual_seed(seed)
    density = make_field(field, problem.box, scale=problem.scale, mean=MEAN, generator=generator).to(device)
    model = make_noise(
        noise,
        slope=plan.slope,
        floor=max(plan.floor, FIRST_MISFIT**2),
        dark=plan.dark,
        low=-0.1,
        high=1.1,
        recording=plan.recording,
        generator=generator,
        misfit=MISFIT,
    ).to(device)
    return start(density, model, Contrast(plan.mode, plan.offset, plan.gain).to(device), schedule, generator)


def find_plan(
    series: TiltSeries, config: ReconstructConfig, mode: ContrastMode, device: torch.device, observer: Observer
) -> Plan:
    """Return what is found out before the fit, but for the weight, and say it."""
    plan = coarse_fit(series, first_plan(series, mode), config, device)
    pixel = series.pixel_size_nm
    size = f"{plan.n_z} pixels" + (f" ({plan.n_z * pixel:.4g} nm)" if pixel else "")
    how = "found from a coarse fit" if config.thickness == "auto" else "as given"
    observer.say(f"thickness {size}, {how}")
    if plan.padding:
        observer.say(f"the specimen goes on beyond the field of view: fitting {plan.padding} more columns on each side")
    ends = [
        name for name, value in (("dark", plan.saturated_low), ("bright", plan.saturated_high)) if value is not None
    ]
    if ends:
        observer.say(f"{' and '.join(ends)} pixels saturate: they count by their probability mass")
    return plan
