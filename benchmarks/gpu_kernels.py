"""The kernels on a GPU, each by itself: how long it takes, and how long it would if nothing but the card limited it.

A kernel cannot be faster than its bytes over the speed of copies (every input read once, every output written once),
nor than its operations over the rate of the units that do them. The greater of these times is its floor; both rates are
measured on the card. :func:`counts` has the numbers. The plain way is torch's, on the same card.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tiltfield.config import ReconstructConfig
from tiltfield.fields.base import Box
from tiltfield.fields.hashgrid import HashGrid
from tiltfield.geometry import SliceGeometry, centred
from tiltfield.kernels.perceptron import perceptron, perceptron_plainly
from tiltfield.parse import parse_tilts
from tiltfield.projector import SliceProjector
from tiltfield.regularise import total_variation
from tiltfield.schedule import schedule_for

TILTS = parse_tilts("-50:50:1.5")
THICK = 0.57  # of the paper's cell with its margins, over its width
PLAIN_SECONDS = 5.0  # beyond which a plain way is timed once
CHANNELS, PADDED, HIDDEN, FEATURES = 24, 32, 64, 4  # of the default field
PASSES = 45


@dataclass(frozen=True)
class Block:
    """A block of slices.

    Attributes:
        n: width and number of columns.
        slices: how many.
    """

    n: int
    slices: int

    @property
    def n_z(self) -> int:
        """Return the thickness, even or odd as the width is."""
        return max(2 + self.n % 2, 2 * round(THICK * self.n / 2) + self.n % 2)

    @property
    def box(self) -> Box:
        """Return the box of the whole cube."""
        return Box(self.n_z, self.n, self.n)

    @property
    def points(self) -> int:
        """Return the points of the field."""
        return self.slices * self.n_z * self.n


@dataclass(frozen=True)
class Count:
    """What a kernel does at least.

    Attributes:
        bytes: read and written.
        flops: of float32 outside of matrix units, of tf32, and of bfloat16.
    """

    bytes: float
    flops: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def floor(self, copy: float, rates: tuple[float, float, float]) -> float:
        """Return the least seconds, given bytes and operations a second."""
        return max(self.bytes / copy, *(f / rate for f, rate in zip(self.flops, rates, strict=True)))


def counts(block: Block) -> dict[str, Count]:
    """Return what each kernel does at least, forwards and backwards.

    *Encoding*, a point: forwards 24 features written; backwards read, and a row of sums for each row of nodes written
    and read; tables once. A feature takes 4 products of 2 weights forwards (12 operations), backwards 2 + 2.

    *Network*, a point: forwards 24 features and 1 output; backwards both again and the gradient of the features. W x,
    32 × 64 with padding, is three products of tf32, forwards and again backwards; the gradients in features and weights
    are two products of bfloat16 each.

    *Projector*: slices are read and written once to lie side by side, and read; sinograms likewise on the way back. At
    every tilt a line of the slice and a column meet in 4 pixels, 2 integrals of 11 operations each, shared by up to 4
    slices, and 2 operations a slice; on the way back a pixel meets 3 columns, 2 integrals in all.

    *Total variation*, a point: the density read, its gradient written; some 75 operations for a voxel's cost and what
    it sends to its neighbours. On the way back the gradient is multiplied by a number.
    """
    p, n, n_z, slices = block.points, block.n, block.n_z, block.slices
    together = min(4, slices)
    groups = -(-slices // together)
    tables = rows = 0.0
    for k in range(6):
        nodes_z, nodes_y, nodes_x = ((edge / 2**k) + 1 for edge in block.box.shape)
        tables += FEATURES * slices * min(nodes_z * nodes_x, 2**25 / nodes_y)
        rows += FEATURES * slices * nodes_z * n
    steep = sum(abs(tilt) > 45 for tilt in TILTS)
    met = groups * n * ((len(TILTS) - steep) * n_z + steep * n)
    wide = 2.0 * PADDED * HIDDEN * p
    return {
        "encoding": Count(4 * (CHANNELS * p + tables), (12.0 * CHANNELS * p, 0.0, 0.0)),
        "encoding back": Count(4 * (CHANNELS * p + 2 * rows + tables), (4.0 * (CHANNELS * p + rows), 0.0, 0.0)),
        "network": Count(4 * (CHANNELS + 1) * p, (3.0 * HIDDEN * p, 3 * wide, 0.0)),
        "network back": Count(4 * (2 * CHANNELS + 1) * p, (2.0 * HIDDEN * p, 3 * wide, 4 * wide)),
        "projector": Count(4 * (3 * p + slices * len(TILTS) * n), (met * 4.0 * (22 + 2 * together), 0.0, 0.0)),
        "projector back": Count(
            4 * (p + 3 * slices * len(TILTS) * n), (groups * n * n_z * len(TILTS) * (28.0 + 6 * together), 0.0, 0.0)
        ),
        "variation": Count(8 * p, (75.0 * p, 0.0, 0.0)),
        "variation back": Count(8 * p, (1.0 * p, 0.0, 0.0)),
    }


# ---- clocks --------------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], Any], least: float = 0.2, most: float = PLAIN_SECONDS) -> float:
    """Return the median seconds of a call, by events on a GPU; of a single one that takes long."""
    took = [_once(call)]  # loads, compiles
    if took[0] < most:
        took = [_once(call)]
        while sum(took) < least or len(took) < 5:
            took.append(_once(call))
    return statistics.median(took)


def _once(call: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def rates(device: torch.device) -> dict[str, float]:
    """Return bytes a second of a large copy, and operations a second of products of large matrices, by type."""
    small = device.type == "cpu"
    source = torch.rand(2**22 if small else 2**28, device=device)
    target = torch.empty_like(source)
    found = {"copy": 8 * len(source) / seconds_of(lambda: target.copy_(source))}
    n = 512 if small else 8192
    a, b = torch.rand(n, n, device=device) - 0.5, torch.rand(n, n, device=device) - 0.5
    before = torch.get_float32_matmul_precision()
    for name, precision in (("fp32", "highest"), ("tf32", "high")):
        torch.set_float32_matmul_precision(precision)
        found[name] = 2 * n**3 / seconds_of(lambda: a @ b)
    torch.set_float32_matmul_precision(before)
    a, b = a.bfloat16(), b.bfloat16()
    found["bf16"] = 2 * n**3 / seconds_of(lambda: a @ b)
    return found


# ---- kernels and their twins ---------------------------------------------------------------------------------------


@contextmanager
def plain() -> Iterator[None]:
    """Let torch do without the kernels inside."""
    with mock.patch("tiltfield.kernels.usable", return_value=False):
        yield


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a step: what it gives, and the call of its gradient.

    Attributes:
        forward: returns the output.
        gradient: of the output, as large; drawn at random.
        inputs: whose gradients are compared; those of tables wait in their windows.
    """

    forward: Callable[[], Tensor]
    gradient: Tensor
    inputs: list[Tensor]

    def back(self, output: Tensor) -> None:
        """Run the gradient back."""
        for given in self.inputs:
            given.grad = None
            getattr(given, "windows", []).clear()
        output.backward(self.gradient, retain_graph=True)

    def values(self) -> list[Tensor]:
        """Return the output and the gradients."""
        output = self.forward()
        self.back(output)
        windows = [getattr(given, "windows", None) for given in self.inputs]
        found = [w[0][1] if w else given.grad for w, given in zip(windows, self.inputs, strict=True)]
        return [output.detach(), *(f.clone() for f in found if f is not None)]


def encoding(block: Block, device: torch.device) -> Part:
    """Return the encoding of a block in the middle of the box; its features have the shape (n_y, channels, n)."""
    field = drawn_field(block, device)
    for level in field.levels:
        level.table.windows = []  # as where they are optimised
    z, y, x = (centred(edge, device=device) + 0.3 for edge in block.box.shape)
    first = (block.n - block.slices) // 2
    rows = y[first : first + block.slices]

    def forward() -> Tensor:
        taken: list[Tensor] = []
        # stands for the network: keeps the features, and returns what has the shape of a density
        decode = lambda features: (taken.append(features), features[..., 0, :])[1]  # noqa: E731
        with mock.patch.object(field, "decode", decode):
            field.slices(z, rows, x)
        features = taken[0]
        return features if features.ndim == 3 else features.unflatten(1, (block.slices, -1)).transpose(0, 1)

    given = torch.randn(block.slices, CHANNELS, block.n_z * block.n, device=device)
    return Part(forward, given, [level.table for level in field.levels])


def drawn_field(block: Block, device: torch.device) -> HashGrid:
    """Return the default field with features at random."""
    field = HashGrid(block.box, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        for level in field.levels:
            level.table.normal_()
    return field


def network(block: Block, device: torch.device) -> Part:
    """Return the network on features at random."""
    field = drawn_field(replace(block, n=8), device)
    weights, biases = list(field.weights), list(field.biases)
    x = torch.randn(block.slices, CHANNELS, block.n_z * block.n, device=device).requires_grad_()
    given = torch.randn(block.slices, 1, x.shape[2], device=device)

    def forward() -> Tensor:
        from tiltfield import kernels

        how = perceptron if kernels.usable(device, torch.float32) else perceptron_plainly
        return how(x, weights, biases)

    return Part(forward, given, [x, *weights, *biases])


def projection(block: Block, device: torch.device) -> Part:
    """Return the projection of slices at random."""
    geometry = SliceGeometry.from_degrees(block.n_z, block.n, block.n, TILTS)
    projector = SliceProjector(geometry, device=device)
    x = torch.randn(block.slices, block.n_z, block.n, device=device).requires_grad_()
    given = torch.randn(block.slices, len(TILTS), block.n, device=device)
    return Part(lambda: projector(x), given, [x])


def total(block: Block, device: torch.device) -> Part:
    """Return the total variation of densities at random, few of them high."""
    x = (6 * torch.rand(block.slices, block.n_z, block.n, device=device).pow(3)).requires_grad_()
    return Part(lambda: total_variation(x, 1.0), torch.ones((), device=device), [x])


PARTS = {"encoding": encoding, "network": network, "projector": projection, "variation": total}


def measure(block: Block, device: torch.device, found: dict[str, float]) -> dict[str, Any]:
    """Return, for every kernel, its milliseconds, the floor's and the plain way's, and how far the two differ.

    Args:
        block: the slices.
        device: the GPU.
        found: rates, as :func:`rates` has them.
    """
    speeds = found["copy"], (found["fp32"], found["tf32"], found["bf16"])
    figures: dict[str, Any] = {}
    for name, make in PARTS.items():
        part = make(block, device)
        quick, values = _timed(part), part.values()
        with plain():
            twin = part if name != "projector" else make(block, device)
            if twin is not part:
                twin.inputs[0].data.copy_(part.inputs[0])
            twin = replace(twin, gradient=part.gradient)
            slow, others = _timed(twin), twin.values()
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(values, others, strict=True)]
        for k, direction in enumerate(("", " back")):
            floor = counts(block)[name + direction].floor(*speeds)
            figures[name + direction] = {
                "ms": 1e3 * quick[k],
                "floor_ms": 1e3 * floor,
                "of_floor": floor / quick[k],
                "plain_ms": 1e3 * slow[k],
                "error": errors[0] if k == 0 else max(errors[1:]),
            }
    return figures


def _timed(part: Part) -> tuple[float, float]:
    """Return the seconds forwards and backwards."""
    forward = seconds_of(part.forward)
    output = part.forward()
    return forward, seconds_of(lambda: part.back(output))


# ---- steps of the fit ----------------------------------------------------------------------------------------------


def steps(n: int, slices: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """Return the milliseconds of a training step by the slices it takes, and what a step costs without any.

    Args:
        n: edge of the cube, voxels.
        slices: numbers of slices, two at least.
        device: the GPU.
    """
    from tiltfield import pace
    from tiltfield.fit import LEARN_EVERY

    def taken(count: int) -> float:
        scheduled = lambda *given, **named: replace(schedule_for(*given, **named), block=count)  # noqa: E731
        with mock.patch.object(pace, "schedule_for", scheduled):
            step = pace._fit((len(TILTS), n, n), ReconstructConfig(device=device.type), device)
        return seconds_of(lambda: [step() for _ in range(LEARN_EVERY)]) / LEARN_EVERY

    took = {count: taken(count) for count in slices}
    least, most = min(took), max(took)
    slope = (took[most] - took[least]) / (most - least)
    points = slice_points(n)
    return {
        **{f"ms_{count}": 1e3 * seconds for count, seconds in took.items()},
        "launch_ms": 1e3 * (took[least] - slope * least),
        "ns_a_point": 1e9 * slope / points,
        **{f"fit_s_{count}": seconds * PASSES * -(-n // count) for count, seconds in took.items()},
    }


def slice_points(n: int) -> int:
    """Return the points of a slice that a fit of a cube is expected to have."""
    from tiltfield.forecast import box_of

    box = box_of((len(TILTS), n, n), ReconstructConfig())
    return box.n_z * box.n_x
