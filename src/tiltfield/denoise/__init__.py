"""Denoisers of tilt series behind one function: rivals, and what methods that denoise first begin with.

A denoiser is one file with a function ``(series, run) -> images``, one line in `DENOISERS`, and its name in
`DenoiserName` of ``config.py``. Packages that not everyone may use are optional and are imported when one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from tiltfield.denoise.base import Denoiser, Run
from tiltfield.denoise.bm3d import by_bm3d
from tiltfield.denoise.noise2self import by_noise2self
from tiltfield.denoise.topaz import by_topaz
from tiltfield.errors import InputError, nearest
from tiltfield.observe import Observer
from tiltfield.screening import fill
from tiltfield.series import TiltSeries

__all__ = ["DENOISERS", "Denoiser", "Run", "denoise"]


def _dwk(noise: Literal["poisson", "gaussian"]) -> Denoiser:
    def run_it(series: TiltSeries, run: Run) -> np.ndarray:
        from tiltfield.denoise.wiener import deep_wiener

        return deep_wiener(series, noise, run.device)

    return run_it


DENOISERS: Mapping[str, Denoiser] = {
    "bm3d": by_bm3d,
    "topaz": by_topaz,
    "dwk-p": _dwk("poisson"),
    "dwk-g": _dwk("gaussian"),
    "noise2self": by_noise2self,
}
"""Name to function, for every `DenoiserName`."""


def denoise(
    series: TiltSeries,
    name: str,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    observer: Observer | None = None,
) -> TiltSeries:
    """Take the noise out of the images of a tilt series.

    Args:
        series: the tilt series; pixels that are not valid are filled from their neighbours first.
        name: a key of `DENOISERS`.
        seed: of every random draw.
        device: where to compute; the CPU if not given.
        observer: told of findings and progress.

    Returns:
        the series with denoised images in the same unit; tilts, pixel size and mask are kept. The images are no grey
        levels any more, so `quantum` is lost.

    Raises:
        InputError: for an unknown name, a package that is not installed, or images that the denoiser cannot take.
    """
    if name not in DENOISERS:
        raise InputError(f"expected a denoiser of {', '.join(DENOISERS)}, got '{name}'{nearest(name, DENOISERS)}")
    whole = series if series.valid is None else replace(series, images=fill(series.images, series.valid))
    run = Run(seed, device or torch.device("cpu"), observer or Observer())
    order = np.argsort(series.angles_deg, kind="stable")  # noise is estimated with images of neighbouring tilts
    images = DENOISERS[name](whole.select(order), run)[np.argsort(order)]
    sources = {**series.sources, "denoised": f"by {name}"}
    return replace(series, images=images, quantum=None, name=f"{series.name}, denoised by {name}", sources=sources)
