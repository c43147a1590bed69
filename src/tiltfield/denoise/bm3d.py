"""BM3D: similar blocks of an image are stacked and filtered together. The package is free for non-commercial use."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import torch

from tiltfield.denoise.base import Run, Scan, find_scan, package, progress
from tiltfield.denoise.stabilise import Stabiliser, stabiliser
from tiltfield.errors import InputError
from tiltfield.noise.estimate import scaled
from tiltfield.series import TiltSeries

LICENCE = (
    "bm3d is free for non-commercial use only (licence of Tampere University, "
    "https://webpages.tuni.fi/foi/GCF-BM3D/); results made with it must name its authors"
)
SMALLEST = 8  # pixels, edge of a block
_LEAST_POWER = 0.05  # of white noise: where a spectrum is estimated to be less
_WHITE = (3.0, 0.4)  # hard threshold and Wiener factor that the package takes for white noise
_told: set[str] = set()


def by_bm3d(series: TiltSeries, run: Run) -> np.ndarray:
    """Denoise each image by BM3D after the variance of its noise was made constant.

    The noise of STEM images grows with the intensity, and BM3D takes it to be the same everywhere. So the variance-mean
    line of the series gives a generalised Anscombe transform, D = 2 √(n + 3/8 + r), after which the deviation is about
    1; its unbiased inverse leads back. Noise that correlates along the scan is handed over as a power spectrum.

    Args:
        series: images of at least 8 × 8 pixels, no holes.
        run: its observer is told the licence, once in a process.

    Returns:
        float32, shape (tilt, row, col), in the unit of the series.

    Raises:
        InputError: if the package is not installed, or the images are too small.

    Dabov et al., IEEE Trans. Image Process. 16 (2007) 2080; Mäkinen et al., IEEE Trans. Image Process. 29 (2020) 8339;
    Mäkitalo, Foi, IEEE Trans. Image Process. 22 (2013) 91.
    """
    module = package("bm3d", "bm3d", "; it is free for non-commercial use only")
    rows, cols = series.images.shape[1:]
    if min(rows, cols) < SMALLEST:
        raise InputError(
            f"{series.name}: BM3D needs images of at least {SMALLEST} x {SMALLEST} pixels, got {rows} x {cols}"
        )
    _tell_licence(run)
    scan = find_scan(series)
    if scan is not None:
        run.observer.say(f"{scan}: BM3D is told so")
    law, low, high = _stabiliser(series.images, scan)
    show, images = progress(run.observer, "bm3d"), np.empty_like(series.images)
    for i, image in enumerate(series.images):
        stable = law.forward(torch.from_numpy(scaled(image, low, high))).double()
        clean = torch.from_numpy(_denoised(module, stable.numpy(), scan))
        images[i] = low + (high - low) * law.back(clean).numpy()
        show((i + 1) / len(images))
    return images


def _tell_licence(run: Run) -> None:
    if LICENCE not in _told:
        _told.add(LICENCE)
        run.observer.say(LICENCE)


def _stabiliser(images: np.ndarray, scan: Scan | None) -> tuple[Stabiliser, float, float]:
    """Return the transform to a noise deviation of 1.

    Noise is estimated from each pixel less the mean of its four neighbours, of variance 5/4 if the noise is white, and
    5/4 - ρ₁ + ρ₂/8 if it correlates along one axis.
    """
    law, low, high = stabiliser(images)
    if scan is None:
        return law, low, high
    first, second = (*scan.correlation, 0.0)[:2]
    more = 1.25 / max(0.25, 1.25 - first + second / 8)
    return Stabiliser(replace(law.line, slope=law.line.slope * more, floor=law.line.floor * more)), low, high


def _denoised(module: ModuleType, stable: np.ndarray, scan: Scan | None) -> np.ndarray:
    """Return an image (row, col) with noise of deviation 1 denoised."""
    low, span = float(stable.min()), float(np.ptp(stable)) or 1.0
    profile = module.BM3DProfile()
    profile.num_threads = 1  # more give other roundings each time
    if scan is None:
        return module.bm3d((stable - low) / span, 1 / span, profile) * span + low
    # Given a spectrum, bm4d 4.2.5 looks these two up by a function that NumPy 2.4 has dropped.
    profile.lambda_thr3d, profile.mu2 = _WHITE
    return module.bm3d((stable - low) / span, spectrum(stable.shape, scan) / span**2, profile) * span + low


def spectrum(shape: tuple[int, ...], scan: Scan) -> np.ndarray:
    """Return the power spectrum of noise of variance 1, (1 + 2 Σ ρ_k cos 2πfk) · rows · cols, f along the scan.

    Args:
        shape: (row, col) of the image.
        scan: how its noise correlates.
    """
    frequency = np.fft.fftfreq(shape[scan.axis - 1])
    power = 1 + 2 * sum(rho * np.cos(2 * np.pi * frequency * (k + 1)) for k, rho in enumerate(scan.correlation))
    power = np.maximum(power, _LEAST_POWER)
    power *= len(power) / power.sum()
    return np.broadcast_to(power if scan.axis == 2 else power[:, None], shape) * float(np.prod(shape))
