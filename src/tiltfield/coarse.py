"""Where the specimen is, and gain and offset, from a coarse fit of binned images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from tiltfield import ranks
from tiltfield.config import NOISE_NAMES, ReconstructConfig
from tiltfield.contrast import ContrastMode
from tiltfield.fit import fit_through
from tiltfield.geometry import full_padding, side_padding
from tiltfield.observe import Observer
from tiltfield.plan import Kind, Plan, first_plan, fitted_noise, make_problem, new_state
from tiltfield.rendering import evaluate_field
from tiltfield.schedule import Schedule
from tiltfield.series import TiltSeries

COARSE_COLUMNS = 32  # the coarse fit bins images to about this many columns
COARSE_SHARE = 0.3  # of a limited run's time, that the coarse fit takes at most
MISFIT = 0.015  # of the range, at least: coarse voxels follow no images more closely, however little noise there is
COARSE_STRENGTH = 0.036  # weight of the total variation in the coarse fit, times that deviation
GENTLE = 60.0  # degrees: the box is made wide enough for rays of tilts up to this
EDGE = 0.15  # density of the coarse fit where the specimen ends along z, from the emptiest layer (0) to the densest (1)
BLURRED = 1.2  # true extent over that at which the coarse profile, narrowed by the missing wedge, falls to EDGE
MARGIN = 0.02  # share of the field of view added above and below, and believed empty
BESIDE = 0.25  # share of the specimen's mean density above which the specimen goes on beyond the field of view


def coarse_fit(series: TiltSeries, plan: Plan, config: ReconstructConfig, device: torch.device) -> Plan:
    """Return the plan with gain, offset, extents and typical density from a fit of binned images.

    The box is as thick as the field of view is wide and wide enough for every ray, so that the fit itself shows where
    the specimen is: in z, and beyond the field of view.

    Args:
        series: the tilt series.
        plan: what the images alone told.
        config: thickness, if the user gave it, and limit on time.
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
        passes=75,
        block=min(max(8, 2 * ranks.count()), problem.box.n_y),
        tv_weight=COARSE_STRENGTH / max(small.deviation, MISFIT),
        learning_rate=0.3,
        contrast_rate=1e-3,
        seconds=None if config.max_time is None else COARSE_SHARE * config.max_time,
    )
    state = new_state(problem, small, schedule, Kind("voxels", "gaussian"), config.seed, device)
    fit_through(problem, state, schedule)
    density = evaluate_field(problem, state.field, problem.box.n_y).cpu().numpy()
    profile = density[:, :, room : room + n_u].mean(axis=(0, 2))
    if config.thickness == "auto":
        n_z, margin = _extent(_thickness(profile, bin_by), n_full)
    else:
        n_z, margin = _whole(float(config.thickness) / (series.pixel_size_nm or 1.0), n_full), 0
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


def _extent(seen: float, n_u: int) -> tuple[int, int]:
    """Return layers of the box, and how many at each end are the margin, for a thickness that was seen."""
    margin = round(MARGIN * n_u)
    n_z = min(_whole(seen + 2 * margin, n_u), n_u)
    return n_z, max(0, min(margin, round((n_z - seen) / 2)))


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
    return (abs(above - below) + BLURRED * (above + below)) * bin_by  # from the middle of the box to the farther end


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


def find_plan(
    series: TiltSeries, config: ReconstructConfig, mode: ContrastMode, device: torch.device, observer: Observer
) -> Plan:
    """Return what is found out before the fit, but for the weight, and say it."""
    first = first_plan(series, mode)
    if config.noise not in NOISE_NAMES:  # a file that does not fit is refused before anything is fitted
        fitted_noise(first, config.noise, -1)
    plan = coarse_fit(series, first, config, device)
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
    if plan.quantum is not None:
        step = plan.quantum * (plan.high - plan.low)
        observer.say(f"grey values come in steps of {step:.3g}, not small against the noise: they count by their bins")
    return plan
