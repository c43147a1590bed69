"""The slice projector on the CPU, without a matrix: the tables that ``native_projector.c`` works by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tiltfield.geometry import SliceGeometry
from tiltfield.kernels import native, strips

TOGETHER = 8  # slices that share weights: their copies stay in the cache
_MARGIN = 32  # as there
_THINNEST = 1e-12


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernels take slices.

    Args:
        device: where slices and sinograms live.
        dtype: their type.
    """
    return native.usable(torch.empty(0, dtype=dtype, device=device))


class Strips:
    """The map and its adjoint for one geometry."""

    def __init__(self, geometry: SliceGeometry) -> None:
        """Prepare the tables of the tilts.

        Args:
            geometry: sizes and tilts.
        """
        self.geometry = geometry
        along = [_strip(*line, angle) for line, angle in zip(strips.lines(geometry), geometry.angles, strict=True)]
        self._turned = {bool(turned) for turned, *_ in along}
        self._lines, self._pixels = _rows(along), _rows(strips.pixels(geometry))
        self._shapes = torch.tensor([_shape(a) for a in geometry.angles], dtype=torch.float32)

    def project(self, slices: Tensor) -> Tensor:
        """Return A ρ.

        Args:
            slices: density per pixel length, shape (batch, n_z, n_x), float32.

        Returns:
            line integrals, shape (batch, n_tilts, n_u).
        """
        g, source = self.geometry, slices.contiguous()
        sinograms = slices.new_empty(len(slices), g.n_tilts, g.n_u)
        for part, out in zip(source.split(TOGETHER), sinograms.split(TOGETHER), strict=True):
            upright, turned = (self._image(part, way) for way in (False, True))
            native.call(
                "projector_forward", upright, turned, self._lines, self._shapes, out,
                len(part), g.n_z, g.n_x, g.n_tilts, g.n_u,
            )  # fmt: skip
        return sinograms

    def back_project(self, sinograms: Tensor) -> Tensor:
        """Return Aᵀ p.

        Args:
            sinograms: shape (batch, n_tilts, n_u), float32.

        Returns:
            shape (batch, n_z, n_x).
        """
        g, source = self.geometry, sinograms.contiguous()
        slices = sinograms.new_empty(len(sinograms), g.n_z, g.n_x)
        for part, out in zip(source.split(TOGETHER), slices.split(TOGETHER), strict=True):
            planes = part.new_empty(_room(g.n_tilts, len(part), g.n_u))
            native.call("projector_planes", part, planes, len(part), g.n_tilts, g.n_u, g.n_u, 1, 0)
            native.call(
                "projector_backward", planes, self._pixels, self._shapes, out,
                len(part), g.n_z, g.n_x, g.n_tilts, g.n_u,
            )  # fmt: skip
        return slices

    def _image(self, slices: Tensor, turned: bool) -> Tensor:
        """Return slices and their mirror images line by line, nothing if no tilt takes them so."""
        if turned not in self._turned:
            return slices.new_empty(0)
        g = self.geometry
        n_lines, along, by_line, step = (g.n_x, g.n_z, 1, g.n_x) if turned else (g.n_z, g.n_x, g.n_x, 1)
        planes = slices.new_empty(_room((n_lines + 1) // 2, len(slices), along))
        native.call("projector_planes", slices, planes, len(slices), n_lines, along, by_line, step, 1)
        return planes


def _room(n_lines: int, batch: int, along: int) -> int:
    """Return the numbers that lines and their mirror images have, side by side up to a multiple of a vector or not."""
    planes = math.ceil(2 * batch / native.LANES) * native.LANES
    return _MARGIN + planes * (_MARGIN + n_lines * (along + _MARGIN))


def _strip(turned: bool, tilt: int, start: int, step: int, slope: int, angle: float) -> tuple[int, ...]:
    """Return a line of the table of strips, with where a strip begins instead of its middle."""
    narrow, wide = strips.extents(angle)
    return turned, start + strips.fixed(0.5 - (1 + narrow) / wide / 2), step, slope


def _rows(table: Sequence[tuple[int, ...]]) -> Tensor:
    return native.whole([number for row in table for number in row])


def _shape(angle: float) -> tuple[float, ...]:
    """Return a = n / w, 1 / √(2a), 1 / w and 1 + a - 2 / w of a footprint."""
    narrow, wide = strips.extents(angle)
    slant = max(narrow / wide, _THINNEST)
    return slant, 1 / math.sqrt(2 * slant), 1 / wide, 1 + slant - 2 / wide
