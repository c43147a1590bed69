"""Simulated cells kept as arrays on disk, so that fits in processes of their own read what they need of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from tiltfield.config import SimulateConfig
from tiltfield.paper import RESULTS
from tiltfield.paper.options import cell_key
from tiltfield.paper.store import key_name
from tiltfield.series import TiltSeries
from tiltfield.simulate import Simulation, simulate
from tiltfield.simulate.projection import Progress

ARRAYS = ("clean", "noisy", "truth", "inside", "angles_deg")


def cell_folder(made: SimulateConfig, folder: Path, progress: Progress | None = None) -> Path:
    """Return the folder of a cell's arrays; simulate it if they are not there yet.

    Args:
        made: its settings.
        folder: of all cells; large volumes are put together there too.
        progress: called as ``progress(stage, fraction)``.
    """
    kept = folder / key_name({"results": RESULTS, **cell_key(made)})
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _keep(simulate(made, progress, folder), kept)
    return kept


def _keep(simulation: Simulation, target: Path) -> None:
    """Write the arrays, all or none of them."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        for name in ARRAYS:
            np.save(part / f"{name}.npy", getattr(simulation, name))
        if not target.exists():  # another process may have been as quick
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def array(kept: Path, name: str) -> np.ndarray:
    """Return one of `ARRAYS` of a cell, mapped from its file.

    Args:
        kept: the cell's folder.
        name: which.
    """
    return np.asarray(np.load(kept / f"{name}.npy", mmap_mode="r"))


def series_of(kept: Path, images: str) -> TiltSeries:
    """Return the images of a cell as a tilt series of 1 nm pixels, all that a method is told.

    Args:
        kept: the cell's folder.
        images: noisy or clean.
    """
    return TiltSeries(
        np.load(kept / f"{images}.npy"),
        np.load(kept / "angles_deg.npy"),
        1.0,
        name=f"synthetic cell, {images}",
        sources={"angles": "simulated"},
    )
