"""Defocus of a tilted specimen: blur that grows with the tilt and with the distance from the tilt axis.

A point at distance d from the axis in an image of tilt α lies |d tan α| above or below the plane in focus, and a blur
of standard deviation σ ∝ |d tan α| follows. Two kernels of that σ along each axis of the image:

    linear   exp(-r² / 2σ²)
    paper    exp(-r / s), s = σ / √3

The paper (Kniesel et al., CVPR 2022, supplement, equation 1) prints exp(-r · tan α · d), a kernel that gets narrower
with tilt and distance and is flat on the axis, and says in words that it gets wider. The words agree with optics, so s
grows here. Kernels are sampled at the pixels; below about 1.5 pixels (paper) and 0.6 (linear) that narrows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft


@dataclass(frozen=True)
class Kernel:
    """A radially symmetric kernel.

    Attributes:
        value: at distances in units of the scale.
        scale: over the standard deviation along one axis.
        cut: radius beyond which it is left out, in units of the scale; the mass beyond is below 1e-5.
    """

    value: Callable[[np.ndarray], np.ndarray]
    scale: float
    cut: float


KERNELS = {
    "linear": Kernel(lambda r: np.exp(-(r**2) / 2), 1.0, 5.0),
    "paper": Kernel(lambda r: np.exp(-r), 1 / math.sqrt(3), 14.5),
}


def blur_widths(n: int, angle: float, steepest: float, most: float) -> np.ndarray:
    """Return the standard deviation of the blur in every column, most · |tan α| / tan(steepest) · |d| / d(edge).

    Args:
        n: columns; the tilt axis runs along the middle.
        angle: tilt, radians.
        steepest: largest tilt of the series, radians; 0 for no blur.
        most: blur there in the outermost column, pixels.

    Returns:
        pixels, shape (n,).
    """
    if steepest == 0:
        return np.zeros(n)
    distance = np.abs(np.arange(n) - (n - 1) / 2) / ((n - 1) / 2)
    return most * abs(math.tan(angle)) / math.tan(abs(steepest)) * distance


def defocus_image(image: np.ndarray, widths: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Blur one image, each pixel by the kernel of its own column.

    Each pixel is the mean of those around it, weighted by the kernel sampled at the pixels; at the border only what is
    in the image counts. A constant stays what it is. Down the columns the kernel does not change, so that the sum over
    rows is a product of Fourier transforms; the sum over columns is written out.

    Args:
        image: shape (row, col).
        widths: standard deviations, pixels, shape (col,).
        kernel: one of `KERNELS`.

    Returns:
        float32, the same shape.
    """
    rows, columns = image.shape
    scales = kernel.scale * np.asarray(widths)
    radii = np.ceil(kernel.cut * scales).astype(int)
    length = fft.next_fast_len(rows + int(radii.max()), real=True)
    spectra = fft.rfft(image.astype(np.float64), length, axis=0)
    flat = fft.rfft(np.ones(rows), length)
    blurred = image.astype(np.float32)
    for u in np.flatnonzero(radii > 0):
        first, last = max(0, u - radii[u]), min(columns, u + radii[u] + 1)
        across = np.abs(np.arange(first, last) - u)
        weights = _transforms(kernel, scales[u], radii[u], length)[:, across]
        total = np.stack([(weights * spectra[:, first:last]).sum(axis=1), weights.sum(axis=1) * flat])
        amount, weight = fft.irfft(total, length, axis=1)[:, :rows]
        blurred[:, u] = amount / weight
    return blurred


def _transforms(kernel: Kernel, scale: float, radius: int, length: int) -> np.ndarray:
    """Return the transforms along the rows of the kernel's columns 0 to radius, real, shape (frequency, radius + 1)."""
    across = np.arange(radius + 1)
    along = np.minimum(np.arange(length), length - np.arange(length))
    near = along <= radius
    values = np.zeros((length, radius + 1))
    values[near] = kernel.value(np.hypot(along[near][:, None], across) / scale)
    return np.asarray(fft.rfft(values, axis=0).real)
