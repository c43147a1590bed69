"""Everything that changes during a fit."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tiltfield import ranks
from tiltfield.contrast import Contrast
from tiltfield.fields.base import Field
from tiltfield.kernels.window import WindowAdam
from tiltfield.noise.base import NoiseModel

_POSITION = (
    *("step", "queue", "elapsed", "held_sum", "held_square", "held_count"),
    *("best_held", "best_pass", "best", "curve", "halvings"),
)


@dataclass(eq=False)
class FitState:
    """Everything that changes during a fit: parameters, optimiser, random numbers, position, best so far."""

    field: Field
    noise: NoiseModel
    contrast: Contrast
    optimisers: list[torch.optim.Optimizer]
    generator: torch.Generator
    step: int = 0
    queue: list[int] = field(default_factory=list)
    elapsed: float = 0.0
    held_sum: float | Tensor = 0.0  # the sums stay on the device until the pass ends
    held_square: float | Tensor = 0.0
    held_count: int = 0
    best_held: float = math.inf
    best_pass: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    began: float = 0.0  # on the clock of time.perf_counter
    told: tuple[float, bool] | None = None  # in the last step, if several share it: the time, and whether to stop
    halvings: int = 0  # of the steps' size, as the GPU's memory was short
    interrupted: dict[str, Any] | None = None  # the state_dict of the moment, before the best parameters were restored

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Return what has parameters, by name."""
        return {"field": self.field, "noise": self.noise, "contrast": self.contrast}

    @property
    def finite(self) -> bool:
        """Whether all parameters of the field are numbers: one that is not need not show in the loss."""
        return math.isfinite(sum(parameter.detach().sum() for parameter in self.field.parameters()))

    def descend(self, losses: Iterable[Tensor], factor: float, figures: Sequence[Tensor] = ()) -> list[float]:
        """Take one step down the sum of the losses, unless it is not finite: then the parameters would be lost with it.

        Args:
            losses: scalars with gradient, each made and freed before the next; of this process's share of the step.
            factor: on the learning rates.
            figures: scalars of this share that are to be known too; with the loss, as each look waits for the device.

        Returns:
            the sum of the losses, then the figures, of all processes.
        """
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        parts = []
        for loss in losses:
            loss.backward()
            parts.append(loss.detach().double())
        told = torch.stack([sum(parts[1:], parts[0]), *(figure.detach().double() for figure in figures)])
        values, self.told = _pooled(self.optimisers, told, self.began)
        if math.isfinite(values[0]):
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group.setdefault("base", group["lr"]) * (factor if group.get("falls", True) else 1.0)
                optimiser.step()
            self.field.project_()
        self.step += 1
        return values

    def judge(self, log_prob: Tensor) -> None:
        """Count held-out pixels towards the judgement of this pass.

        Args:
            log_prob: of held-out pixels, shape (n,).
        """
        kept = log_prob.detach().double()
        self.held_sum = self.held_sum - kept.sum()
        self.held_square = self.held_square + kept.square().sum()
        self.held_count += len(kept)

    def keep_best(self) -> None:
        """Remember the parameters of this moment."""
        self.best = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items()}

    def restore_best(self) -> None:
        """Go back to the best parameters, if any were kept."""
        for name, values in self.best.items():
            self.modules[name].load_state_dict(values)

    def interrupt(self) -> None:
        """Keep the state of this moment for :meth:`state_dict`: all that :meth:`restore_best` changes is copied."""
        modules = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items() if self.best}
        self.interrupted = {**self.state_dict(), **modules}

    def settle(self) -> None:
        """Go back to the best parameters, and forget what only a fit that goes on has need of."""
        self.restore_best()
        self.best, self.optimisers = {}, []

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that :meth:`load_state_dict` takes, from which the fit can go on.

        They are those of the fit, not copies, which large tables would have no room for: the next step changes them.
        """
        if self.interrupted is not None:
            return self.interrupted
        return {
            **{name: module.state_dict() for name, module in self.modules.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "generator": self.generator.get_state(),
            **{name: copy.copy(getattr(self, name)) for name in _POSITION},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the values of :meth:`state_dict`, which stay as they are."""
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(copy.deepcopy(values))  # torch would keep the tensors themselves
        self.generator.set_state(state["generator"])
        for name in _POSITION:
            setattr(self, name, copy.deepcopy(state[name]))
        if ranks.index() > 0:  # the first process goes on with the sums of the pass
            self.held_sum, self.held_square, self.held_count = 0.0, 0.0, 0


def _pooled(
    optimisers: Iterable[torch.optim.Optimizer], told: Tensor, began: float
) -> tuple[list[float], tuple[float, bool] | None]:
    """Return figures summed over the processes that share the step, and what `FitState.told` is to be.

    The gradients are left summed likewise. All goes in one exchange, as each is one more time to wait for the slowest.
    """
    if ranks.count() == 1:
        return told.tolist(), None
    windowed = [optimiser for optimiser in optimisers if isinstance(optimiser, WindowAdam)]
    groups = [group for optimiser in optimisers if optimiser not in windowed for group in optimiser.param_groups]
    plain = [parameter for group in groups for parameter in group["params"]]
    wide = [gradient for optimiser in windowed for gradient in optimiser.join()]
    there = [float(parameter.grad is not None) for parameter in plain]
    for parameter in plain:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    news = told.new_tensor([*ranks.news(time.perf_counter() - began), *there])
    both = torch.cat([told, news]).float()  # as the gradients are
    ranks.add([both, *(parameter.grad for parameter in plain), *wide])
    figures = both.tolist()  # at once, as this waits for the device
    values, (seconds, asked, *counts) = figures[: len(told)], figures[len(told) :]
    for parameter, count in zip(plain, counts, strict=True):
        if not count:
            parameter.grad = None
    return values, (seconds, asked > 0)
