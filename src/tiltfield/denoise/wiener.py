"""Deep Wiener-Kolmogorov denoisers: learned regularisation kernels, closed-form solutions in Fourier space.

Images y of white noise of deviation 1 are restored by minimising a quadratic of learned kernels g and weights w ::

    |y - x|² + Σ_i w_i |g_i * x - f_i|²    so    X = (Y + Σ_i w_i conj(G_i) F_i) / (1 + Σ_i w_i |G_i|²)

Without targets f that is a Wiener filter, X = Y / (1 + Σ w_i |G_i|²). Three such filters, from weak to strong, make
views of the image, from which a small U-net tells by how much the kernels' answers f should differ at each pixel from
those to the middle view: edges stay where it sees some. The kernels have zero mean, so the mean of an image is kept,
and a constant one stays as it is. Weights follow the signal-to-noise ratio, w_i = exp(a_i - b_i log snr). Poisson noise
is first given a constant variance (`stabilise.py`), as in the paper.

Pronina, Kokkinos, Dylov, Lefkimmiatis: Microscopy Image Restoration with Deep Wiener-Kolmogorov Filters, ECCV 2020.
Trained by `benchmarks/train_dwk.py`; `dwk.json` has the figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional

from tiltfield.denoise.stabilise import deviation, stabiliser
from tiltfield.errors import InputError
from tiltfield.noise.estimate import scaled
from tiltfield.series import TiltSeries

__all__ = ["DeepWiener", "WienerNoise", "deep_wiener", "denoise_stack", "load_deep_wiener", "solve"]

WienerNoise = Literal["poisson", "gaussian"]
SMALLEST = 16  # pixels, edge of an image
_MARGIN = 16  # pixels mirrored on each side, against wrap-around
_COARSEST = 8  # the U-net's coarsest pixel, in pixels
_EDGE = 5
_SNR = (0.05, 30.0)  # the networks know no others
_BATCH = 2**18  # pixels at once


def solve(image: Tensor, kernels: Tensor, weights: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the images x that minimise |image - x|² + Σ_i w_i |g_i * x - f_i|², by division in Fourier space.

    Args:
        image: y, shape (batch, 1, row, col), periodic.
        kernels: g, shape (kernel, edge, edge), odd edge, centred.
        weights: w ≥ 0, shape (batch, kernel).
        targets: f, shape (batch, kernel, row, col); None: zero, the Wiener filter.

    Returns:
        shape (batch, 1, row, col).
    """
    size = image.shape[-2:]
    power = torch.fft.rfft2(kernels, s=size).abs().square()  # (kernel, row, col / 2 + 1)
    divisor = 1 + torch.einsum("bk,khw->bhw", weights, power)[:, None]
    if targets is not None:
        image = image + _circular(targets * weights[..., None, None], kernels.flip(-2, -1)[None])
    return torch.fft.irfft2(torch.fft.rfft2(image) / divisor, s=size)


class DeepWiener(nn.Module):
    """Wiener filters with learned kernels, and a small network that says what the kernels should answer where.

    Args:
        n_kernels: regularisation kernels of 5 × 5 pixels, at most 24.
        widths: channels of the network at full resolution, half, a quarter and an eighth.
    """

    views = 3

    def __init__(self, n_kernels: int = 24, widths: tuple[int, ...] = (12, 24, 40, 40)) -> None:
        super().__init__()
        self.raw_kernels = nn.Parameter(_cosines(n_kernels))
        strengths = torch.tensor([-5.0, -3.0, -1.0, -1.0])  # of three views and of the solution
        self.level = nn.Parameter(strengths[:, None].repeat(1, n_kernels))
        self.fall = nn.Parameter(torch.ones(self.views + 1, n_kernels))
        self.network = _UNet(self.views + 2, n_kernels, widths)

    @property
    def kernels(self) -> Tensor:
        """The kernels, of zero mean, shape (kernel, 5, 5)."""
        return self.raw_kernels - self.raw_kernels.mean((-2, -1), keepdim=True)

    def weights(self, log_snr: Tensor) -> Tensor:
        """Return the weights w of the views and of the solution.

        Args:
            log_snr: logarithm of signal over noise variance, shape (batch,).

        Returns:
            shape (views + 1, batch, kernel).
        """
        return torch.exp(self.level[:, None] - self.fall[:, None] * log_snr[None, :, None])

    def forward(self, image: Tensor, log_snr: Tensor) -> Tensor:
        """Return restored images.

        Args:
            image: noise of deviation 1, shape (batch, 1, row, col), rows and columns multiples of 8; periodic.
            log_snr: logarithm of signal over noise variance, shape (batch,).

        Returns:
            shape (batch, 1, row, col).
        """
        mean = image.mean((-2, -1), keepdim=True)
        centred, kernels, weights = image - mean, self.kernels, self.weights(log_snr)
        views = [solve(centred, kernels, weights[i]) for i in range(self.views)]
        told = log_snr[:, None, None, None].expand_as(image)
        targets = _circular(views[1], kernels[:, None]) + self.network(torch.cat([centred, *views, told], 1))
        return mean + solve(centred, kernels, weights[-1], targets)


class _UNet(nn.Module):
    """Several resolutions, two convolutions down and one up each, sums in place of concatenations; periodic."""

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = (channels, *widths[:-1])
        self.enter = nn.ModuleList(_convolution(b, w) for b, w in zip(before, widths, strict=True))
        self.down = nn.ModuleList(_convolution(w, w) for w in widths)
        self.up = nn.ModuleList(_convolution(w, w) for w in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(w, n, 1) for w, n in zip(widths[1:], widths[:-1], strict=True))
        self.leave = _convolution(widths[0], outputs)
        nn.init.normal_(self.leave.weight, std=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for i, (enter, down) in enumerate(zip(self.enter, self.down, strict=True)):
            x = functional.relu(enter(functional.avg_pool2d(x, 2) if i else x))
            x = x + functional.relu(down(x))
            kept.append(x)
        for i in range(len(kept) - 1, -1, -1):
            if i < len(kept) - 1:
                x = kept[i] + functional.interpolate(self.narrow[i](x), scale_factor=2, mode="nearest")
            x = x + functional.relu(self.up[i](x))
        return self.leave(x)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")


def _circular(images: Tensor, filters: Tensor) -> Tensor:
    half = filters.shape[-1] // 2
    return functional.conv2d(functional.pad(images, (half,) * 4, mode="circular"), filters)


def _cosines(count: int) -> Tensor:
    """Return the products of cosines on 5 × 5 pixels, lowest frequencies first, without the constant."""
    waves = dct(np.eye(_EDGE), axis=0, norm="ortho")
    pairs = sorted(np.ndindex(_EDGE, _EDGE), key=lambda p: (p[0] ** 2 + p[1] ** 2, p))[1 : count + 1]
    return torch.tensor(np.stack([np.outer(waves[i], waves[j]) for i, j in pairs]), dtype=torch.float32)


# ---- series --------------------------------------------------------------------------------------------------------


def normalised(images: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return images in units of their noise, the logarithm of their signal-to-noise ratio, and the unit.

    Args:
        images: shape (batch, 1, row, col).
        sigma: standard deviation of the noise, ≥ 0.

    Returns:
        images / unit, log snr and unit; shapes (batch, 1, row, col), (batch,) and (batch, 1, 1, 1). The unit is sigma,
        more where there is next to no noise.
    """
    variance = images.var((-3, -2, -1)).clamp_min(1e-30)
    noise = torch.maximum(variance.new_tensor(sigma**2), variance / (1 + _SNR[1]))
    snr = (variance / noise - 1).clamp(*_SNR)
    unit = noise.sqrt()[:, None, None, None]
    return images / unit, snr.log(), unit


def deep_wiener(series: TiltSeries, noise: WienerNoise, device: torch.device) -> np.ndarray:
    """Denoise the images of a series, each by itself, by learned Wiener filters.

    x = argmin |y - x|² + Σ_i w_i |g_i * x - f_i|², with images y in units of the noise. The deviation of Gaussian noise
    is estimated from the series. For Poisson noise its variance-mean line is, which makes a generalised Anscombe
    transform: images are stabilised, denoised, and brought back by the unbiased inverse. Either takes the noise to be
    white: where it correlates along the scan, some of it stays.

    Args:
        series: images of at least 16 × 16 pixels, no holes.
        noise: "gaussian" (DWK-G), or "poisson" (DWK-P) for noise whose variance grows with the intensity.
        device: where to compute.

    Returns:
        float32, shape (tilt, row, col), in the unit of the series.

    Raises:
        InputError: for images that are too small, or another kind of noise.

    Pronina et al., Microscopy Image Restoration with Deep Wiener-Kolmogorov Filters, ECCV 2020.
    """
    if noise not in get_args(WienerNoise):
        raise InputError(f"{series.name}: expected noise of {' or '.join(get_args(WienerNoise))}, got {noise!r}")
    if min(series.images.shape[1:]) < SMALLEST:
        rows, cols = series.images.shape[1:]
        least = f"at least {SMALLEST} x {SMALLEST} pixels"
        raise InputError(f"{series.name}: expected images of {least}, got {rows} x {cols}; denoise before binning")
    return denoise_stack(series.images, load_deep_wiener(noise).to(device), noise, device)


def denoise_stack(images: np.ndarray, model: DeepWiener, noise: WienerNoise, device: torch.device) -> np.ndarray:
    """Return denoised images.

    Args:
        images: float32, finite, shape (tilt, row, col), at least 16 × 16 pixels each.
        model: trained for this kind of noise, on the device.
        noise: "gaussian" or "poisson".
        device: where to compute.

    Returns:
        float32, shape (tilt, row, col).
    """
    if noise == "gaussian":
        middle = np.float32(np.median(images[len(images) // 2]))
        return middle + _restored(images - middle, model, device)
    law, low, high = stabiliser(images)
    stable = law.forward(torch.from_numpy(scaled(images, low, high))).numpy()
    back = law.back(torch.from_numpy(_restored(stable, model, device))).numpy()
    return np.asarray(np.float32(low) + np.float32(high - low) * back, np.float32)


def _restored(images: np.ndarray, model: DeepWiener, device: torch.device) -> np.ndarray:
    """Return images (tilt, row, col) of white noise without it."""
    sigma, batch = deviation(images), max(1, _BATCH // images[0].size)
    restored = np.empty(images.shape, np.float32)
    for i in range(0, len(images), batch):
        part = torch.from_numpy(images[i : i + batch]).to(device)[:, None]
        with torch.no_grad():
            restored[i : i + batch] = restore(part, sigma, model, _MARGIN)[:, 0].cpu().numpy()
    return restored


def restore(images: Tensor, sigma: float, model: Callable[[Tensor, Tensor], Tensor], margin: int) -> Tensor:
    """Return images restored by a model that is periodic and works in units of the noise; edges are mirrored.

    Where there is less noise than the model knows, its change is scaled by the variance, as that of a posterior mean.

    Args:
        images: shape (batch, 1, row, col).
        sigma: standard deviation of the noise.
        model: of images and logarithms of signal-to-noise ratios.
        margin: pixels mirrored on each side, less if the images are small.

    Returns:
        shape (batch, 1, row, col).
    """
    inputs, log_snr, unit = normalised(images, sigma)
    rows, cols = images.shape[-2:]
    (above, below), (left, right) = _margins(rows, margin), _margins(cols, margin)
    padded = functional.pad(inputs, (left, right, above, below), mode="reflect")
    change = unit * model(padded, log_snr)[..., above : above + rows, left : left + cols] - images
    return images + change * (sigma / unit).square()


def _margins(edge: int, margin: int) -> tuple[int, int]:
    """Return the pixels to mirror before and after so many, for a sum that the network can halve three times."""
    more = (edge + 2 * min(margin, edge - 1)) // _COARSEST * _COARSEST - edge
    return more // 2, more - more // 2


# ---- weights -------------------------------------------------------------------------------------------------------


def weights_path(noise: WienerNoise) -> Path:
    """Return the file of the weights that come with the package.

    Args:
        noise: "gaussian" or "poisson".
    """
    return Path(__file__).with_name(f"dwk-{noise}.npz")


def load_deep_wiener(noise: WienerNoise, folder: Path | None = None) -> DeepWiener:
    """Return a trained model, on the CPU.

    Args:
        noise: what it was trained for, "gaussian" or "poisson".
        folder: where its weights are; None: those that come with the package.
    """
    path, model = weights_path(noise), DeepWiener()
    arrays = _read(path if folder is None else folder / path.name)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in arrays.items()})
    return model.eval().requires_grad_(False)


def save_deep_wiener(model: DeepWiener, path: Path) -> None:
    """Write the weights of a model, in half precision.

    Args:
        model: any.
        path: an .npz file.
    """
    np.savez(path, **{name: values.cpu().numpy().astype(np.float16) for name, values in model.state_dict().items()})


@functools.cache
def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}
