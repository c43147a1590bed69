"""What a file holds, what the machine has, and what a reconstruction would take."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import tiltfield
from tiltfield.config import ReconstructConfig
from tiltfield.series import TiltSeries

if TYPE_CHECKING:
    from tiltfield.forecast import Forecast

PACKAGES = ("torch", "numpy", "scipy", "mrcfile", "h5py", "tifffile", "zarr", "matplotlib")
GIB = 2.0**30


@dataclass(frozen=True)
class Machine:
    """What this machine has.

    Attributes:
        tiltfield: version.
        python: version.
        system: name and kind of processor.
        packages: versions by name.
        cores: of the processor.
        threads: used unless said otherwise.
        memory_free_bytes: free.
        memory_bytes: in all.
        device: where fits are computed.
    """

    tiltfield: str
    python: str
    system: str
    packages: Mapping[str, str]
    cores: int
    threads: int
    memory_free_bytes: int
    memory_bytes: int
    device: str

    @classmethod
    def here(cls) -> Self:
        """Look at this machine."""
        import psutil
        import torch

        memory = psutil.virtual_memory()
        return cls(
            tiltfield=tiltfield.__version__,
            python=platform.python_version(),
            system=f"{platform.system()} {platform.machine()}",
            packages={name: importlib.metadata.version(name) for name in PACKAGES},
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            memory_free_bytes=memory.available,
            memory_bytes=memory.total,
            device=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only",
        )

    def figures(self) -> dict[str, Any]:
        """Return everything by name, JSON-ready."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it for reading."""
        return [
            f"tiltfield {self.tiltfield}, Python {self.python}, {self.system}",
            f"packages  {', '.join(f'{name} {version}' for name, version in self.packages.items())}",
            f"cores     {self.cores}, {self.threads} threads used by default",
            f"memory    {self.memory_free_bytes / GIB:.1f} GiB free of {self.memory_bytes / GIB:.1f} GiB",
            f"device    {self.device}",
        ]


@dataclass(frozen=True, eq=False)
class Prospect:
    """What a tilt series holds, and what reconstructing it takes.

    Attributes:
        series: as loaded.
        how: the method.
        cost: forecast, the time by some steps on this machine where they fit into its memory.
        problem: what does not fit, in words, and what would; empty if all does.
    """

    series: TiltSeries
    how: str
    cost: Forecast
    problem: str

    @classmethod
    def of(cls, path: Path, config: ReconstructConfig) -> Self:
        """Read a series and forecast its reconstruction.

        Args:
            path: the series.
            config: how it would be read and reconstructed.

        Raises:
            InputError: if it cannot be read.
        """
        from tiltfield.forecast import forecast, knowing, too_much
        from tiltfield.io import load
        from tiltfield.reconstruct import expected

        series = load(path, **config.reading)
        shape, known = series.images.shape, knowing(config, series.pixel_size_nm)
        problem = too_much(shape, known)
        cost = forecast(shape, known) if problem else expected(shape, known)
        how = f"{config.method}, {config.preset}" if config.method == "neural" else config.method
        return cls(series, how, cost, problem)

    def figures(self) -> dict[str, Any]:
        """Return everything by name, JSON-ready."""
        series = self.series
        return {
            "name": series.name,
            "shape": series.images.shape,
            "angles_deg": series.angles_deg,
            "pixel_size_nm": series.pixel_size_nm,
            "range": (series.images.min(), series.images.max()),
            "quantum": series.quantum,
            "masked_pixels": 0 if series.valid is None else int((~series.valid).sum()),
            "sources": series.sources,
            "method": self.how,
            "memory_bytes": self.cost.memory_bytes,
            "seconds": self.cost.seconds,
        }

    def lines(self) -> list[str]:
        """Return it for reading, with the source of each fact."""
        lines = [*self.series.summary(), f"reconstructing it ({self.how}) takes {self.cost}"]
        return [*lines, f"that is too much: {self.problem}"] if self.problem else lines
