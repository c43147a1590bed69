"""A volume held against the truth."""

from __future__ import annotations

import numpy as np

from tiltfield.errors import InputError
from tiltfield.metrics import curve_resolution, fsc, mse_minmax, psnr_affine, psnr_minmax, ssim
from tiltfield.series import Volume
from tiltfield.views import compare_views


def evaluate(
    volume: Volume, truth: Volume, inside: Volume | np.ndarray | None = None, *, views: int = 0
) -> dict[str, float | str]:
    """Measure a volume against the truth.

    Args:
        volume: the reconstruction, shape (z, y, x), any unit.
        truth: true density, same shape.
        inside: where the specimen is, same shape, true above 0.5; adds the figures that need it.
        views: random directions, always the same, of which to compare projections; 0 for none.

    Returns:
        figures by name, psnr_affine_db (after the best affine fit), psnr_minmax_db and mse_minmax (both scaled to
        [0, 1], the paper's), ssim (after the affine fit), fsc_0.5 and fsc_0.143, the period where the Fourier shell
        correlation with the truth falls below, in fsc_unit ("nm" if a voxel size is known, else "voxels"). With
        `inside` also psnr_inside_db (fitted and averaged inside, same peak) and psnr_flat_slab_db (what the bare
        outline scores). With `views` also psnr_views_db, mse_views and dssim_views, as `tiltfield.views.compare_views`
        has them.

    Raises:
        InputError: if shapes differ, the truth is constant, nothing is inside, or views are negative.

    Kniesel et al., CVPR 2022 (measures on min-max scaled volumes).
    """
    if views < 0:
        raise InputError(f"expected a number of views, 0 for none, got {views}")
    mask = None if inside is None else _mask(inside, truth)
    a, b = same_box(volume, truth), truth.data
    figures: dict[str, float | str] = {
        "psnr_affine_db": psnr_affine(a, b),
        "psnr_minmax_db": psnr_minmax(a, b),
        "mse_minmax": mse_minmax(a, b),
        "ssim": ssim(a, b),
    }
    if mask is not None:
        figures |= {"psnr_inside_db": psnr_affine(a, b, mask), "psnr_flat_slab_db": psnr_affine(mask, b)}
    if views:
        figures |= compare_views(a, b, views)
    return figures | _resolutions(a, b, truth.voxel_size_nm or volume.voxel_size_nm)


def _resolutions(a: np.ndarray, b: np.ndarray, voxel_size_nm: float | None) -> dict[str, float | str]:
    frequency, correlation = fsc(a, b)
    found: dict[str, float | str] = {
        f"fsc_{threshold}": curve_resolution(frequency, correlation, threshold, voxel_size_nm)
        for threshold in (0.5, 0.143)
    }
    return found | {"fsc_unit": "nm" if voxel_size_nm else "voxels"}


def same_box(volume: Volume, truth: Volume) -> np.ndarray:
    """Return the volume padded with vacuum, or cropped, along z alone, to the truth's box; both are centred."""
    extra = truth.data.shape[0] - volume.data.shape[0]
    if volume.data.shape[1:] != truth.data.shape[1:] or extra % 2:
        raise InputError(
            f"the volume has shape {volume.data.shape} (z, y, x), the truth {truth.data.shape}: expected equal y and "
            "x, and z that differs by an even number (both are centred); reconstruct at the truth's size, or crop or "
            "bin one of them"
        )
    return volume.centred(len(truth.data)).data


def _mask(inside: Volume | np.ndarray, truth: Volume) -> np.ndarray:
    values = inside.data if isinstance(inside, Volume) else np.asarray(inside)
    if values.shape != truth.data.shape:
        raise InputError(f"the inside mask has shape {values.shape} (z, y, x), the truth {truth.data.shape}")
    return values > 0.5
