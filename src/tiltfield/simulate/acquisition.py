"""The synthetic microscope: from settings to a tilt series with its truth."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.config import SimulateConfig
from tiltfield.defocus import KERNELS, blur_widths
from tiltfield.noise import NoiseFile, load_noise
from tiltfield.simulate.dataset import FILES, Simulation
from tiltfield.simulate.defocus import defocus_image
from tiltfield.simulate.projection import Progress, image_cell
from tiltfield.simulate.recording import (
    Draw,
    GreyLevels,
    NoiseLaw,
    drawing,
    drawing_from_file,
    grey_levels,
    law_for,
    scan_of,
)
from tiltfield.simulate.sections import Sections
from tiltfield.simulate.specimen import Specimen, described_file, make_specimen
from tiltfield.threads import shared_by

__all__ = ["FILES", "simulate"]


def simulate(
    config: SimulateConfig | None = None,
    progress: Progress | None = None,
    scratch: Path | None = None,
    **settings: Any,
) -> Simulation:
    """Make a synthetic cell and its tilt series.

    The cell is painted and projected at twice the sampling, I = exp(-τ) (bf) or τ (haadf) with the optical depth
    τ = 7 ∫ρ dl over a box [-1, 1]; images are binned 2 × 2, scaled to [0, 1] over the series or to the range of the
    noise file, defocused, and noise is added; last come clipping and grey levels.

    Args:
        config: the settings; by default those of `SimulateConfig`.
        progress: called as ``progress(stage, fraction)`` with the fraction done, 0 to 1.
        scratch: folder for volumes of more than 256 MiB while they are in use, the system's temporary one if None.
        **settings: single settings by name, over `config`.

    Returns:
        truth, clean and noisy images; the same settings give the same bytes.

    Raises:
        InputError: for settings that do not go together, a file that cannot be used, or no room in `scratch`.

    Kniesel et al., CVPR 2022, supplement (synthetic data).
    """
    config = SimulateConfig.settled(config, settings)
    report = progress or (lambda stage, fraction: None)
    noise = load_noise(config.noise_file) if config.noise_file else None
    specimen = make_specimen(config)
    truth, inside, raw = _image(specimen, config, report, scratch)
    ends = (noise.low, noise.high) if noise else (0.0, 1.0)
    clean, gain, offset = _scaled(raw, ends)
    if config.defocus != "none":
        clean = _defocused(clean, config, report)
    law, draw = _noise(config, noise, clean, offset)
    noisy = _drawn(clean, draw, ends if config.clip else None, report)
    facts = _facts(config, specimen)
    plain = Simulation(truth, inside, clean, noisy, np.array(config.angles_deg), config, gain, offset, law, None, facts)
    if config.quantise is None:
        return plain
    return _counted(plain, grey_levels(config.quantise, ends, noisy, clip=config.clip))


def _image(
    specimen: Specimen, config: SimulateConfig, report: Progress, scratch: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth and inside (z, y, x) and the unscaled images (tilt, row, col)."""
    n, angles = config.size, np.deg2rad(np.array(config.angles_deg))
    with contextlib.ExitStack() as undo:
        stores = []
        for kind in (np.float32, np.bool_):
            stores.append(Sections((n, n, n), kind, scratch))
            undo.callback(stores[-1].discard)
        raw = image_cell(specimen.cell, n, specimen.pad, angles, config.mode, (stores[0], stores[1]), report)
        undo.pop_all()
    return stores[0].array(), stores[1].array(), raw


def _scaled(raw: np.ndarray, ends: tuple[float, float]) -> tuple[np.ndarray, float, float]:
    """Return images scaled to these ends, and the gain and offset that do it."""
    low, high = float(raw.min()), float(raw.max())
    unit = ((raw - low) / (high - low)).astype(np.float32)
    gain, offset = 1 / (high - low), -low / (high - low)
    if ends == (0.0, 1.0):
        return unit, gain, offset
    span = ends[1] - ends[0]
    return (ends[0] + span * unit).astype(np.float32), span * gain, ends[0] + span * offset


def _defocused(clean: np.ndarray, config: SimulateConfig, report: Progress) -> np.ndarray:
    angles = np.deg2rad(np.array(config.angles_deg))
    steepest, kernel = float(np.abs(angles).max()), KERNELS[config.defocus]

    def blur(image: np.ndarray, angle: float) -> np.ndarray:
        return defocus_image(image, blur_widths(image.shape[1], angle, steepest, config.defocus_pixels), kernel)

    blurred = np.empty_like(clean)
    with ThreadPoolExecutor(shared_by()) as pool:
        for i, image in enumerate(pool.map(blur, clean, angles)):
            blurred[i] = image
            report("defocus", (i + 1) / len(clean))
    return blurred


def _noise(
    config: SimulateConfig, noise: NoiseFile | None, clean: np.ndarray, dark: float
) -> tuple[NoiseLaw | None, Draw]:
    """Return the law of the noise, if it is not that of a file, and what draws it."""
    if noise is not None:
        return None, drawing_from_file(noise, config.seed)
    law = law_for(config, clean, dark)
    return law, drawing(config, law)


def _drawn(clean: np.ndarray, draw: Draw, ends: tuple[float, float] | None, report: Progress) -> np.ndarray:
    """Return the images with noise, clipped to the ends if there are any."""
    noisy = np.empty_like(clean)
    for i, image in enumerate(clean):
        noisy[i] = draw(image)
        report("noise", (i + 1) / len(clean))
    return noisy if ends is None else np.clip(noisy, *ends)


def _counted(plain: Simulation, levels: GreyLevels) -> Simulation:
    """Return the simulation in units of grey levels, its noisy images as whole numbers."""
    return replace(
        plain,
        clean=levels.scaled(plain.clean),
        noisy=levels.counted(plain.noisy),
        gain=plain.gain / levels.quantum,
        offset=(plain.offset - levels.low) / levels.quantum,
        noise_law=levels.law(plain.noise_law) if plain.noise_law else None,
        levels=levels,
    )


def _facts(config: SimulateConfig, specimen: Specimen) -> dict[str, object]:
    """Return what the record says of laws and files."""
    snr = None if config.noise == "none" or config.noise_file else config.effective_snr
    scan = scan_of(config)
    recursion = {"axis": config.scan_axis, **asdict(scan)} if scan else None
    kernel = KERNELS.get(config.defocus)
    scale = kernel.scale * config.defocus_pixels if kernel else None
    blur = {"kernel": config.defocus, "scale_at_steepest_edge_pixels": scale} if kernel else None
    file = described_file(config.noise_file) if config.noise_file else None
    return {"snr": snr, "noise_file": file, "noise_correlation": recursion, "defocus": blur, **specimen.facts}
