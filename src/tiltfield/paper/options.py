"""What a comparison is asked for, the images it makes, and the keys by which results are found again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from tiltfield.config import PUBLISHED, Implicit, ReconstructConfig, SimulateConfig
from tiltfield.errors import InputError
from tiltfield.paper import RESULTS
from tiltfield.paper.rows import BLUR_PIXELS, NOISE_NAME, Images, Row, Settings
from tiltfield.paper.store import Key
from tiltfield.reconstruct import pick_device

TILTS = "-50:49:1.5"
SIZE, SEEDS, BUDGET = 96, 3, 480.0
QUICK_SIZE, QUICK_SEEDS, QUICK_BUDGET = 32, 1, 8.0
NETWORKS: tuple[str, ...] = get_args(Implicit)  # multiply in bfloat16: as good and twice as fast (docs/log.md)
OUR_SHARE = 0.1  # of the paper's models' time


@dataclass(frozen=True)
class Options:
    """The set-up that all rows share.

    Attributes:
        size: edge of the cells, voxels.
        seeds: cells, one a seed.
        budget: seconds for a fit of one of the paper's models, None for no limit; tiltfield gets a tenth of it.
        steps: of a fit of one of the paper's models, None to scale the paper's number.
        device: cpu or cuda.
    """

    size: int = SIZE
    seeds: int = SEEDS
    budget: float | None = BUDGET
    steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"expected at least one seed, got {self.seeds}")
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"expected a budget of more than 0 seconds, got {self.budget:g}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"expected at least one step, got {self.steps}")
        cell(self, 0)  # whether there are cells of this size

    def limit(self, method: str) -> float | None:
        """Return the seconds a fit may take, None for no limit.

        Args:
            method: as in the settings.
        """
        if self.budget is None or method not in (*PUBLISHED, "neural"):
            return None
        return self.budget if method in PUBLISHED else OUR_SHARE * self.budget

    def plain(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def settled(
    size: int | None, seeds: int | None, budget: float | None, steps: int | None, device: str, *, quick: bool
) -> Options:
    """Return the options with what was not given filled in.

    Steps that are given stand for a limit on time, unless one is given too.

    Args:
        size: edge of the cells, voxels.
        seeds: how many.
        budget: seconds.
        steps: of the paper's models.
        device: auto, cpu or cuda.
        quick: fill in for minutes instead of a night.

    Raises:
        InputError: for numbers out of range, or a device that is not there.
    """
    by_size, by_seeds, by_budget = (QUICK_SIZE, QUICK_SEEDS, QUICK_BUDGET) if quick else (SIZE, SEEDS, BUDGET)
    if budget is None and steps is None:
        budget = by_budget
    return Options(
        by_size if size is None else size, by_seeds if seeds is None else seeds, budget, steps, pick_device(device).type
    )


@cache
def noise_file() -> Path:
    """Return the file of the images' noise: the paper's flow, fitted to real repeated STEM frames."""
    return Path(str(files("tiltfield.paper").joinpath(NOISE_NAME)))


def cell(options: Options, seed: int, images: Images = "noisy") -> SimulateConfig:
    """Return the settings of a cell and its images.

    Args:
        options: the set-up.
        seed: of the cell.
        images: blurred or not.

    Raises:
        InputError: for a size that no cell has.
    """
    values: dict[str, Any] = {"size": options.size, "cell": "paper", "tilts": TILTS, "clip": True, "seed": seed}
    if images.endswith("blurred"):
        values |= {"defocus": "linear", "defocus_pixels": BLUR_PIXELS}
    return SimulateConfig.parse({**values, "noise": str(noise_file())}, "settings")


def fit_settings(settings: Settings, options: Options, seed: int) -> dict[str, Any]:
    """Return all settings of a fit, ready for :class:`tiltfield.config.ReconstructConfig`.

    Args:
        settings: a row's.
        options: the set-up.
        seed: of the fit.
    """
    method = settings.get("method", "neural")
    full = {**settings, "device": options.device, "seed": seed}
    if settings.get("noise") == NOISE_NAME:
        full["noise"] = str(noise_file())
    if method != "neural":
        full["mode"] = "bf"  # the methods of others know the contrast; ours has to tell it
    if method in NETWORKS:
        full["reduced"] = True
    if method in PUBLISHED and options.steps is not None:
        full["steps"] = options.steps
    limit = options.limit(method)
    return full if limit is None else {**full, "max_time": limit}


def key_of(row: Row, settings: Settings, options: Options, seed: int) -> Key:
    """Return what determines a fit, whichever study it is for.

    Settings that equal their default are left out, and files stand for what they hold.

    Args:
        row: says which images.
        settings: one of its variants.
        options: the set-up.
        seed: of cell and fit.
    """
    config = ReconstructConfig.parse(fit_settings(settings, options, seed), "settings")
    changed = config.model_dump(mode="json", exclude_defaults=True)
    if settings.get("noise") == NOISE_NAME:
        changed["noise"] = _digest(noise_file())
    return {
        "results": RESULTS,
        "cell": cell_key(cell(options, seed, row.images)),
        "images": row.images.partition(",")[0],
        "settings": changed,
    }


def cell_key(made: SimulateConfig) -> Key:
    """Return what determines a cell and its images.

    Args:
        made: their settings.
    """
    return {**made.model_dump(mode="json", exclude_unset=True), "noise": _digest(Path(made.noise))}


@cache
def _digest(path: Path) -> str:
    """Return a digest of a noise model, whatever its file tells about where it comes from."""
    model = {name: value for name, value in json.loads(path.read_text()).items() if name != "about"}
    return hashlib.blake2b(json.dumps(model, sort_keys=True).encode(), digest_size=8).hexdigest()
