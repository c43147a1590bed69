"""Clean 3D volumes from noisy STEM tilt series.

>>> import tiltfield as tf
>>> series = tf.load("x.mrc", angles="x.rawtlt")        # doctest: +SKIP
>>> result = tf.reconstruct(series)                     # doctest: +SKIP
>>> result.volume.save("x_rec.mrc")                     # doctest: +SKIP

The names below are imported when first used, so that ``import tiltfield`` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiltfield.config import ReconstructConfig as ReconstructConfig
    from tiltfield.config import SimulateConfig as SimulateConfig
    from tiltfield.errors import InputError as InputError
    from tiltfield.evaluate import evaluate as evaluate
    from tiltfield.io import load as load
    from tiltfield.observe import Observer as Observer
    from tiltfield.reconstruct import Reconstruction as Reconstruction
    from tiltfield.reconstruct import reconstruct as reconstruct
    from tiltfield.report.record import Record as Record
    from tiltfield.run import open_run as open_run
    from tiltfield.series import TiltSeries as TiltSeries
    from tiltfield.simulate import Simulation as Simulation
    from tiltfield.simulate import simulate as simulate
    from tiltfield.volume import Volume as Volume

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "Observer": "observe",
    "ReconstructConfig": "config",
    "Reconstruction": "result",
    "Record": "report.record",
    "SimulateConfig": "config",
    "Simulation": "simulate",
    "TiltSeries": "series",
    "Volume": "volume",
    "evaluate": "evaluate",
    "load": "io",
    "open_run": "run",
    "reconstruct": "reconstruct",
    "simulate": "simulate",
}

__all__ = ["__version__", *_HOMES]


class _Package(ModuleType):
    """The package: ``tiltfield.reconstruct`` stays the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tiltfield' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tiltfield.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
