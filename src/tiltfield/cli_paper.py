"""`tiltfield paper`: the paper's comparison, re-run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tiltfield.config import Device

_Switch = Annotated[bool, Parameter(show_default=False)]
_STOPPED = 130  # the exit code of a command that was stopped


def paper(
    study: str,
    /,
    *,
    out: Path,
    size: int | None = None,
    seeds: int | None = None,
    budget: float | None = None,
    steps: int | None = None,
    rows: Annotated[str, Parameter(show_default=False)] = "",
    device: Device = "auto",
    quick: _Switch = False,
    quiet: _Switch = False,
) -> None:
    """Run a study of the paper on synthetic cells: a table with the published figures beside, JSON, and a picture.

    What is there already is not run again, whichever study it was for: an interrupted study goes on with the same
    command.

    Args:
        study: main, noise, field-capacity, flow-capacity, defocus, losses, denoisers-wbp, denoisers-l2, explicit; all
        out: folder for STUDY.md, STUDY.json, STUDY.png, and the results, cells and volumes behind them
        size: edge of the cells, voxels; 96 if not given
        seeds: number of cells; 3 if not given
        budget: seconds for each fit of a model of the paper, of which tiltfield gets a tenth; 480 if not given
        steps: steps of each fit of a model of the paper; then there is no limit on time unless budget is given
        rows: run only rows with this in their title, such as tiltfield
        device: where to compute
        quick: 32 voxels, one cell and 8 seconds where nothing else is given
        quiet: print nothing but the tables
    """
    from tiltfield.paper.comparison import run_studies
    from tiltfield.paper.options import settled
    from tiltfield.paper.rows import studies_named
    from tiltfield.report import Screen

    names = studies_named(study)
    options = settled(size, seeds, budget, steps, device, quick=quick)
    tables = []
    try:
        with Screen(quiet=quiet) as screen:
            tables = list(run_studies(names, out, options, screen, rows))
    except KeyboardInterrupt:
        print(f"stopped: {out} holds what is done; go on with the same command")
        raise SystemExit(_STOPPED) from None
    print("\n".join(tables))
    if not quiet:
        print(f"wrote {', '.join(str(out / f'{name}.md') for name in names)}, with .json and .png beside")
