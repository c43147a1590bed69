"""A fitted noise model as a small file of JSON: what rebuilds it, its parameters, and what it was fitted to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tiltfield.errors import InputError
from tiltfield.noise.base import NoiseModel, Recording
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.paper import PaperFlow
from tiltfield.noise.poisson import Poisson
from tiltfield.noise.scan import Scan
from tiltfield.replacing import atomic

FORMAT = "tiltfield noise 1"
Options = dict[str, Any]


@dataclass(frozen=True, eq=False)
class NoiseFile:
    """A fitted noise model and where it holds.

    Attributes:
        model: in the units of the images it was fitted to.
        low: smallest clean intensity of those images.
        high: largest, > low.
        about: how it was fitted: sources, figures; JSON-ready.
    """

    model: NoiseModel
    low: float
    high: float
    about: Mapping[str, Any] = field(default_factory=dict)


def save_noise(path: str | Path, noise: NoiseFile) -> Path:
    """Write a fitted noise model, under a temporary name, then renamed.

    Args:
        path: the file, usually with the suffix .json.
        noise: what to write.

    Returns:
        the path.

    Raises:
        InputError: if the model is of a kind that is not kept in files, or the folder cannot be written to.
    """
    path = Path(path)
    kind, options = _described(noise.model)
    values = {name: tensor.tolist() for name, tensor in noise.model.state_dict().items()}
    content = {
        "format": FORMAT,
        "model": kind,
        "options": options,
        "clean_range": [noise.low, noise.high],
        "about": dict(noise.about),
        "parameters": values,
    }
    try:
        with atomic(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write the noise model {path}: {error.strerror}") from None
    return path


def load_noise(path: str | Path) -> NoiseFile:
    """Read a fitted noise model.

    Args:
        path: a file of :func:`save_noise`.

    Raises:
        InputError: if it cannot be read or is not such a file.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the noise model {path}: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a noise model of tiltfield; make one with 'tiltfield noise fit'")
    try:
        model = _built(content["model"], dict(content["options"]))
        state = model.state_dict()
        values = {name: torch.tensor(v, dtype=state[name].dtype) for name, v in content["parameters"].items()}
        model.load_state_dict(values)
        low, high = (float(v) for v in content["clean_range"])
        _check(values, low, high)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the noise model is damaged ({error}); fit it anew") from None
    return NoiseFile(model, low, high, content.get("about", {}))


def _check(values: Mapping[str, torch.Tensor], low: float, high: float) -> None:
    """Refuse what can be read but is no law."""
    for name, value in values.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} is not finite")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"the clean range is {low:g} to {high:g}")


def _described(model: NoiseModel) -> tuple[str, Options]:
    """Return the kind of a model and what rebuilds it, parameters apart."""
    recording = {"recording": asdict(model.recording)}
    if isinstance(model, Scan):
        kind, inner = _described(model.marginal)
        return f"scan {kind}", {"axis": model.axis, "order": model.order, "marginal": inner}
    if isinstance(model, RadialFlow):
        own = {"low": model.low, "high": model.high, "n_layers": 2 * model.n_pairs}
        return "flow", {**own, "scale": _described(model.scale)[1], **recording}
    if isinstance(model, PoissonGaussian):
        return "poisson-gaussian", {"dark": model.dark, "misfit": model.misfit, **recording}
    if isinstance(model, Gaussian):
        return "gaussian", recording
    if isinstance(model, PaperFlow):
        return "flow-paper", {"low": model.low, "high": model.high, "n_layers": 2 * len(model.free)}
    if isinstance(model, Poisson):
        return "poisson", {}
    raise InputError(f"a noise model of the kind {type(model).__name__} is not kept in files")


def _built(kind: str, options: Options) -> NoiseModel:
    """Return a model of a kind, its parameters still those of the start."""
    if kind.startswith("scan "):
        marginal = _built(kind.removeprefix("scan "), options.pop("marginal"))
        return Scan(marginal, **options)
    if kind not in _BUILDERS:
        raise ValueError(f"unknown kind '{kind}'")
    if "recording" in options:
        options["recording"] = Recording(**options["recording"])
    return _BUILDERS[kind](options)


def _flow(options: Options) -> RadialFlow:
    scale = _built("poisson-gaussian", options.pop("scale"))
    assert isinstance(scale, PoissonGaussian)
    return RadialFlow(scale, generator=torch.Generator(), **options)


_BUILDERS: dict[str, Callable[[Options], NoiseModel]] = {
    "flow": _flow,
    "poisson-gaussian": lambda options: PoissonGaussian(1.0, 1.0, **options),
    "gaussian": lambda options: Gaussian(1.0, **options),
    "flow-paper": lambda options: PaperFlow(1.0, generator=torch.Generator(), **options),
    "poisson": lambda options: Poisson(1.0, 0.0, **options),
}
