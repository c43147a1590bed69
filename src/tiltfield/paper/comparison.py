"""The whole comparison: runs studies one after another, and writes a table, the figures and a picture of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tiltfield.errors import InputError
from tiltfield.jsontext import as_json
from tiltfield.observe import Observer
from tiltfield.paper.noise_study import EXPECTED_SECONDS, NoiseRunner
from tiltfield.paper.options import Options
from tiltfield.paper.rows import NOISE_STUDY, STUDIES
from tiltfield.paper.store import write_text
from tiltfield.paper.study import Meter, Runner
from tiltfield.paper.table import Report, as_markdown


def run_studies(
    names: Sequence[str], folder: Path, options: Options, observer: Observer, only: str = ""
) -> Iterator[str]:
    """Run studies; what is there already, of any study in the folder, is not run again.

    A study that is interrupted leaves its table of what there is.

    Args:
        names: of :data:`tiltfield.paper.rows.NAMES`.
        folder: gets NAME.md, NAME.json and NAME.png of each study, and keeps results.jsonl, volumes and cells.
        options: the set-up.
        observer: told of everything.
        only: run no rows but those with this in their title; the tables have what else is there.

    Yields:
        the table of each study, Markdown.

    Raises:
        InputError: if the folder cannot be written to.
    """
    _make(folder)
    runner, noise = Runner(folder, options, observer), NoiseRunner(folder, options, observer)
    units = [unit for name in names if name in STUDIES for unit in runner.units(STUDIES[name], only)]
    if only and not units and NOISE_STUDY not in names:
        raise InputError(f"no row of {', '.join(names)} has '{only}' in its title; the tables name all rows")
    expected = [runner.expected(unit) for unit in runner.missing(units)]
    expected += [EXPECTED_SECONDS] * (len(noise.missing()) if NOISE_STUDY in names else 0)
    meter = Meter(expected, observer)
    for name in names:
        yield _noise(noise, meter) if name == NOISE_STUDY else _volumes(name, runner, meter, only)


def _volumes(name: str, runner: Runner, meter: Meter, only: str) -> str:
    try:
        for unit in runner.missing(runner.units(STUDIES[name], only)):
            if runner.run(unit, meter):
                meter.finish(runner.expected(unit))
            _write(runner.folder, runner.report(name))
    finally:
        text = _write(runner.folder, runner.report(name))
        runner.draw(name, runner.folder / f"{name}.png")
    return text


def _noise(noise: NoiseRunner, meter: Meter) -> str:
    reason = "stopped before it"
    try:
        for seed in noise.missing():
            noise.run(seed, partial(_show, meter, f"noise models, seed {seed}"))
            meter.finish(EXPECTED_SECONDS)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # what goes wrong with one study ends no other
        reason = f"failed: {type(error).__name__}: {error}"
    finally:
        text = _write(noise.folder, noise.report(reason))
    return text


def _show(meter: Meter, stage: str, done: float) -> None:
    meter.show(stage, done * EXPECTED_SECONDS)


def _write(folder: Path, report: Report) -> str:
    """Write a report as JSON and Markdown, and return the latter."""
    if not (folder / report["picture"]).exists() and all(not row["seeds"] for row in report["rows"]):
        report = {**report, "picture": ""}
    text = as_markdown(report)
    write_text(folder / f"{report['study']}.json", as_json(report, indent=2) + "\n")
    write_text(folder / f"{report['study']}.md", text)
    return text


def _make(folder: Path) -> None:
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder}: {error.strerror}; give another as --out") from None
