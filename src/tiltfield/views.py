"""Two volumes compared by their projections in random directions: the paper's figures in 2D."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tiltfield.contrast import DEPTH
from tiltfield.errors import InputError

VIEWS = 20  # as many as in the paper
SLAB_POINTS = 4_000_000  # sampled at once


def compare_views(volume: np.ndarray, truth: np.ndarray, count: int = VIEWS, seed: int = 0) -> dict[str, float]:
    """Compare the projections of two volumes in the same random directions.

    Args:
        volume: the reconstruction, shape (z, y, x), any unit.
        truth: true density, same shape.
        count: directions.
        seed: of the directions.

    Returns:
        by name: psnr_views_db (peak 1, mean over the views of each view's), mse_views (mean over all), and
        dssim_views, (1 - SSIM) / 2 with the data range 1.

    Raises:
        InputError: if shapes differ, a shape is not that of a volume, or there is no view.

    Kniesel et al., CVPR 2022; its tables show 100 times the MSE and 10 times the DSSIM. Its 2D PSNR is a mean over
    views too: 13.86 dB stands beside an MSE of 0.04271, which by itself is 13.69 dB.
    """
    if volume.shape != truth.shape:
        raise InputError(f"expected volumes of one shape, got {volume.shape} and {truth.shape}: crop or bin one")
    pairs = list(zip(random_views(volume, count, seed), random_views(truth, count, seed), strict=True))
    errors = [float(np.mean((a - b) ** 2, dtype=np.float64)) for a, b in pairs]
    return {
        "psnr_views_db": float(np.mean([-10 * math.log10(e) if e > 0 else math.inf for e in errors])),
        "mse_views": float(np.mean(errors)),
        "dssim_views": float(np.mean([(1 - _ssim(a, b)) / 2 for a, b in pairs])),
    }


def random_views(volume: np.ndarray, count: int = VIEWS, seed: int = 0) -> np.ndarray:
    """Return bright-field images exp(-7 ∫ρ dl) of a volume in random directions, as :func:`view` makes them.

    Args:
        volume: shape (z, y, x), any unit; scaled to [0, 1] by its minimum and maximum first.
        count: directions, > 0.
        seed: of the directions.

    Returns:
        float32 in [0, 1], shape (count, n, n) with n the longest edge.

    Raises:
        InputError: if it is no volume, or there is no view.
    """
    if volume.ndim != 3 or count < 1:
        raise InputError(f"expected a volume (z, y, x) and at least one view, got shape {volume.shape}, {count} views")
    scaled = torch.from_numpy(_scaled(volume))
    return np.stack([view(scaled, rotation).numpy() for rotation in random_rotations(count, seed)])


def random_rotations(count: int, seed: int) -> np.ndarray:
    """Return rotation matrices drawn uniformly: those of normally distributed quaternions.

    Args:
        count: how many.
        seed: of the draw.

    Returns:
        float64, shape (count, 3, 3).

    Shoemake, Uniform random rotations, Graphics Gems III (1992).
    """
    quaternions = np.random.default_rng(seed).standard_normal((count, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.array(rows).transpose(2, 0, 1)


def view(density: Tensor, rotation: np.ndarray) -> Tensor:
    """Return exp(-7 ∫ρ dl) of a density turned about the centre of its box, along z.

    The box is the cube around the volume, [-1, 1] along every edge; outside of the volume is vacuum. The density is
    interpolated linearly at the voxels of the turned cube; what it turns out of the cube is not seen.

    Args:
        density: float32, shape (z, y, x).
        rotation: from the view's (z, y, x) to the volume's, shape (3, 3).

    Returns:
        shape (n, n) with n the longest edge.
    """
    n = max(density.shape)
    centred = (torch.arange(n, dtype=torch.float32) + 0.5) * (2 / n) - 1
    turn = torch.from_numpy(rotation).float() * torch.tensor([[n / edge] for edge in density.shape])
    along_z, along_x = (turn[:, axis, None] * centred for axis in (0, 2))
    plane = (along_z[:, :, None] + along_x[:, None, :])[:, None]  # (axis, 1, z, x) at y = 0
    rows = max(1, SLAB_POINTS // n**2)
    depths = [
        _line_integrals(density, plane + (turn[:, 1, None] * part)[:, :, None, None]) for part in centred.split(rows)
    ]
    return torch.exp(-DEPTH * (2 / n) * torch.cat(depths))


def _line_integrals(density: Tensor, points: Tensor) -> Tensor:
    """Return the sums over z of the density at points in units of the half edges, (axis, y, z, x) to (y, x)."""
    grid = points.flip(0).movedim(0, -1)[None]  # the last dimension is (x, y, z)
    return torch.nn.functional.grid_sample(density[None, None], grid, align_corners=False)[0, 0].sum(dim=1)


def _scaled(volume: np.ndarray) -> np.ndarray:
    """Return the volume scaled to [0, 1], float32; a constant becomes 0."""
    low, high = float(volume.min()), float(volume.max())
    scaled = volume.astype(np.float32)
    scaled -= low
    scaled /= (high - low) or 1.0
    return scaled


def _ssim(image: np.ndarray, target: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    window = min(7, len(target))
    return float(structural_similarity(image, target, win_size=window - (window + 1) % 2, data_range=1.0))
