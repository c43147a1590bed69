"""Multi-resolution grid of features with a small MLP (Müller et al., Instant Neural Graphics Primitives, 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from tiltfield import kernels
from tiltfield.fields.base import ALL, Box, Field
from tiltfield.kernels.density import density
from tiltfield.kernels.interpolation import Between, Places, between, interpolate
from tiltfield.kernels.perceptron import perceptron
from tiltfield.kernels.window import window

if TYPE_CHECKING:  # Triton, which it imports, is not everywhere
    from tiltfield.kernels.gpu_encoding import Axis, Lattice

GROWTH = 1 / 8  # of the density beyond the linear
TABLES_FASTER = 2.0  # rate of the tables over that of the network: a plane moves only while a step touches it
KEPT_ROWS = 1024  # blocks of rows whose places are kept
COARSEST, FINEST, LEVELS, LOG2_TABLE = 32.0, 1.0, 6, 25  # see HashGrid
_PRIME = 2654435761  # for z, beside 1 for x; Müller et al., eq. 4


class GridLevel(nn.Module):
    """One resolution: trilinear interpolation of features at the nodes of a regular grid.

    Every plane of constant y has a table of its own, so that a block of slices needs a window of the tables. Nodes have
    an entry each, or share those of their plane through a hash where a table would grow too large.

    Attributes:
        nodes: nodes along (z, y, x).
        cell: node spacing, pixels.
        dense: whether each node has an entry of its own.
        reach: along (z, y, x), distance from the centre beyond which features stay as they are, pixels: nodes farther
            out would serve the outermost layer of pixels alone, and follow its noise.
    """

    def __init__(self, box: Box, cell: float, n_features: int, table_size: int, generator: torch.Generator) -> None:
        """Lay the nodes over the box.

        Args:
            box: region to cover.
            cell: node spacing, pixels, > 0.
            n_features: features a node.
            table_size: entries beyond which nodes share them.
            generator: source of the initial values, uniform within ±1e-2.
        """
        super().__init__()
        self.cell = cell
        self.nodes = _nodes(box, cell)
        self.reach = tuple(max(0.0, n / 2 - 1) for n in box.shape)
        n_entries = _entries(self.nodes, table_size)
        self.dense = n_entries == self.nodes[0] * self.nodes[2]
        shape = (self.nodes[1], n_features, n_entries)
        self.table = nn.Parameter(torch.rand(shape, generator=generator).mul_(2e-2).sub_(1e-2))

    def entry(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the entry, in the table of their plane, of nodes, any broadcastable integer shapes."""
        if self.dense:
            return z * self.nodes[2] + x
        return ((z * _PRIME) ^ x) % self.table.shape[2]

    def forward(self, points: Tensor) -> Tensor:
        """Return features, shape (..., features), at points (z, y, x) of shape (..., 3)."""
        position = [_position(points[..., i], self.reach[i], self.cell, self.nodes[i] - 1) for i in range(3)]
        low = [p.detach().floor().clamp_max(n - 2).long() for p, n in zip(position, self.nodes, strict=True)]
        total = torch.zeros((), dtype=points.dtype, device=points.device)
        for corner in range(8):
            step = [(corner >> axis) & 1 for axis in range(3)]
            weight = torch.ones((), dtype=points.dtype, device=points.device)
            for p, i, s in zip(position, low, step, strict=True):
                weight = weight * (1 - (p - (i + s)).abs())
            node_z, node_y, node_x = (i + s for i, s in zip(low, step, strict=True))
            total = total + weight[..., None] * self.table[node_y, :, self.entry(node_z, node_x)]
        return total

    def at_nodes(self, planes: Tensor) -> Tensor:
        """Return what all nodes of some planes hold, shape (planes, features, nodes_z · nodes_x).

        Args:
            planes: of the table, shape (planes, features, entries).
        """
        if self.dense:
            return planes
        z, x = (torch.arange(self.nodes[axis], device=planes.device) for axis in (0, 2))
        return planes[:, :, self.entry(z[:, None], x).flatten()]

    def lattice(self, z: tuple[float, float, int], x: tuple[float, float, int]) -> Lattice:
        """Return where the nodes of a plane lie among the pixels of an evenly spaced grid.

        Args:
            z: first and last coordinate, centred, pixels, and their number.
            x: likewise.
        """
        from tiltfield.kernels.gpu_encoding import Lattice

        return Lattice(self._axis(0, *z), self._axis(2, *x), 0 if self.dense else _PRIME)

    def _axis(self, axis: int, first: float, last: float, pixels: int) -> Axis:
        from tiltfield.kernels.gpu_encoding import Axis

        nodes, reach = self.nodes[axis], self.reach[axis] / self.cell
        middle = (nodes - 1) / 2
        step = (last - first) / max(1, pixels - 1) if pixels > 1 else 1.0
        low, high = max(0.0, middle - reach), min(nodes - 1.0, middle + reach)
        return Axis(pixels, nodes, first / self.cell + middle, step / self.cell, low, high)


class HashGrid(Field):
    """Density p + p²/8, p = softplus(MLP(features at all resolutions)), the default field.

    The square lets few and very dense voxels get there in the steps that there are (docs/log.md).

    A regular grid of points is interpolated along y, then within the slices (:mod:`tiltfield.kernels.interpolation`,
    :mod:`tiltfield.kernels.gpu_encoding`) instead of point by point: the same numbers, many times faster.
    """

    def __init__(
        self,
        box: Box,
        *,
        coarsest: float = COARSEST,
        finest: float = FINEST,
        n_levels: int = LEVELS,
        n_features: int = 4,
        width: int = 64,
        log2_table: int = LOG2_TABLE,
        scale: float = 1.0,
        mean: float = 0.5,
        generator: torch.Generator,
    ) -> None:
        """Make the field.

        Args:
            box: region described.
            coarsest: node spacing of the first level, pixels.
            finest: node spacing of the last level, pixels.
            n_levels: number of resolutions, spaced geometrically.
            n_features: features a node and level.
            width: hidden units of the MLP.
            log2_table: binary logarithm of the most entries of a level.
            scale: typical density, > 0: the unit of the output.
            mean: initial density, in units of `scale`.
            generator: source of the initial values.
        """
        super().__init__()
        self.box, self.scale = box, scale
        self._kept: tuple[Tensor, Tensor, tuple[Between, Between]] | None = None
        self._rows: dict[tuple, tuple[list[int], Between]] = {}
        cells = _cells(coarsest, finest, n_levels)
        self.levels = nn.ModuleList(GridLevel(box, cell, n_features, 2**log2_table, generator) for cell in cells)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for n_in, n_out in ((n_levels * n_features, width), (width, 1)):
            bound = math.sqrt(6 / n_in) if n_out > 1 else math.sqrt(1 / n_in)
            self.weights.append(nn.Parameter((torch.rand(n_out, n_in, generator=generator) * 2 - 1) * bound))
            self.biases.append(nn.Parameter(torch.zeros(n_out, 1)))
        with torch.no_grad():
            self.biases[-1].fill_(math.log(math.expm1((math.sqrt(1 + 4 * GROWTH * mean) - 1) / (2 * GROWTH))))

    def decode(self, features: Tensor) -> Tensor:
        """Return densities, shape (..., n), of features of shape (..., channels, n)."""
        return density(perceptron(features, list(self.weights), list(self.biases)).squeeze(-2), self.scale, GROWTH)

    def forward(self, points: Tensor) -> Tensor:
        """Return the density at points (z, y, x), shape (..., 3) to (...)."""
        features = torch.cat([level(points.reshape(-1, 3)) for level in self.levels], dim=-1)
        return self.decode(features.T).reshape(points.shape[:-1])

    def slices(self, z: Tensor, y: Tensor, x: Tensor, only: slice = ALL) -> Tensor:
        """Return the density on a grid, shape (n_y, n_z, n_x), without gradient in the coordinates."""
        levels = [cast(GridLevel, level) for level in self.levels]
        if self._by_kernels:
            features = _encoded(levels, z, y, x, only).flatten(2)
        else:
            features = interpolate(*_around(levels, self._among(y, only), self._across(z, x))).flatten(1)
        return self.decode(features).reshape(-1, len(z), len(x))

    @property
    def axes_device(self) -> torch.device:
        """The CPU for the kernels of the GPU, which are told where nodes are: asking the GPU would wait for it."""
        return torch.device("cpu") if self._by_kernels else super().axes_device

    @property
    def _by_kernels(self) -> bool:
        table = cast(GridLevel, self.levels[0]).table
        return kernels.usable(table.device, table.dtype)

    def _across(self, z: Tensor, x: Tensor) -> tuple[Between, Between]:
        """Return where the pixels of a slice lie, kept for the next block of slices on the same grid."""
        if self._kept is None or self._kept[0] is not z or self._kept[1] is not x:
            self._kept = z, x, _across([cast(GridLevel, level) for level in self.levels], z, x)
        return self._kept[2]

    def _among(self, y: Tensor, only: slice) -> tuple[list[int], Between]:
        """Return where rows lie, kept for the next time that they are asked for."""
        rows = (y.dtype, y.device, only.start, only.stop, *y.tolist())
        if rows not in self._rows:
            if len(self._rows) == KEPT_ROWS:
                self._rows.clear()
            self._rows[rows] = _among([cast(GridLevel, level) for level in self.levels], y, only)
        return self._rows[rows]

    def groups(self, learning_rate: float) -> list[dict]:
        """Return the optimiser's parameter groups: the tables, of which a step touches a window, and the network."""
        tables = [cast(GridLevel, level).table for level in self.levels]
        network = [*self.weights, *self.biases]
        touched = {"params": tables, "lr": TABLES_FASTER * learning_rate, "windowed": True}
        return [touched, {"params": network, "lr": learning_rate}]


def table_numbers(box: Box, n_features: int) -> int:
    """Return how many numbers the tables of a field of the usual levels hold.

    Args:
        box: region described.
        n_features: features a node and level.
    """
    nodes = [_nodes(box, cell) for cell in _cells(COARSEST, FINEST, LEVELS)]
    return sum(n[1] * n_features * _entries(n, 2**LOG2_TABLE) for n in nodes)


def _cells(coarsest: float, finest: float, n_levels: int) -> list[float]:
    """Return the node spacing of every level."""
    ratio = (finest / coarsest) ** (1 / max(1, n_levels - 1))
    return [coarsest * ratio**level for level in range(n_levels)]


def _nodes(box: Box, cell: float) -> tuple[int, int, int]:
    """Return how many nodes of a level lie along (z, y, x)."""
    n_z, n_y, n_x = (max(2, math.ceil(n / cell) + 1) for n in box.shape)
    return n_z, n_y, n_x


def _entries(nodes: tuple[int, int, int], table_size: int) -> int:
    """Return how many entries the table of a plane has, in a level of at most so many."""
    return min(nodes[0] * nodes[2], max(1, table_size // nodes[1]))


def _position(coordinate: Tensor, reach: float, cell: Tensor | float, last: Tensor | int) -> Tensor:
    """Return centred coordinates, pixels, in units of the node spacing from the first of nodes 0 to `last`."""
    return (coordinate.clamp(-reach, reach) / cell + last / 2).clamp(min=0).clamp(max=last)


def _between(levels: list[GridLevel], coordinate: Tensor, axis: int) -> Between:
    """Return where pixels along an axis lie among the nodes of all levels."""
    nodes = [level.nodes[axis] for level in levels]
    cell, last = coordinate.new_tensor([[level.cell for level in levels], [n - 1 for n in nodes]])[..., None]
    return between(_position(coordinate, levels[0].reach[axis], cell, last), nodes)


def _among(levels: list[GridLevel], y: Tensor, only: slice) -> tuple[list[int], Between]:
    """Return the first plane around rows in every level, and where some lie among the planes from there on."""
    rows = _between(levels, y, 1)
    first = rows.low.amin(1, keepdim=True)
    count = (rows.low.amax(1, keepdim=True) + 2 - first).flatten().tolist()
    low, after = (part[:, only].contiguous() for part in (rows.low - first, rows.after))
    return first.flatten().tolist(), Between(low, after, count)


def _planes(levels: list[GridLevel], first: list[int], count: Sequence[int]) -> list[Tensor]:
    """Return some planes of every level, each (planes, features, entries)."""
    return [window(level.table, *of) for level, *of in zip(levels, first, count, strict=True)]


def _across(levels: list[GridLevel], z: Tensor, x: Tensor) -> tuple[Between, Between]:
    """Return where the pixels of a slice lie among the nodes of all levels."""
    return _between(levels, z, 0), _between(levels, x, 2)


def _around(
    levels: list[GridLevel], rows: tuple[list[int], Between], across: tuple[Between, Between]
) -> tuple[list[Tensor], Places]:
    """Return the nodes around some rows, each (planes, features, nodes_z · nodes_x), and where pixels lie."""
    first, among = rows
    planes = _planes(levels, first, among.nodes)
    return [level.at_nodes(p) for level, p in zip(levels, planes, strict=True)], Places(among, *across)


def _encoded(levels: list[GridLevel], z: Tensor, y: Tensor, x: Tensor, only: slice = ALL) -> Tensor:
    """Return the features of all levels on an evenly spaced grid, by the GPU's kernels."""
    from tiltfield.kernels.gpu_encoding import encode

    ends, rows = torch.cat([z[:1], z[-1:], x[:1], x[-1:], y]).cpu().split([4, len(y)])
    top, bottom, left, right = ends.tolist()
    lattices = [level.lattice((top, bottom, len(z)), (left, right, len(x))) for level in levels]
    first, among = _among(levels, rows, only)  # places on the CPU: they ask nothing of the GPU
    planes = _planes(levels, first, among.nodes)
    weights = _sent([among.matrix(i) for i in range(len(planes))], planes[0].device)
    return encode([torch.tensordot(w, p, 1) for w, p in zip(weights, planes, strict=True)], lattices)


def _sent(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return what is on the CPU on another device, sent at once and without waiting for a GPU to be there."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
