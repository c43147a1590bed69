"""Noise2Self: a small network learns, from the series alone, what a pixel must be from everything but itself.

Noise that is independent from pixel to pixel cannot be foretold from the others, so the network that foretells a
hidden noisy pixel best foretells the clean one. The images at the neighbouring tilts show nearly the same with other
noise: they are given to the network as well, whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiltfield.denoise.base import Run, find_scan, progress, tiles
from tiltfield.series import TiltSeries

STEPS = 600
NEIGHBOURS = 2  # images on each side
_WIDTH = 16
_BATCH, _CROP = 8, 64  # images and their edge in a step
_RATE, _WARM_UP = 3e-3, 50
_GAP = 2  # pixels to be seen between hidden ones
_TILE, _MARGIN = 512, 32  # the network sees less than 32 pixels far; multiples of its coarsest pixel of 4
_PIXELS = 2**17  # at once, when images are denoised
_BACKWARD = 3  # cost of a pixel in training, in that of one in use


@dataclass(frozen=True)
class Masks:
    """Which pixels are hidden together: a lattice, and its points' neighbours along the scan if noise correlates there.

    Attributes:
        halo: hidden neighbours of a lattice point on each side, (row, col).
    """

    halo: tuple[int, int] = (0, 0)

    @property
    def period(self) -> tuple[int, int]:
        """Return the spacing of the lattice, (row, col)."""
        return self.halo[0] * 2 + 1 + _GAP, self.halo[1] * 2 + 1 + _GAP

    def __len__(self) -> int:
        """Return how many lattices cover all pixels."""
        return self.period[0] * self.period[1]

    def targets(self, index: int, shape: tuple[int, int], first: tuple[int, int] = (0, 0)) -> Tensor:
        """Return the points of one lattice, bool (row, col).

        Args:
            index: which, from 0 to the number of lattices.
            shape: (row, col) of the part of an image.
            first: its first row and column in the image.
        """
        offset = divmod(index, self.period[1])
        on = [
            (torch.arange(n) + start - shift) % period == 0
            for n, start, shift, period in zip(shape, first, offset, self.period, strict=True)
        ]
        return on[0][:, None] & on[1][None, :]

    def hidden(self, targets: Tensor) -> Tensor:
        """Return the points of a lattice and their halo, bool (row, col).

        Args:
            targets: the points.
        """
        size = [2 * halo + 1 for halo in self.halo]
        return functional.max_pool2d(targets[None].float(), size, 1, self.halo)[0] > 0


class BlindNet(nn.Module):
    """A U-net of two halvings, from images and what is hidden in the middle one to that image without noise.

    It has about 52,000 parameters. Edges go on with their own values: zeros there would be taken for structure.
    """

    def __init__(self) -> None:
        super().__init__()
        w = _WIDTH
        self.fine = nn.Sequential(_layer(2 * NEIGHBOURS + 2, w), _layer(w, w))
        self.middle = nn.Sequential(_layer(w, 2 * w), _layer(2 * w, 2 * w))
        self.coarse = _layer(2 * w, 2 * w)
        self.middle_up = _layer(4 * w, 2 * w)
        self.fine_up = nn.Sequential(_layer(3 * w, w), nn.Conv2d(w, w, 1), nn.LeakyReLU(0.1), nn.Conv2d(w, 1, 1))

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Return the middle image as foretold; where it is hidden, from the other pixels alone.

        Args:
            images: shape (batch, 2 · NEIGHBOURS + 1, row, col), in the order of their tilts.
            hidden: bool, shape (row, col).

        Returns:
            shape (batch, row, col).
        """
        rows, cols = hidden.shape
        middle = images[:, NEIGHBOURS].masked_fill(hidden, 0.0)[:, None]
        mask = hidden.to(images.dtype).expand_as(middle)
        x = torch.cat([images[:, :NEIGHBOURS], middle, images[:, NEIGHBOURS + 1 :], mask], 1)
        x = functional.pad(x, (0, -cols % 4, 0, -rows % 4), mode="replicate")
        fine = self.fine(x.contiguous(memory_format=torch.channels_last))
        half = self.middle(functional.avg_pool2d(fine, 2))
        low = self.coarse(functional.avg_pool2d(half, 2))
        half = self.middle_up(torch.cat([functional.interpolate(low, scale_factor=2.0), half], 1))
        fine = self.fine_up(torch.cat([functional.interpolate(half, scale_factor=2.0), fine], 1))
        return fine[:, 0, :rows, :cols]


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate"), nn.LeakyReLU(0.1))


def by_noise2self(series: TiltSeries, run: Run, steps: int = STEPS) -> np.ndarray:
    """Denoise a series by a network that is fitted to it with pixels hidden, and used with the same pixels hidden.

    The loss is the mean of (f(y without J)_J - y_J)² over hidden pixels J; up to the variance of the noise, that is the
    error against the truth. Once the network is fitted, no pixel of the result depends on the same pixel of the series,
    but for the mean and deviation of the whole. If noise correlates along the scan, the neighbours that know of a
    pixel's noise are hidden with it.

    Args:
        series: images without holes.
        run: seed, device, observer; the same seed, device and number of threads give the same images.
        steps: of the fit.

    Returns:
        float32, shape (tilt, row, col), in the unit of the series.

    Batson, Royer, Noise2Self: Blind Denoising by Self-Supervision, ICML 2019. Neighbours in the manner of Sheth et al.,
    Unsupervised Deep Video Denoising, ICCV 2021.
    """
    masks = _masks_for(series, run)
    order = np.argsort(series.angles_deg, kind="stable")
    level, scale = float(series.images.mean(dtype=np.float64)), float(series.images.std(dtype=np.float64))
    sorted_images = torch.from_numpy((series.images[order] - np.float32(level)) / np.float32(scale))
    training = steps * _BATCH * _CROP**2 * _BACKWARD
    share = training / (training + len(masks) * series.images.size)
    show = progress(run.observer, "noise2self")
    net = _new_net(run)
    for done in _train(net, sorted_images, masks, run, steps):
        show(share * done)
    clean = np.empty(series.images.shape, np.float32)
    for done in _apply(net, sorted_images, masks, run.device, clean):
        show(share + (1 - share) * done)
    result = np.empty_like(clean)
    result[order] = np.float32(level) + np.float32(scale) * clean
    return result


def _masks_for(series: TiltSeries, run: Run) -> Masks:
    scan = find_scan(series)
    if scan is None:
        return Masks()
    reach = len(scan.correlation)
    run.observer.say(f"{scan}: {reach} on each side are hidden with a pixel")
    return Masks((reach, 0) if scan.axis == 1 else (0, reach))


def _new_net(run: Run) -> BlindNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = BlindNet()
    return net.to(run.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _neighbours(count: int) -> Tensor:
    """Return for each image those to look at, itself in the middle alone; shape (count, 2 · N + 1).

    Beyond the ends they are mirrored. Where that would lead back to the image itself, which is to be seen with pixels
    hidden only, the next nearer one on that side is repeated. There are three images at least.
    """
    own, steps = torch.arange(count)[:, None], torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    index = count - 1 - (count - 1 - (own + steps).abs()).abs()
    nearer = index[:, NEIGHBOURS + steps - steps.sign()]
    return torch.where(index == own, nearer, index)


def _train(net: BlindNet, images: Tensor, masks: Masks, run: Run, steps: int) -> Iterator[float]:
    """Fit the network; yields the share done after each step."""
    draws = torch.Generator().manual_seed(run.seed)
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    shape = (min(_CROP, images.shape[1]), min(_CROP, images.shape[2]))
    near = _neighbours(len(images))

    def draw(end: int) -> int:
        return int(torch.randint(end, (), generator=draws))

    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        which = near[torch.randint(len(images), (_BATCH,), generator=draws)]
        row, col = draw(images.shape[1] - shape[0] + 1), draw(images.shape[2] - shape[1] + 1)
        seen = images[:, row : row + shape[0], col : col + shape[1]][which]
        seen = seen.flip([axis for axis in (2, 3) if draw(2)]).to(run.device)
        targets = masks.targets(draw(len(masks)), shape)
        hidden, targets = masks.hidden(targets).to(run.device), targets.to(run.device)
        loss = (net(seen, hidden) - seen[:, NEIGHBOURS])[:, targets].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield (step + 1) / steps


@torch.no_grad()
def _apply(net: BlindNet, images: Tensor, masks: Masks, device: torch.device, clean: np.ndarray) -> Iterator[float]:
    """Write each pixel as foretold with itself hidden into `clean`; yields the share done."""
    near, parts = _neighbours(len(images)), list(tiles(images.shape[1:], _TILE, _MARGIN))
    for k, part in enumerate(parts):
        shape = (part.seen[0].stop - part.seen[0].start, part.seen[1].stop - part.seen[1].start)
        batch = max(1, _PIXELS // (shape[0] * shape[1]))
        view = torch.from_numpy(clean[:, part.kept[0], part.kept[1]])
        for first in range(0, len(images), batch):
            seen = images[:, part.seen[0], part.seen[1]][near[first : first + batch]].to(device)
            for index in range(len(masks)):
                targets = masks.targets(index, shape)
                told = net(seen, masks.hidden(targets).to(device))[:, part.inner[0], part.inner[1]].cpu()
                there = targets[part.inner]
                view[first : first + batch][:, there] = told[:, there]
            yield (k + min(1.0, (first + batch) / len(images))) / len(parts)
