"""Topaz-Denoise: a U-net trained on pairs of cryo-EM images. The package is under the GPL and stays optional."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tiltfield.denoise.base import Run, package, progress, tiles
from tiltfield.errors import InputError
from tiltfield.series import TiltSeries

# Topaz takes v0.2.2 by default. On synthetic cells of 96² pixels v0.2.1 was better by 0.2 to 2.3 dB at signal-to-noise
# ratios of 0.7 and 2, worse by 0.5 to 0.8 dB at 0.3.
MODEL = "unet_L2_v0.2.1.sav"
_WIDTHS = {"base_width": 7, "top_width": 3}  # of its first and last kernels
_TILE, _MARGIN = 1024, 128  # multiples of the network's coarsest pixel
_PAD = 64  # pixels mirrored on each side: beyond the edge the network sees zeros, and darkens 10 pixels


def by_topaz(series: TiltSeries, run: Run) -> np.ndarray:
    """Denoise each image by the pretrained U-net of Topaz, unet v0.2.1.

    As in its own pipeline an image is brought to mean 0 and deviation 1 first, and back afterwards. Edges are mirrored.

    Args:
        series: images without holes.
        run: device, observer.

    Returns:
        float32, shape (tilt, row, col), in the unit of the series.

    Raises:
        InputError: if the package is not installed, or does not hold the weights, or they are damaged.

    Bepler et al., Topaz-Denoise: general deep denoising models for cryoEM and cryoET, Nat. Commun. 11 (2020) 5208.
    """
    net = _load().to(run.device)
    show, images = progress(run.observer, "topaz"), np.empty_like(series.images)
    for i, image in enumerate(series.images):
        level, scale = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        images[i] = level + scale * _denoised(net, ((image - level) / scale).astype(np.float32), run.device)
        show((i + 1) / len(images))
    return images


def _load() -> nn.Module:
    """Return the network.

    Topaz's own `load_model` finds no weights before Python 3.12 unless setuptools still has pkg_resources, and it
    unpickles what it finds.
    """
    models = package("topaz.denoising.models", "topaz")
    path = Path(models.__file__ or "").parents[1] / "pretrained" / "denoise" / MODEL
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net = models.UDenoiseNet(**_WIDTHS)
        net.load_state_dict(state)
    except (pickle.UnpicklingError, EOFError, LookupError, ValueError):
        reason = f"{path} is damaged"  # PyTorch's own message advises to load it unsafely
    except (OSError, AttributeError, RuntimeError, TypeError) as error:
        reason = str(error)
    else:
        return net.eval()
    raise InputError(
        f"the installed topaz-em does not hold the network unet v0.2.1 ({reason}): "
        "install the version that goes with this one with pip install 'tiltfield[topaz]'"
    )


@torch.no_grad()
def _denoised(net: nn.Module, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Return an image of mean 0 and deviation 1 denoised."""
    pad = min(_PAD, min(image.shape) - 1)
    padded = functional.pad(torch.from_numpy(image)[None, None], (pad, pad, pad, pad), mode="reflect")
    result = torch.empty_like(padded[0, 0])
    for part in tiles(result.shape, _TILE, _MARGIN):
        told = net(padded[..., part.seen[0], part.seen[1]].to(device))[0, 0].cpu()
        result[part.kept] = told[part.inner]
    return result[pad : pad + image.shape[0], pad : pad + image.shape[1]].numpy()
