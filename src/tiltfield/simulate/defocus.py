"""Images blurred by defocus, exactly: what :class:`tiltfield.defocus.Defocus` is measured against."""

from __future__ import annotations

import numpy as np
from scipy import fft

from tiltfield.defocus import Kernel


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
