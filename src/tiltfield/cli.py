"""The command line: flags come from the settings in :mod:`tiltfield.config`; heavy imports wait for a command."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from pydantic import BaseModel, ValidationError, create_model, model_validator
from rich.console import Console
from rich.text import Text

from tiltfield import __version__
from tiltfield.cli_denoise import denoise
from tiltfield.cli_noise import noise_app
from tiltfield.cli_paper import paper
from tiltfield.config import ReconstructConfig, SimulateConfig, read_yaml
from tiltfield.errors import InputError, nearest

if TYPE_CHECKING:
    from tiltfield.reconstruct import Reconstruction

EXIT_BUG, EXIT_INPUT, EXIT_STOPPED = 1, 2, 130

# Under which heading of --help each setting stands; one that is not named here stands under "Method".
RECONSTRUCT_HEADINGS = {
    "Input": ("angles", "tilt_axis", "mode", "pixel_size_nm", "bin"),
    "Method": (
        *("method", "field", "noise", "preset", "thickness", "tv_weight", "defocus", "features", "flow_layers"),
        *("steps", "reduced", "denoiser", "sirt_iterations", "wbp_filter"),
    ),
    "Run": ("max_time", "threads", "device", "seed"),
}
SIMULATE_HEADINGS = {
    "Specimen": ("size", "cell", "virion", "resolution_a", "wide", "pixel_size_nm", "seed"),
    "Images": (
        *("tilts", "mode", "defocus", "defocus_pixels"),
        *("snr", "noise", "scan_correlation", "scan_axis", "clip", "quantise"),
    ),
}
_GROUPS = {name: Group.create_ordered(name) for name in ("Input", "Specimen", "Images", "Method", "Run")}
_SIGNED = ("tilts", "tilt_axis")  # values that may begin with a minus


def _flags(model: type[BaseModel], headings: Mapping[str, tuple[str, ...]]) -> type[BaseModel]:
    """Return the model with each of its fields marked as a flag under a heading.

    Whether settings fit together is asked of all of them, not of the flags alone, which may go over a file's.
    """
    heading = {field: name for name, fields in headings.items() for field in fields}
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        group = _GROUPS[heading.get(name, "Method")]
        shown = info.default is not None and info.default is not False
        flag = Parameter(group=group, show_default=shown, allow_leading_hyphen=name in _SIGNED)
        fields[name] = (Annotated[info.annotation, flag], info)
    apart: dict[str, Any] = {"_fit_together": model_validator(mode="after")(lambda flags: flags)}
    return create_model(model.__name__, __base__=model, __validators__=apart, **fields)


if TYPE_CHECKING:
    from tiltfield.config import ReconstructConfig as _ReconstructFlags
    from tiltfield.config import SimulateConfig as _SimulateFlags
else:
    _ReconstructFlags = _flags(ReconstructConfig, RECONSTRUCT_HEADINGS)
    _SimulateFlags = _flags(SimulateConfig, SIMULATE_HEADINGS)

_Switch = Annotated[bool, Parameter(show_default=False)]

app = App(
    name="tiltfield",
    help="Clean 3D volumes from noisy STEM tilt series.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(noise_app)
app.command(denoise)
app.command(paper)


@app.command
def reconstruct(
    series: Path | None = None,
    /,
    *,
    out: Path,
    resume: _Switch = False,
    overwrite: _Switch = False,
    config: Path | None = None,
    quiet: _Switch = False,
    flags: Annotated[_ReconstructFlags | None, Parameter(name="*")] = None,
) -> None:
    """Reconstruct a volume from a tilt series.

    Args:
        series: the tilt series: .mrc, .st, .ali, .hspy, .tif, or a folder of TIFFs
        out: folder for the volume, the preview, the figures and the checkpoint
        resume: go on with the run in that folder
        overwrite: replace the run in that folder
        config: YAML file of settings, such as a run's config.yaml; flags go before it
        quiet: print nothing but errors
        flags: the settings
    """
    from tiltfield.report import Screen
    from tiltfield.run import Request, run
    from tiltfield.runfolder import take_series

    named, values = take_series(read_yaml(config) if config else {}, str(config))
    settings = _merge(_ReconstructFlags, values, str(config), flags)
    request = Request(out, series or named, settings, resume=resume, overwrite=overwrite)
    with Screen(quiet=quiet) as screen:
        result = run(request, screen)
    if not quiet:
        print(_outcome(result, out))


@app.command
def simulate(
    *,
    out: Path,
    overwrite: _Switch = False,
    config: Path | None = None,
    quiet: _Switch = False,
    flags: Annotated[_SimulateFlags | None, Parameter(name="*")] = None,
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

    values = _merge(_SimulateFlags, read_yaml(config) if config else {}, str(config), flags)
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


@app.command
def evaluate(
    volume: Path, /, *, truth: Path, inside: Path | None = None, views: int = 0, json: _Switch = False
) -> None:
    """Compare a volume with the truth.

    Args:
        volume: the reconstructed volume, MRC
        truth: the true volume, MRC
        inside: volume that is 1 where the specimen is, for figures inside it
        views: random directions of which to compare projections, as the paper does of 20; 0 for none
        json: print JSON instead of a table
    """
    from tiltfield.evaluate import evaluate as evaluate_volume
    from tiltfield.io import read_volume
    from tiltfield.runfolder import as_json

    mask = read_volume(inside) if inside else None
    figures = evaluate_volume(read_volume(volume), read_volume(truth), mask, views=views)
    print(as_json(figures, indent=2) if json else _two_columns(figures))


@app.command
def demo(*, out: Path = Path("demo"), size: int = 96, max_time: float = 60.0, overwrite: _Switch = False) -> None:
    """Simulate a cell, reconstruct it, and compare with WBP and SIRT.

    Args:
        out: folder for the comparison and the run
        size: edge of the cell, voxels
        max_time: seconds for the neural reconstruction
        overwrite: replace the demo in that folder
    """
    from tiltfield.demo import run_demo, show
    from tiltfield.report import Screen

    with Screen() as screen:
        entries = run_demo(out, screen, size=size, max_time=max_time, overwrite=overwrite)
    show(entries, out)


@app.command
def info(
    series: Path | None = None, /, *, flags: Annotated[_ReconstructFlags | None, Parameter(name="*")] = None
) -> None:
    """Say what a file holds and what reconstructing it takes; without a file, what the machine has.

    Args:
        series: the tilt series
        flags: the settings
    """
    from tiltfield.report.info import machine_lines, series_lines

    settings = ReconstructConfig.parse(_given(flags), "settings")
    print("\n".join(machine_lines() if series is None else series_lines(series, settings)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 input at fault, 130 stopped, 1 anything else.

    Args:
        argv: the words after ``tiltfield``; those of the process if None.
    """
    with _errors_in_words():
        app(list(sys.argv[1:] if argv is None else argv), exit_on_error=False, print_error=False)
    sys.exit(0)


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn exceptions into a message on standard error and an exit code."""
    try:
        yield
    except CycloptsError as error:
        _fail(_flag_message(error), EXIT_INPUT)
    except InputError as error:
        _fail("; ".join(line.strip() for line in str(error).splitlines()), EXIT_INPUT)
    except KeyboardInterrupt:
        _fail("stopped before there was anything to keep", EXIT_STOPPED)
    except Exception as error:
        if os.environ.get("TILTFIELD_DEBUG"):
            raise
        hint = "run with TILTFIELD_DEBUG=1 for the traceback"
        _fail(f"{type(error).__name__}: {error} (unexpected; {hint})", EXIT_BUG)


def _fail(message: str, code: int) -> None:
    Console(stderr=True).print(Text(f"tiltfield: {message}", style="red"), soft_wrap=True)
    sys.exit(code)


def _flag_message(error: CycloptsError) -> str:
    if isinstance(error.__cause__, ValidationError):
        return "; ".join(dict.fromkeys(_value_message(e) for e in error.__cause__.errors()))
    return " ".join(str(error).split())


def _value_message(problem: Mapping[str, Any]) -> str:
    """Say which flag has a bad value, and which value comes nearest."""
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # settings that do not go together
        return str(reason)
    flag = "--" + str(problem["loc"][0]).replace("_", "-")
    value = str(problem["input"])
    expected = problem.get("ctx", {}).get("expected", "") if problem["type"] == "literal_error" else ""
    choices = re.findall("'([^']+)'", expected)
    return f"{flag}: {reason}, got '{value}'{nearest(value, choices)}"


def _given(flags: BaseModel | None) -> dict[str, Any]:
    """Return the settings that were given as flags, and only those."""
    return flags.model_dump(include=flags.model_fields_set) if flags else {}


def _merge(
    model: type[ReconstructConfig | SimulateConfig], values: dict[str, Any], source: str, flags: BaseModel | None
) -> dict[str, Any]:
    """Return the settings of a file, each found good by itself, with flags over them."""
    model.parse(values, source)
    return values | _given(flags)


def _outcome(result: Reconstruction | None, out: Path) -> str:
    if result is None:
        return f"the run in {out} is finished already; see {out / 'preview.png'}"
    size = " × ".join(str(n) for n in result.volume.data.shape)
    done = f"wrote {out / 'volume.mrc'} ({size}, z y x); look at {out / 'preview.png'}"
    if result.interrupted:
        done += f"\nstopped early: this is the best so far; go on with: tiltfield reconstruct --out {out} --resume"
    return done


def _two_columns(figures: Mapping[str, Any]) -> str:
    width = max(len(name) for name in figures)
    return "\n".join(f"{name:<{width}}  {_number(value)}" for name, value in figures.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
