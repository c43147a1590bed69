"""How long this machine takes for a step of a reconstruction, measured on made-up images of the size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from tiltfield import published, ranks
from tiltfield.config import CLASSICAL, NOISE_NAMES, PUBLISHED, ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.fit import LEARN_EVERY, step
from tiltfield.forecast import Shape, box_of
from tiltfield.geometry import SliceGeometry
from tiltfield.neural import blur_of
from tiltfield.plan import Kind, Plan, make_problem, new_state
from tiltfield.projector import SliceProjector
from tiltfield.rays import ray_step
from tiltfield.schedule import schedule_for
from tiltfield.series import TiltSeries

LEAST_SECONDS, LONGEST_SECONDS = 0.5, 3.0  # for which steps are timed; in whole turns of a flow's learning
DISTURBED = 3.0  # times the median of the turns
BLOCKS = 32  # of slices, that a fit is timed on: steps touch but their own planes of a field
SLICES = 4  # that a classical method is timed on
ROWS = 8  # of the images that a published network is timed on
STEEPEST = 60.0


def step_seconds(shape: Shape, config: ReconstructConfig, device: torch.device) -> float | None:
    """Return the seconds of a step of :class:`tiltfield.forecast.Work`, None where they are not measured.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        device: where to compute.
    """
    if config.method in CLASSICAL:
        return _seconds_of(_slices(shape, config, device), device) / SLICES
    if config.method not in PUBLISHED:
        return _seconds_of(_fit(shape, config, device), device)
    if published.RECIPES[config.method].explicit:  # its step grows with the whole volume
        return None
    try:
        return _seconds_of(_rays(shape, config, device), device)
    except InputError:  # a noise model that does not go with made-up images
        return None


def _seconds_of(take: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call after the first, of the first if that took long.

    The mean, but of turns into which another program got for a while: those are left out.
    """
    if device.type == "cuda":
        take()  # compiles
    began = time.perf_counter()
    take()
    first = ranks.clock(time.perf_counter() - began)
    if first > LONGEST_SECONDS:
        return first
    began, passed = time.perf_counter(), [0.0]
    while passed[-1] < LONGEST_SECONDS and (passed[-1] < LEAST_SECONDS or (len(passed) - 1) % LEARN_EVERY):
        take()
        passed.append(ranks.clock(time.perf_counter() - began))
    turns = np.diff(passed[::LEARN_EVERY]) / LEARN_EVERY
    if len(turns) < 3:
        return passed[-1] / (len(passed) - 1)
    return float(turns[turns <= DISTURBED * np.median(turns)].mean())


def _series(n_tilts: int, n_y: int, n_x: int) -> TiltSeries:
    images = np.random.default_rng(0).random((n_tilts, n_y, n_x), np.float32)
    return TiltSeries(images, np.linspace(-STEEPEST, STEEPEST, n_tilts))


def _fit(shape: Shape, config: ReconstructConfig, device: torch.device) -> Callable[[], object]:
    """Return what takes a step of our fit; all rows of the images are one and the same, which takes no memory."""
    n_tilts, _, n_x = shape
    whole = box_of(shape, config)
    plan = _plan(whole.n_z)
    schedule = schedule_for(whole, config, plan.tv_weight, on_gpu=device.type == "cuda")
    box = replace(whole, n_y=min(whole.n_y, BLOCKS * schedule.block))
    row = _series(n_tilts, 1, n_x)
    problem = make_problem(row, plan, config.seed, device, mask_sides=False)
    rows = {name: getattr(problem, name).expand(box.n_y, -1, -1) for name in ("observed", "used", "held")}
    problem = replace(problem, **rows, box=box, blur=blur_of(config, row, device))
    noise = config.noise if config.noise in NOISE_NAMES and config.noise != "auto" else "flow"
    kind = Kind(config.field, noise, config.features, config.flow_layers)
    state = new_state(problem, plan, schedule, kind, config.seed, device)
    return lambda: step(problem, state, schedule, 0.5)


def _plan(n_z: int) -> Plan:
    """Return a plan for images between 0 and 1."""
    return Plan(
        mode="bf",
        low=0.0,
        high=1.0,
        offset=0.0,
        gain=1.0,
        n_z=n_z,
        margin=0,
        padding=0,
        scale=1 / n_z,
        slope=0.01,
        floor=0.01,
        dark=0.0,
        saturated_low=None,
        saturated_high=None,
        quantum=None,
        tv_weight=1.0,
    )


def _rays(shape: Shape, config: ReconstructConfig, device: torch.device) -> Callable[[], object]:
    """Return what takes a step of a published network."""
    n_tilts, n_y, n_x = shape
    series = _series(n_tilts, min(ROWS, n_y), n_x)
    _, problem, schedule, state = published.prepare(series, config, "bf", device)
    return lambda: ray_step(problem, state, schedule, 0.5)


def _slices(shape: Shape, config: ReconstructConfig, device: torch.device) -> Callable[[], object]:
    """Return what projects some slices, and back."""
    n_tilts, _, n_x = shape
    n_z = box_of(shape, config).n_z
    geometry = SliceGeometry.from_degrees(n_z, n_x, n_x, np.linspace(-STEEPEST, STEEPEST, n_tilts))
    projector = SliceProjector(geometry, device=device)
    density = torch.ones(SLICES, n_z, n_x, device=device)

    def both() -> None:
        projector.adjoint(projector(density)).sum().item()

    return both
