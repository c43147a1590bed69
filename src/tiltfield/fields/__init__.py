"""Fields: what holds the density. A field is added by one file here and one line in `FIELDS`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tiltfield.errors import InputError, nearest
from tiltfield.fields.base import Box, Field
from tiltfield.fields.hashgrid import HashGrid
from tiltfield.fields.mlp import MLP
from tiltfield.fields.voxels import Voxels


def _voxels(box: Box, *, scale: float, mean: float, features: int | None, generator: torch.Generator) -> Voxels:
    return Voxels(box, scale=scale, mean=mean)  # constant, of one size: nothing to draw or to choose


def _mlp(box: Box, *, scale: float, mean: float, features: int | None, generator: torch.Generator) -> MLP:
    # A sigmoid has a ceiling: leave room for what is much denser than is typical.
    return MLP(box, width=features or WIDTH, scale=HEADROOM * scale, mean=mean / HEADROOM, generator=generator)


def _hashgrid(box: Box, *, scale: float, mean: float, features: int | None, generator: torch.Generator) -> HashGrid:
    return HashGrid(box, n_features=features or FEATURES, scale=scale, mean=mean, generator=generator)


HEADROOM = 6.0  # largest density of the MLP over the typical one
WIDTH, FEATURES = 256, 4  # of the MLP's layers, of a node and level of the grid

FIELDS: dict[str, Callable[..., Field]] = {"hashgrid": _hashgrid, "mlp": _mlp, "voxels": _voxels}
"""Name, as in the settings, to constructor with the arguments of :func:`make_field`."""


def make_field(
    name: str, box: Box, *, scale: float, mean: float, features: int | None = None, generator: torch.Generator
) -> Field:
    """Make a field by name.

    Args:
        name: one of `FIELDS`.
        box: region described.
        scale: unit of the density, > 0.
        mean: initial density, in units of `scale`, > 0.
        features: width of a network, features a node of a grid; the field's own number if None. Voxels have none.
        generator: source of the initial values.

    Returns:
        the field, on the CPU.

    Raises:
        InputError: for an unknown name, or a mean that the field cannot take.
    """
    if name not in FIELDS:
        raise InputError(f"unknown field '{name}', expected one of {', '.join(FIELDS)}{nearest(name, FIELDS)}")
    return FIELDS[name](box, scale=scale, mean=mean, features=features, generator=generator)
