"""The command line: flags come from the settings in :mod:`tiltfield.config`; heavy imports wait for a command."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from tiltfield import __version__, ranks
from tiltfield.cli_batch import batch
from tiltfield.cli_convert import convert
from tiltfield.cli_denoise import denoise
from tiltfield.cli_evaluate import evaluate
from tiltfield.cli_flags import InfoFlags, ReconstructFlags, SimulateFlags, Switch, given, merged
from tiltfield.cli_noise import noise_app
from tiltfield.cli_paper import paper
from tiltfield.cli_report import report
from tiltfield.cli_view import view
from tiltfield.config import ReconstructConfig, SimulateConfig, read_yaml
from tiltfield.errors import InputError
from tiltfield.settings import nearest_choice

if TYPE_CHECKING:
    from tiltfield.reconstruct import Reconstruction

EXIT_BUG, EXIT_INPUT, EXIT_STOPPED = 1, 2, 130
LOOK, BUSY = 0.1, 25.0  # seconds of a look at what others do, and per cent of a processor that count as something
PATIENCE = 30.0  # seconds that other processes give the first to say what is wrong

_WORK, _RESULT, _NOISE, _TRIAL, _TOOL = (
    Group.create_ordered(name)
    for name in ("Reconstruct", "Look at the result", "Noise", "Without a microscope", "This program")
)

app = App(
    name="tiltfield",
    help="Clean 3D volumes from noisy STEM tilt series.",
    version=__version__,
    group_commands=_TOOL,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(batch, group=_WORK)
app.command(view, group=_RESULT)
app.command(report, group=_RESULT)
app.command(evaluate, group=_RESULT)
app.command(convert, group=_RESULT)
app.command(denoise, group=_NOISE)
noise_app.group = (_NOISE,)
app.command(noise_app)
app.command(paper, group=_TRIAL)
app.register_install_completion_command(help="Install completion of commands and flags for your shell.")


@app.command(group=_WORK)
def reconstruct(
    series: Path | None = None,
    /,
    *,
    out: Path,
    resume: Switch = False,
    overwrite: Switch = False,
    config: Path | None = None,
    quiet: Switch = False,
    json: Switch = False,
    flags: Annotated[ReconstructFlags | None, Parameter(name="*")] = None,
) -> None:
    """Reconstruct a volume from a tilt series.

    Args:
        series: the tilt series: a stack, a folder of single images, or an .mdoc; docs/files.md lists the formats
        out: folder for the volume, the preview, the figures and the checkpoint
        resume: go on with the run in that folder
        overwrite: replace the run in that folder
        config: YAML file of settings, such as a run's config.yaml; flags go before it
        quiet: print nothing but errors
        json: print metrics.json at the end
        flags: the settings
    """
    from tiltfield.report import Screen
    from tiltfield.run import Request, run
    from tiltfield.runfolder import take_series

    named, values = take_series(read_yaml(config) if config else {}, str(config))
    settings = merged(ReconstructFlags, values, str(config), flags)
    request = Request(out, series or named, settings, resume=resume, overwrite=overwrite)
    follows = ranks.index() > 0
    with Screen(quiet=quiet or follows) as screen:
        result = run(request, screen)
    if follows:
        return
    if json:
        print((out / "metrics.json").read_text(), end="")
    elif not quiet:
        print(_outcome(result, out))


@app.command(group=_TRIAL)
def simulate(
    *,
    out: Path,
    overwrite: Switch = False,
    config: Path | None = None,
    quiet: Switch = False,
    flags: Annotated[SimulateFlags | None, Parameter(name="*")] = None,
) -> None:
    """Simulate a tilt series of a synthetic cell, with its truth.

    Args:
        out: folder for truth.mrc, clean.mrc, noisy.mrc and series.rawtlt
        overwrite: replace the simulation in that folder
        config: YAML file of settings; flags go before it
        quiet: print nothing but errors
        flags: the settings
    """
    from tiltfield.report import Screen
    from tiltfield.simulate.acquisition import simulate as simulate_series
    from tiltfield.simulate.dataset import FILES

    values = merged(SimulateFlags, read_yaml(config) if config else {}, str(config), flags)
    settings = SimulateConfig.parse(values, "settings")
    present = [name for name in FILES if (out / name).exists()]
    if present and not overwrite:
        raise InputError(f"{out} already holds {', '.join(present)}: choose another folder or give --overwrite")
    with Screen(quiet=quiet) as screen:
        simulation = simulate_series(settings, lambda stage, done: screen.progress(stage, done, None, {}), out)
    simulation.save(out, overwrite=overwrite)
    if not quiet:
        print(f"wrote {out}: {len(simulation.angles_deg)} tilts; reconstruct with")
        print(f"  tiltfield reconstruct {out / 'noisy.mrc'} --angles {out / 'series.rawtlt'} --out DIR")


@app.command(group=_TRIAL)
def demo(
    *,
    out: Path = Path("demo"),
    size: int = 96,
    max_time: float = 60.0,
    overwrite: Switch = False,
    quiet: Switch = False,
    json: Switch = False,
) -> None:
    """Simulate a cell, reconstruct it, and compare with WBP and SIRT.

    Args:
        out: folder for the comparison and the run
        size: edge of the cell, voxels
        max_time: seconds for the neural reconstruction
        overwrite: replace the demo in that folder
        quiet: print nothing but the table, or the JSON
        json: print JSON instead of a table
    """
    from tiltfield.demo import figures, run_demo, show
    from tiltfield.jsontext import as_json
    from tiltfield.report import Screen

    with Screen(quiet=quiet) as screen:
        entries = run_demo(out, screen, size=size, max_time=max_time, overwrite=overwrite)
    if json:
        print(as_json(figures(entries), indent=2))
    else:
        show(entries, out)


@app.command(group=_WORK)
def info(
    series: Path | None = None,
    /,
    *,
    json: Switch = False,
    flags: Annotated[InfoFlags | None, Parameter(name="*")] = None,
) -> None:
    """Say what a file holds and what reconstructing it takes; without a file, what the machine has.

    Args:
        series: the tilt series
        json: print JSON instead of lines
        flags: the settings
    """
    from tiltfield.jsontext import as_json
    from tiltfield.report.info import Machine, Prospect

    settings = ReconstructConfig.parse(given(flags), "settings")
    found = Machine.here() if series is None else Prospect.of(series, settings)
    print(as_json(found.figures(), indent=2) if json else "\n".join(found.lines()))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 input at fault, 130 stopped, 1 anything else.

    Args:
        argv: the words after ``tiltfield``; those of the process if None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with _errors_in_words():
        if ranks.launched() > 1 and words[:1] != ["reconstruct"]:
            raise InputError(f"only reconstruct runs in several processes, got {ranks.launched()}: leave out torchrun")
        if words and not words[0].startswith("-"):
            _let_threads_sleep_beside_others()
        app(words, exit_on_error=False, print_error=False)
    sys.exit(0)


def _let_threads_sleep_beside_others() -> None:
    """Ask that waiting threads sleep if something else uses the processors; read when torch is loaded.

    By default they spin, which is quicker where nothing else runs, and several times slower where something does.
    """
    if "OMP_WAIT_POLICY" not in os.environ and psutil.cpu_percent(interval=LOOK) * (psutil.cpu_count() or 1) > BUSY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn exceptions into a message on standard error and an exit code.

    What the user gave is refused by all processes of torchrun alike: the first speaks for all, and torchrun ends the
    others, unless one of them alone refused. Other errors are those of one process, which speaks before the others.
    """
    turn = PATIENCE if ranks.index() > 0 else 0.0
    try:
        yield
    except CycloptsError as error:
        _fail(_flag_message(error), EXIT_INPUT, turn)
    except InputError as error:
        if os.environ.get("TILTFIELD_DEBUG") and error.__cause__ is not None:  # what a library said of a file
            raise
        _fail("; ".join(line.strip() for line in str(error).splitlines()), EXIT_INPUT, turn)
    except KeyboardInterrupt:
        _fail("stopped before there was anything to keep", EXIT_STOPPED, turn)
    except Exception as error:
        if os.environ.get("TILTFIELD_DEBUG"):
            raise
        if ranks.lost(error):
            _fail("another process has ended, and so must this one", EXIT_BUG, 2 * PATIENCE)
        hint = "run with TILTFIELD_DEBUG=1 for the traceback"
        _fail(f"{type(error).__name__}: {error} (unexpected; {hint})", EXIT_BUG)


def _fail(message: str, code: int, wait: float = 0.0) -> None:
    """Say why the program ends, and end it; after so many seconds, if torchrun has not ended it till then."""
    time.sleep(wait)
    Console(stderr=True).print(Text(f"tiltfield: {message}", style="red"), soft_wrap=True)
    if ranks.launched() > 1:  # without taking leave of processes that may wait for this one: torchrun ends them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _flag_message(error: CycloptsError) -> str:
    if isinstance(error.__cause__, ValidationError):
        return "; ".join(dict.fromkeys(_value_message(e) for e in error.__cause__.errors()))
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.keyword is None:
        command = " ".join(("tiltfield", *(error.command_chain or ())))
        return f"{error.argument.name} is missing; '{command} --help' says what it takes"
    return " ".join(str(error).split())


def _value_message(problem: Mapping[str, Any]) -> str:
    """Say which flag has a bad value, and which value comes nearest."""
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # settings that do not go together
        return str(reason)
    flag = "--" + str(problem["loc"][0]).replace("_", "-")
    return f"{flag}: {reason}, got '{problem['input']}'{nearest_choice(problem)}"


def _outcome(result: Reconstruction | None, out: Path) -> str:
    if result is None:
        from tiltfield.runfolder import cut_short, read_metrics

        done = f"the run in {out} is finished already; open {out / 'report.html'}, or see preview.png"
        if cut_short(found := read_metrics(out)):
            done += f"\nits time limit allowed {found['steps']} of {found['steps_in_full']} steps: with a longer "
            done += "--max-time it goes on"
        return f"{done}\n{_next_steps(out)}"
    size = " × ".join(str(n) for n in result.volume.data.shape)
    done = f"wrote {out / 'volume.mrc'} ({size}, z y x); open {out / 'report.html'}, or look at preview.png"
    if result.interrupted:
        return f"{done}\nstopped early: this is the best so far; go on with: tiltfield reconstruct --out {out} --resume"
    return f"{done}\n{_next_steps(out)}"


def _next_steps(out: Path) -> str:
    steps = {
        f"evaluate {out}": "how far to trust it",
        f"view {out}": "look at it in napari",
        f"convert {out} --format tiff": "write it for Fiji; mrc for 3dmod, ome-zarr for napari",
    }
    width = max(map(len, steps))
    return "\n".join(f"  tiltfield {command:{width}}  {why}" for command, why in steps.items())


if __name__ == "__main__":
    main()
