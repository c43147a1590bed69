"""The specimen that the settings ask for: its cell, how far it goes on, and the files it was made from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.simulate.cell import Cell
from tiltfield.simulate.population import SIMPLE, Recipe, make_cell, paper_recipe
from tiltfield.simulate.structure import read_virion
from tiltfield.simulate.virion import built_in_virion

WIDEST_TILT = 80.0
BUILT_IN_RADIUS = 0.035  # of the built-in virion in the paper's cell, cell edges
WIDEST_VIRION = 0.2  # diameter of a measured virion, cell edges


@dataclass(frozen=True, eq=False)
class Specimen:
    """A cell ready to be imaged.

    Attributes:
        cell: the cell.
        pad: voxels by which it goes on beyond the box along x on each side.
        facts: about the virion, for the record; JSON-ready.
    """

    cell: Cell
    pad: int
    facts: Mapping[str, object] = field(default_factory=dict)


def make_specimen(config: SimulateConfig) -> Specimen:
    """Draw the cell of these settings.

    Args:
        config: the settings.

    Raises:
        InputError: for a wide slab with a tilt at which no extent would do, or a virion that cannot be read or does
            not fit.
    """
    recipe, facts = _recipe(config)
    cell = make_cell(config.seed, recipe=recipe)
    if not config.wide:
        return Specimen(cell, 0, facts)
    steepest = max(abs(a) for a in config.angles_deg)
    if steepest > WIDEST_TILT:
        raise InputError(
            f"a wide slab needs tilts within ±{WIDEST_TILT:g}°, got {steepest:g}°: "
            f"narrow the tilts '{config.tilts}' or leave out wide"
        )
    theta = math.radians(steepest)
    half_width = (0.5 + cell.slab.reach * math.sin(theta)) / math.cos(theta)
    pad = math.ceil(config.size * (half_width - 0.5)) + 1
    return Specimen(make_cell(config.seed, half_width, recipe), pad, facts)


def _recipe(config: SimulateConfig) -> tuple[Recipe, dict[str, object]]:
    if config.cell == "simple":
        if config.virion is not None:
            raise InputError(f"the simple cell has virions of its own, not {config.virion}: give --cell paper with it")
        return SIMPLE, {}
    if config.virion is None:
        return paper_recipe(built_in_virion(), BUILT_IN_RADIUS), {"virion": {"name": "built in"}}
    virion = read_virion(config.virion, config.resolution_a)
    radius_nm = float(virion.radius_nm or 0)
    radius = radius_nm / (config.size * config.pixel_size_nm)
    if 2 * radius > WIDEST_VIRION:
        fitting = math.ceil(200 * radius_nm / (WIDEST_VIRION * config.size)) / 100
        raise InputError(
            f"{config.virion}: a virion of {2 * radius_nm:.1f} nm takes {2 * radius:.2f} of the edge of a cell of "
            f"{config.size} voxels of {config.pixel_size_nm:g} nm, expected at most {WIDEST_VIRION:g}: "
            f"give --pixel-size-nm {fitting:g} or more, or a larger --size"
        )
    return paper_recipe(virion, radius), {"virion": described_file(config.virion) | {"radius_nm": radius_nm}}


def described_file(path: Path) -> dict[str, object]:
    """Return name and SHA-256 of a file.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
