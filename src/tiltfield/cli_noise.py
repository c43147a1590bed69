"""`tiltfield noise`: fit a noise model, compare models, put noise on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from tiltfield.cli_paths import free
from tiltfield.config import NoiseConfig, NoiseRunConfig
from tiltfield.errors import InputError, nearest

if TYPE_CHECKING:
    from tiltfield.judge import Comparison
    from tiltfield.noise import NoiseFile, NoiseModel
    from tiltfield.noise.learn import Pairs
    from tiltfield.report import Screen

_Switch = Annotated[bool, Parameter(show_default=False)]
_Files = Annotated[list[Path] | None, Parameter(consume_multiple=True)]
_FILES = ("comparison.md", "comparison.json", "comparison.png")

noise_app = App(
    name="noise",
    help="Learn the noise of a microscope from pairs or repeats; compare noise models; draw noise.",
    group_commands=Group("Commands"),
    default_parameter=Parameter(negative=()),
)


@noise_app.command
def fit(
    clean: Path | None = None,
    noisy: Path | None = None,
    /,
    *,
    out: Path,
    repeats: _Files = None,
    overwrite: _Switch = False,
    quiet: _Switch = False,
    flags: Annotated[NoiseConfig | None, Parameter(name="*")] = None,
) -> None:
    """Fit a noise model to clean and noisy images, or to repeated frames of the same field.

    Args:
        clean: images without noise, such as long exposures; one image may serve all noisy ones
        noisy: the same field with noise
        out: file for the model, JSON
        repeats: frames of the same field: stacks, each its own field, or files of one frame each, all of one field
        overwrite: replace the file
        quiet: print nothing but errors
        flags: the settings
    """
    from tiltfield.noise import save_noise
    from tiltfield.noise.learn import learn
    from tiltfield.noise.sources import read_images
    from tiltfield.report import Screen

    settings = flags or NoiseConfig()
    free(out, overwrite)
    with Screen(quiet=quiet) as screen:
        _threads(settings)
        source = _one_source(clean, noisy, repeats, "CLEAN NOISY", "--repeats")
        pairs, about = read_images(source, settings.crop, screen)
        _say_scan(screen, pairs)
        show = _progress(screen, f"fit {settings.model}")
        model = learn(settings.model, pairs, seed=settings.seed, progress=show)
        noise = _described(model, pairs, settings, about)
        save_noise(out, noise)
    if not quiet:
        figure = noise.about["log_likelihood"]
        print(f"wrote {out}: {settings.model}, log-likelihood {figure:.4g} per pixel on the images it was fitted to")
        print(f"  tiltfield noise sample {out} CLEAN.mrc --out NOISY.mrc")


@noise_app.command
def compare(
    *models: str,
    out: Path,
    repeats: _Files = None,
    clean: Path | None = None,
    noisy: Path | None = None,
    train_repeats: _Files = None,
    train_clean: Path | None = None,
    train_noisy: Path | None = None,
    json: _Switch = False,
    overwrite: _Switch = False,
    quiet: _Switch = False,
    flags: Annotated[NoiseRunConfig | None, Parameter(name="*")] = None,
) -> None:
    """Judge noise models by images that they were not fitted to.

    Args:
        models: files of `noise fit`, and names of models to fit first; all names if none is given
        out: folder for the table, the figures as JSON, and the picture
        repeats: frames to judge by, as for `noise fit`
        clean: or images without noise
        noisy: and the same with it
        train_repeats: frames to fit named models to; by default the upper half of the rows, judged by the lower half
        train_clean: or images without noise
        train_noisy: and the same with it
        json: print JSON instead of a table
        overwrite: replace the comparison in that folder
        quiet: print nothing but errors and the table
        flags: the settings
    """
    from tiltfield.jsontext import as_json
    from tiltfield.judge import compare as judge
    from tiltfield.judge import tables
    from tiltfield.noise.sources import flattered, read_images
    from tiltfield.report import Screen

    settings = flags or NoiseRunConfig()
    known = {label: _model_file(name) for label, name in _labelled(models or _names()).items()}
    _free_folder(out, overwrite)
    with Screen(quiet=quiet) as screen:
        _threads(settings)
        source = _one_source(clean, noisy, repeats, "--clean --noisy", "--repeats")
        pairs, about = read_images(source, settings.crop, screen)
        training, trained = None, dict[str, Any]()
        if train_repeats or train_clean or train_noisy:
            source = _one_source(
                train_clean, train_noisy, train_repeats, "--train-clean --train-noisy", "--train-repeats"
            )
            training, trained = read_images(source, settings.crop, screen)
        fitted, pairs = _fitted(known, training, pairs, settings, screen)
        show = _progress(screen, "judge")
        comparison = judge(fitted, pairs, seed=settings.seed, progress=lambda _name, done: show(done, 0.0))
        sources = {name: trained if noise is None else noise.about for name, noise in known.items()}
        comparison = replace(comparison, notes=tuple(flattered(sources, about)))
        _write_comparison(out, comparison, fitted, pairs, settings.seed)
    print(as_json(comparison.figures(), indent=2) if json else tables(comparison))
    if not (quiet or json):
        print(f"wrote {out / _FILES[0]}, {_FILES[1]} and {_FILES[2]}")


@noise_app.command
def sample(
    model: Path,
    clean: Path,
    /,
    *,
    out: Path,
    overwrite: _Switch = False,
    quiet: _Switch = False,
    flags: Annotated[NoiseRunConfig | None, Parameter(name="*")] = None,
) -> None:
    """Put noise on clean images.

    Args:
        model: file of `noise fit`
        clean: image, stack or tilt series without noise, in the unit of the images the model was fitted to
        out: file for the noisy images, MRC; tilt angles go into a .rawtlt beside it
        overwrite: replace the file
        quiet: print nothing but errors
        flags: the settings
    """
    import numpy as np
    import torch

    from tiltfield.io import load_frames, write_stack
    from tiltfield.noise import load_noise
    from tiltfield.noise.pairs import check_images
    from tiltfield.noise.sources import cropped, range_notes
    from tiltfield.replacing import atomic
    from tiltfield.report import Screen

    settings = flags or NoiseRunConfig()
    noise, raw = load_noise(model), load_frames(clean)
    angles = None if raw.angles_deg is None else out.with_suffix(".rawtlt")
    for path in (out, angles):
        free(path, overwrite)
    images = cropped(raw.images.astype(np.float32), settings.crop)
    check_images(images, "clean")
    generator = torch.Generator().manual_seed(settings.seed)
    with Screen(quiet=quiet) as screen:
        _threads(settings)
        _say(screen, range_notes(noise, images, str(model)))
        show = _progress(screen, "sample")
        for i, image in enumerate(images):
            images[i] = noise.model.sample(torch.from_numpy(image), generator).numpy()
            show((i + 1) / len(images), 0.0)
        write_stack(images, out, raw.pixel_size_nm)
        if angles is not None and raw.angles_deg is not None:
            with atomic(angles) as part:
                part.write_text("".join(f"{angle:.6g}\n" for angle in raw.angles_deg))
    if not quiet:
        print(f"wrote {out}: {len(images)} image{'s' * (len(images) > 1)}" + (f", and {angles}" if angles else ""))


# ---- input ---------------------------------------------------------------------------------------------------------


def _one_source(
    clean: Path | None, noisy: Path | None, repeats: Sequence[Path] | None, pair: str, frames: str
) -> tuple[Path, Path] | list[Path]:
    """Return a pair of files as a tuple, or repeats as a list: whichever was given, and only one."""
    if repeats and not (clean or noisy):
        return list(repeats)
    if clean and noisy and not repeats:
        return clean, noisy
    got = [name for name, value in (("clean", clean), ("noisy", noisy), (frames, repeats)) if value]
    raise InputError(
        f"expected either {pair} (two files) or {frames} FRAMES..., got {' and '.join(got) or 'neither'}: "
        "give clean and noisy images of one field, or repeated frames of it"
    )


def _names() -> tuple[str, ...]:
    from tiltfield.noise.learn import LEARNABLE

    return LEARNABLE


def _labelled(names: Sequence[str]) -> dict[str, str]:
    """Return models by what to call them: a file by its base name, unless another has the same."""
    names = list(dict.fromkeys(names))
    short = [Path(name).name for name in names]
    return {label if short.count(label) == 1 else name: name for label, name in zip(short, names, strict=True)}


def _model_file(name: str) -> NoiseFile | None:
    """Return the model of a file, or None for the name of a model to fit."""
    from tiltfield.noise import load_noise

    if name in _names():
        return None
    if not Path(name).is_file():
        raise InputError(
            f"'{name}' is neither a file of `tiltfield noise fit` nor one of {', '.join(_names())}"
            f"{nearest(name, _names())}"
        )
    return load_noise(name)


def _fitted(
    known: Mapping[str, NoiseFile | None],
    training: Pairs | None,
    pairs: Pairs,
    settings: NoiseRunConfig,
    screen: Screen,
) -> tuple[dict[str, NoiseModel], Pairs]:
    """Return the models, those that are only named fitted, and the pairs to judge them by."""
    from tiltfield.noise.learn import learn
    from tiltfield.noise.pairs import halves
    from tiltfield.noise.sources import range_notes

    if training is None and any(noise is None for noise in known.values()):
        training, pairs = halves(pairs)
        screen.say("fitting to the upper half of the rows, judging by the lower half, with 8 rows left out between")
    models: dict[str, NoiseModel] = {}
    for name, noise in known.items():
        if noise is not None:
            _say(screen, range_notes(noise, pairs.clean, name))
            models[name] = noise.model
        elif training is not None:
            models[name] = learn(name, training, seed=settings.seed, progress=_progress(screen, f"fit {name}"))
    return models, pairs


def _say_scan(screen: Screen, pairs: Pairs) -> None:
    """Say how the noise of neighbours correlates, and if that looks like a scan along the columns."""
    from tiltfield.rehearsal import CORRELATED
    from tiltfield.traits import correlations

    along, across = (correlations(pairs.noisy - pairs.clean, axis, 1)[0] for axis in (2, 1))
    screen.say(f"noise of neighbours correlates by {along:.2f} along the rows and {across:.2f} across")
    if across > along + CORRELATED:
        screen.say("the frames look scanned along the columns: transpose them, for the scan must run along the rows")


# ---- output --------------------------------------------------------------------------------------------------------


def _free_folder(folder: Path, overwrite: bool) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file: --out takes a folder")
    present = [name for name in _FILES if (folder / name).exists()]
    if present and not overwrite:
        raise InputError(f"{folder} already holds {', '.join(present)}: choose another folder or give --overwrite")


def _threads(settings: NoiseRunConfig) -> None:
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def _say(screen: Screen, notes: Sequence[str]) -> None:
    for note in notes:
        screen.say(note)


def _progress(screen: Screen, stage: str) -> Callable[[float, float], None]:
    """Return what shows a fraction and tells the time left; it takes no notice of its second argument."""
    import time

    began = time.monotonic()

    def show(done: float, _figure: float = 0.0) -> None:
        left = (time.monotonic() - began) * (1 - done) / done if done > 0 else None
        screen.progress(stage, done, left, {})

    return show


def _described(model: NoiseModel, pairs: Pairs, settings: NoiseConfig, about: dict[str, Any]) -> NoiseFile:
    """Return the model with the range of its intensities and how it was fitted."""
    from tiltfield import __version__
    from tiltfield.noise import NoiseFile
    from tiltfield.noise.learn import log_likelihood

    figure = log_likelihood(model, pairs)
    fitted = {"tiltfield": __version__, "model": settings.model, "seed": settings.seed, "log_likelihood": figure}
    return NoiseFile(model, *pairs.range(), fitted | {"shape": list(pairs.clean.shape)} | about)


def _write_comparison(
    folder: Path, comparison: Comparison, models: Mapping[str, NoiseModel], pairs: Pairs, seed: int
) -> None:
    from tiltfield.jsontext import as_json
    from tiltfield.judge import tables
    from tiltfield.replacing import atomic
    from tiltfield.report.noise import save_noise_figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    for name, text in zip(_FILES, (tables(comparison), as_json(comparison.figures(), indent=2)), strict=False):
        with atomic(folder / name) as part:
            part.write_text(text + "\n")
    with atomic(folder / _FILES[2]) as part:
        save_noise_figure(part, comparison, models, pairs, seed)
