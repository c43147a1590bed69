"""`tiltfield batch`: many series, and one table of how they fared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from tiltfield.cli_flags import ReconstructFlags, Switch, merged
from tiltfield.config import read_yaml

if TYPE_CHECKING:
    from tiltfield.batch.many import BatchResult

_UNFINISHED, _STOPPED = 1, 130  # exit codes


def batch(
    *series: Path,
    out: Path,
    scheduler: str = "local",
    workers: int | None = None,
    config: Path | None = None,
    quiet: Switch = False,
    flags: Annotated[ReconstructFlags | None, Parameter(name="*")] = None,
) -> None:
    """Reconstruct many tilt series, one at a time on each worker of a Dask scheduler.

    Every run is an ordinary one, in a folder of its own. What is finished is skipped and what was cut off goes on: an
    interrupted batch is continued by the same command.

    Args:
        series: tilt series as of reconstruct, each with its angles beside it; patterns in quotes; .txt lists of paths
        out: folder for the folders of the runs, and the table summary.csv
        scheduler: local (this machine), the address of a Dask scheduler, or slurm:CONFIG.yaml
        workers: series at a time on this machine; as many as there are GPUs, or else cores, if not given
        config: YAML file of settings, such as a run's config.yaml; flags go before it
        quiet: print nothing but errors
        flags: the settings, the same for every series
    """
    from tiltfield.batch.board import Board
    from tiltfield.batch.many import BatchRequest, run_batch
    from tiltfield.runfolder import take_series

    _, values = take_series(read_yaml(config) if config else {}, str(config))
    settings = merged(ReconstructFlags, values, str(config), flags)
    try:
        with Board(quiet=quiet) as board:
            result = run_batch(BatchRequest(out, series, settings, scheduler, workers), board)
    except KeyboardInterrupt:  # before or after the series ran, or a second time
        _end(f"stopped: {out} holds what is done; go on with the same command", _STOPPED)
    except OSError as error:
        _end(f"the batch came to an end ({error}): {out} holds what is done; go on with the same command", _UNFINISHED)
    _conclude(result, out, quiet)


def _conclude(result: BatchResult, out: Path, quiet: bool) -> None:
    """Say what became of the series, and exit with 1 if any is not finished."""
    from tiltfield.batch.table import SUMMARY

    left, table = result.unfinished, out / SUMMARY
    if result.stopped:
        _end(f"stopped with {len(left)} of {len(result.rows)} series to go: go on with the same command", _STOPPED)
    if left:
        named = "; ".join(f"{Path(row.series).name} {row.outcome}" for row in left[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        _end(f"{len(left)} of {len(result.rows)} series are not finished: {named}{more}; see {table}", _UNFINISHED)
    if not quiet:
        print(f"all {len(result.rows)} series are finished: see {table}")


def _end(message: str, code: int) -> None:
    Console(stderr=True).print(Text(f"tiltfield: {message}", style="red"), soft_wrap=True)
    sys.exit(code)
