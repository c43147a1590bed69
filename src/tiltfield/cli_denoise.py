"""`tiltfield denoise`: a tilt series in, the same without noise out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import create_model

from tiltfield.cli_paths import free
from tiltfield.config import DenoiseConfig, DenoiserName
from tiltfield.errors import InputError

if TYPE_CHECKING:
    from tiltfield.config import DenoiseConfig as _Flags
    from tiltfield.series import TiltSeries
else:
    _axis = DenoiseConfig.model_fields["tilt_axis"]
    _signed = Annotated[str, Parameter(allow_leading_hyphen=True)]  # an angle may be negative
    _Flags = create_model("DenoiseConfig", __base__=DenoiseConfig, tilt_axis=(_signed, _axis))

_Switch = Annotated[bool, Parameter(show_default=False)]
_SUFFIXES = (".mrc", ".st", ".ali", ".mrcs")


def denoise(
    series: Path,
    /,
    *,
    with_: Annotated[DenoiserName, Parameter(name="--with")],
    out: Path,
    overwrite: _Switch = False,
    quiet: _Switch = False,
    flags: Annotated[_Flags | None, Parameter(name="*")] = None,
) -> None:
    """Take the noise out of the images of a tilt series.

    Args:
        series: the tilt series: a stack, a folder of single images, or an .mdoc
        with_: the denoiser
        out: file for the denoised images, MRC, tilt axis vertical; their angles go into a .rawtlt beside it
        overwrite: replace the files
        quiet: print nothing but errors
        flags: the settings
    """
    import torch

    from tiltfield.denoise import denoise as denoise_series
    from tiltfield.io import load
    from tiltfield.reconstruct import pick_device
    from tiltfield.report import Screen

    settings = flags or DenoiseConfig()
    angles = _free_outputs(series, out, overwrite)
    device = pick_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with Screen(quiet=quiet) as screen:
        noisy = load(series, **settings.reading)
        for line in noisy.summary():
            screen.say(line)
        clean = denoise_series(noisy, with_, seed=settings.seed, device=device, observer=screen)
    _write(clean, out, angles)
    if not quiet:
        print(f"wrote {out}: {len(clean.images)} images, and {angles}")
        print(f"  tiltfield reconstruct {out} --out DIR")


def _free_outputs(series: Path, out: Path, overwrite: bool) -> Path:
    """Return the file for the angles, once both files may be written."""
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--out takes an MRC file, {', '.join(_SUFFIXES)}: got {out}")
    if out.exists() and series.exists() and out.samefile(series):
        raise InputError(f"{out} is the noisy series itself: give another name, so that it stays")
    angles = out.with_suffix(".rawtlt")
    for path in (out, angles):
        free(path, overwrite)
    return angles


def _write(series: TiltSeries, out: Path, angles: Path) -> None:
    from tiltfield.io import write_stack
    from tiltfield.replacing import atomic

    write_stack(series.images, out, series.pixel_size_nm)
    with atomic(angles) as part:
        part.write_text("".join(f"{angle:.6g}\n" for angle in series.angles_deg))
