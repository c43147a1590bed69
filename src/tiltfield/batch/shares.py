"""How many workers this machine has room for, and what each of them gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.extras import package

ROOM = 0.9  # of the free memory


@dataclass(frozen=True)
class Share:
    """What one worker of this machine gets.

    Attributes:
        threads: of the processor.
        gpu: what CUDA_VISIBLE_DEVICES is for it, or None to leave it as it is.
    """

    threads: int
    gpu: str | None = None


def shares_for(series: Sequence[Path], config: ReconstructConfig, workers: int | None) -> tuple[list[Share], str]:
    """Return what the workers get, and that in words.

    One for each GPU; else one for each core, as far as there is memory for so many of the largest series: two fits of
    a thread each get more done than one of two threads, and suffer less where another program uses the cores too
    (docs/log.md).

    Args:
        series: what there is to do.
        config: settings.
        workers: how many are asked for; None: as said.
    """
    cores = package("dask.system", "cluster", "tiltfield batch").CPU_COUNT
    devices = gpus(config.device)
    room, needs = _room(series, config)
    wanted = len(devices) or min(cores // (config.threads or 1), room)
    n_workers = max(1, min(workers or wanted, len(series)))
    shares = shares_of(n_workers, cores, devices)
    gpu = f" and GPU {', '.join(dict.fromkeys(share.gpu for share in shares if share.gpu))} in turn" if devices else ""
    threads = config.threads or shares[0].threads
    words = f"{_count(n_workers, 'worker')} on this machine, {_count(threads, 'thread')} each{gpu}{needs}"
    return shares, words + (", more than are free for so many workers" if n_workers > room else "")


def shares_of(n_workers: int, cores: int, devices: Sequence[str]) -> list[Share]:
    """Return what each worker gets: an equal share of the cores, and a GPU in turn if there are any.

    Args:
        n_workers: ≥ 1.
        cores: that may be used.
        devices: as :func:`gpus` returns them.
    """
    threads = max(1, cores // n_workers)
    return [Share(threads, devices[k % len(devices)] if devices else None) for k in range(n_workers)]


def gpus(device: str) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES is to be for each GPU that may be used.

    Args:
        device: "auto", "cpu" or "cuda".
    """
    if device == "cpu":
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    return [name.strip() for name in names[: torch.cuda.device_count()]]


def _room(series: Sequence[Path], config: ReconstructConfig) -> tuple[int, str]:
    """Return for how many runs of the largest series there is memory, one at least, and what one needs, in words."""
    import psutil

    from tiltfield.forecast import GIB, forecast
    from tiltfield.io import series_shape

    largest = max(series, key=lambda path: path.stat().st_size if path.is_file() else 0)
    try:
        shape = series_shape(largest, **{name: v for name, v in config.reading.items() if name != "pixel_size_nm"})
    except InputError:  # its own row will tell
        return len(series), ""
    needed = forecast(shape, config).memory_bytes
    room = int(ROOM * psutil.virtual_memory().available / needed)
    return max(1, room), f"; {largest.name} needs about {needed / GIB:.1f} GiB of memory"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
