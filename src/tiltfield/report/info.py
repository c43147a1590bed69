"""What a file holds, what the machine has, and what a reconstruction would take."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from tiltfield.config import ReconstructConfig
from tiltfield.report.screen import clock

PACKAGES = ("torch", "numpy", "scipy", "mrcfile", "h5py", "tifffile", "matplotlib")
GIB = 2.0**30


def machine_lines() -> list[str]:
    """Return versions, cores, memory and compute device, one a line."""
    import psutil
    import torch

    import tiltfield

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = psutil.virtual_memory()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    system = f"{platform.system()} {platform.machine()}"
    return [
        f"tiltfield {tiltfield.__version__}, Python {platform.python_version()}, {system}",
        f"packages  {versions}",
        f"cores     {os.cpu_count()}, {torch.get_num_threads()} threads used by default",
        f"memory    {memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB",
        f"device    {device}",
    ]


def series_lines(path: Path, config: ReconstructConfig) -> list[str]:
    """Return what a tilt series holds, where each fact came from, and the forecast of memory and time.

    Args:
        path: the series.
        config: how it would be read and reconstructed.

    Raises:
        InputError: if it cannot be read.
    """
    from tiltfield.io import load
    from tiltfield.reconstruct import forecast

    options = config.model_dump(include={"angles", "tilt_axis", "pixel_size_nm", "bin"})
    series = load(path, **options)
    cost = forecast(series.images.shape, config)
    needs = f"about {cost.memory_bytes / GIB:.1f} GiB of memory and {clock(cost.seconds)} (h:mm:ss or m:ss)"
    how = f"{config.method}, {config.preset}" if config.method == "neural" else config.method
    return [*series.summary(), f"reconstructing it ({how}) takes {needs}"]
