"""How long and how fast a fit proceeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

from tiltfield import ranks
from tiltfield.config import ReconstructConfig
from tiltfield.fields.base import Box

PASSES = {"draft": 15, "standard": 45, "fine": 150}
SCANNED_ROWS = 8  # slices a step at least where noise is correlated from row to row
MOST_STEPS = 64  # a pass on a GPU, of up to sixteen slices: what its launches cost does not depend on their size
LEAST_STEPS = 10  # a pass counts as at least so many steps, so that small volumes are not cut short
FEWEST_STEPS = 300  # of a fit: fewer show little of any volume
RATES = {"hashgrid": 5e-3, "mlp": 5e-4, "voxels": 0.1}
POINTS = {"hashgrid": 50_000, "mlp": 12_000, "voxels": 50_000}  # field points a step, about


class AnySchedule(Protocol):
    """What the training loop asks of a schedule."""

    @property
    def passes(self) -> int:
        """Return after how many passes the fit ends; after each, the held-out pixels judge."""

    @property
    def seconds(self) -> float | None:
        """Return by when the fit ends, its schedule compressed, if there is a limit."""

    @property
    def patience(self) -> float:
        """Return the share of the passes without a new best after which the fit ends."""

    @property
    def tolerance(self) -> float:
        """Return by how many standard errors a later pass may be worse than the best and replace it."""

    def steps(self, n_rows: int) -> int:
        """Return the number of steps for a problem of `n_rows` rows."""

    def rate(self, done: float, step: int) -> float:
        """Return the factor on the learning rates.

        Args:
            done: share of the fit that is behind, 0 to 1.
            step: steps taken.
        """

    def smaller(self) -> Self | None:
        """Return the schedule with steps that need about half the memory, None if there is none."""


@dataclass(frozen=True)
class Schedule:
    """How a fit to slices proceeds.

    Attributes:
        passes: visits to every slice.
        block: adjacent slices a step, ≥ 2.
        tv_weight: w, weight of the total variation.
        learning_rate: of the field (Adam), decaying as a cosine to 2 %.
        noise_rate: of the noise model.
        contrast_rate: of gain and offset.
        seconds: if set, the schedule is compressed to end by then.
        patience: share of the passes with a held-out likelihood below the best after which to stop.
        tolerance: standard errors within which a later pass counts as no worse than the best.
        least: slices below which a step makes no sense.
    """

    passes: int
    block: int
    tv_weight: float
    learning_rate: float
    noise_rate: float = 2e-3
    contrast_rate: float = 3e-4
    seconds: float | None = None
    patience: float = 0.3
    tolerance: float = 1.0
    least: int = 2

    def steps(self, n_rows: int) -> int:
        """Return the number of steps for a problem of `n_rows` rows."""
        return self.passes * math.ceil(n_rows / self.block)

    def rate(self, done: float, step: int) -> float:
        """Return the factor on the learning rates: 20 steps of warm-up, then a cosine from 1 to 0.02."""
        return min(1.0, (step + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def smaller(self) -> Schedule | None:
        """Return the schedule with blocks of half as many slices, so twice as many steps."""
        return replace(self, block=self.block // 2) if self.block >= 2 * self.least else None


def block_size(box: Box, field: str, least: int = 2, *, on_gpu: bool = False) -> int:
    """Return how many slices a step of a field takes, up to sixteen, so that a step stays short.

    Args:
        box: gives the size of a slice.
        field: name of the field.
        least: slices of a process's share at least.
        on_gpu: whether it computes there.
    """
    wanted = max(POINTS[field] / (box.n_z * box.n_x), box.n_y / MOST_STEPS if on_gpu else 0.0)
    return min(box.n_y, max(least * ranks.count(), min(16, round(wanted))))


def schedule_for(
    box: Box, config: ReconstructConfig, tv_weight: float, scan: int | None = None, *, on_gpu: bool = False
) -> Schedule:
    """Return the schedule of a preset.

    Args:
        box: gives the block size.
        config: preset and field.
        tv_weight: weight of the total variation.
        scan: dimension along which noise is correlated; along the rows (0), a block must hold enough of a line.
        on_gpu: whether it computes there.
    """
    least = SCANNED_ROWS if scan == 0 else 2
    block = block_size(box, config.field, least, on_gpu=on_gpu)
    steps = math.ceil(box.n_y / block)
    return Schedule(
        passes=math.ceil(max(PASSES[config.preset] * max(1.0, LEAST_STEPS / steps), FEWEST_STEPS / steps)),
        block=block,
        tv_weight=tv_weight,
        learning_rate=RATES[config.field],
        least=least,
    )
