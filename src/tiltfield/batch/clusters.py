"""Workers for a batch: of this machine, of a Dask scheduler that is running, or of jobs on a SLURM cluster."""

from __future__ import annotations

import inspect
import logging
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tiltfield.batch.shares import Share
from tiltfield.config import read_yaml
from tiltfield.errors import InputError, nearest
from tiltfield.extras import package

LOCAL, SLURM = "local", "slurm:"
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 10
CLOSE_SECONDS = 10
NEEDED = ("cores", "memory", "jobs")  # of the settings of a SLURM cluster
_OF_CLUSTER = ("security", "protocol", "scheduler_options", "shared_temp_directory")


@dataclass(frozen=True, eq=False)
class Workers:
    """Who does the work of a batch.

    Attributes:
        client: of Dask.
        adjust: called now and then with the number of series left and the workers that are not needed any more.
    """

    client: Any
    adjust: Callable[[int, Sequence[str]], None] = lambda left, idle: None


@contextmanager
def opened(scheduler: str, shares: Sequence[Share], n_series: int) -> Iterator[Workers]:
    """Give workers, and close what was opened for them at the end.

    Args:
        scheduler: "local", the address of a scheduler, or "slurm:" and a file of settings.
        shares: of the workers of this machine, if it is "local".
        n_series: how many workers could be used at most.

    Raises:
        InputError: if Dask is missing, or there is no such scheduler, or the settings are not good.
    """
    dask = package("dask", "cluster", "tiltfield batch")
    package("distributed", "cluster", "tiltfield batch")
    quiet = {"distributed.scheduler.worker-ttl": None, "distributed.admin.tick.limit": "1h"}
    with _silent(), dask.config.set(quiet):
        if scheduler == LOCAL:
            make = _local(shares)
        elif scheduler.startswith(SLURM):
            make = _slurm(Path(scheduler.removeprefix(SLURM)), n_series)
        else:
            make = _running(scheduler)
        with make as workers:
            yield workers


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Dask's logs, which tell of every worker that comes and goes, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


# ---- this machine --------------------------------------------------------------------------------------------------


@contextmanager
def _local(shares: Sequence[Share]) -> Iterator[Workers]:
    """Give workers of this machine, which nothing outside it can reach."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    scheduler = {
        "cls": Scheduler,
        "options": {"host": LOOPBACK, "port": 0, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
    }
    workers = {k: {"cls": Nanny, "options": _nanny(share)} for k, share in enumerate(shares)}
    with (
        SpecCluster(scheduler=scheduler, workers=workers, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        yield Workers(client)


def _nanny(share: Share) -> dict[str, Any]:
    """Return the options of what starts a worker, and starts it again when it dies."""
    gpu = {} if share.gpu is None else {"CUDA_VISIBLE_DEVICES": share.gpu}
    return {
        "host": LOOPBACK,
        "nthreads": share.threads,
        "env": gpu,
        "memory_limit": 0,  # whether a series fits is asked when it begins
        "preload": ["tiltfield.batch.preload"],
        "silence_logs": logging.CRITICAL,
        "death_timeout": 60,
    }


# ---- a scheduler that is running -----------------------------------------------------------------------------------


@contextmanager
def _running(address: str) -> Iterator[Workers]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} ({error}): give local, the address of a scheduler such as "
            "tcp://host:8786, or slurm:CONFIG.yaml"
        ) from None
    with client:
        yield Workers(client)


# ---- SLURM ---------------------------------------------------------------------------------------------------------


@contextmanager
def _slurm(path: Path, n_series: int) -> Iterator[Workers]:
    from distributed import Client

    jobs, options = slurm_options(path)
    if shutil.which("sbatch") is None:
        raise InputError(f"--scheduler {SLURM}{path} needs sbatch, which is not here: run it on a login node")
    cluster = slurm_cluster(options, str(path))
    try:
        cluster.sync(_ask, cluster, min(jobs, n_series))
        with Client(cluster) as client:

            def adjust(left: int, idle: Sequence[str]) -> None:
                if idle:
                    client.retire_workers(list(idle), close_workers=True)
                cluster.scale(jobs=min(jobs, left))  # asks again for those whose time was up

            yield Workers(client, adjust)
    finally:
        with suppress(AssertionError):  # about jobs that SLURM did not take
            cluster.close()


async def _ask(cluster: Any, jobs: int) -> None:
    """Submit jobs, and refuse what sbatch refuses."""
    cluster.scale(jobs=jobs)
    try:
        await cluster
    except RuntimeError as error:
        raise InputError(f"SLURM did not take the job: {' '.join(str(error).split())}") from None
    if any(worker.job_id is None for worker in cluster.workers.values()):
        raise InputError("SLURM did not take the job: sbatch failed")


def slurm_options(path: Path) -> tuple[int, dict[str, Any]]:
    """Return how many jobs there may be at a time, and what ``dask_jobqueue.SLURMCluster`` is told.

    Args:
        path: YAML file of its parameters, and of jobs.

    Raises:
        InputError: if it cannot be read, names what there is not, or lacks what is needed.
    """
    jobqueue = _jobqueue()
    values = read_yaml(path)
    known = {"jobs", *_OF_CLUSTER, *_job_parameters(jobqueue.SLURMCluster.job_cls)} - {"scheduler", "name"}
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown setting '{key}'{nearest(key, known)}")
    if lacking := [key for key in NEEDED if key not in values]:
        raise InputError(f"{path}: {', '.join(lacking)} not given: say {_EXAMPLE}")
    jobs = values.pop("jobs")
    if not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"{path}: jobs: expected how many jobs there may be at a time, got {jobs!r}")
    arguments = values.get("worker_extra_args", [])
    if not isinstance(arguments, list):
        raise InputError(f"{path}: worker_extra_args: expected a list, got {arguments!r}")
    ours = ["--memory-limit", "0", "--no-dashboard"]  # SLURM keeps an eye on the memory
    defaults = {"processes": 1, "scheduler_options": {"dashboard": False}}
    return jobs, {**defaults, **values, "worker_extra_args": [*ours, *map(str, arguments)]}


_EXAMPLE = "cores: 8 and memory: 32GB of a job, and jobs: 4 for how many there may be at a time"


def _jobqueue() -> ModuleType:
    """Import dask_jobqueue, and undo that its import lets Ctrl-C end the program."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return package("dask_jobqueue", "cluster", "--scheduler slurm")
    finally:
        signal.signal(signal.SIGINT, before)


def _job_parameters(job: type) -> set[str]:
    """Return the names of what a kind of job can be told, by itself or by what it is derived from."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    makers = [vars(cls)["__init__"] for cls in job.__mro__[:-1] if "__init__" in vars(cls)]
    every = [p for maker in makers for p in inspect.signature(maker).parameters.values()]
    return {p.name for p in every if p.kind in kinds} - {"self"}


def slurm_cluster(options: Mapping[str, Any], source: str) -> Any:
    """Return the cluster, which has not asked for a job yet.

    Args:
        options: as :func:`slurm_options` returns them.
        source: their file, for messages.

    Raises:
        InputError: if it does not take them.
    """
    jobqueue = _jobqueue()
    of_job = {name: value for name, value in options.items() if name not in _OF_CLUSTER}
    try:
        jobqueue.SLURMCluster.job_cls("tcp://scheduler:8786", name="worker", **of_job)  # what is wrong is told at once
        return jobqueue.SLURMCluster(**options)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())}") from None
