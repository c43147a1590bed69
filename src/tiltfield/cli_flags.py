"""The flags of the command line, made from the settings in :mod:`tiltfield.config`, each under a heading."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from pydantic import BaseModel, create_model, model_validator

from tiltfield.config import ExportConfig, ReconstructConfig, SimulateConfig

# Under which heading of --help each setting stands; one that is not named here stands under "Method".
RECONSTRUCT_HEADINGS = {
    "Input": ("angles", "transforms", "tilt_axis", "mode", "pixel_size_nm", "bin", "exclude"),
    "Method": (
        *("method", "field", "noise", "preset", "thickness", "tv_weight", "defocus", "features", "flow_layers"),
        *("steps", "reduced", "denoiser", "sirt_iterations", "wbp_filter"),
    ),
    "Output": tuple(ExportConfig.model_fields),
    "Run": ("max_time", "log", "threads", "device", "seed"),
}
SIMULATE_HEADINGS = {
    "Specimen": ("size", "cell", "virion", "resolution_a", "wide", "pixel_size_nm", "seed"),
    "Images": (
        *("tilts", "mode", "defocus", "defocus_pixels"),
        *("snr", "noise", "scan_correlation", "scan_axis", "clip", "quantise"),
    ),
}
_GROUPS = {name: Group.create_ordered(name) for name in ("Input", "Specimen", "Images", "Method", "Output", "Run")}
_SIGNED = ("tilts", "tilt_axis")  # values that may begin with a minus

Switch = Annotated[bool, Parameter(show_default=False)]


def flags_of(
    model: type[BaseModel], headings: Mapping[str, tuple[str, ...]], hidden: Collection[str] = ()
) -> type[BaseModel]:
    """Return the model with each of its fields marked as a flag under a heading.

    Whether settings fit together is asked of all of them, not of the flags alone, which may go over a file's.

    Args:
        model: the settings.
        headings: heading to names of settings.
        hidden: settings that the command has no use for, though a file of settings may name them.
    """
    heading = {field: name for name, fields in headings.items() for field in fields}
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        flag = Parameter(
            group=_GROUPS[heading.get(name, "Method")],
            show_default=info.default not in (None, ()) and info.default is not False,
            allow_leading_hyphen=name in _SIGNED,
            show=name not in hidden,
        )
        fields[name] = (Annotated[info.annotation, flag], info)
    apart: dict[str, Any] = {"_fit_together": model_validator(mode="after")(lambda flags: flags)}
    return create_model(model.__name__, __base__=model, __validators__=apart, **fields)


if TYPE_CHECKING:
    from tiltfield.config import ExportConfig as ExportFlags
    from tiltfield.config import ReconstructConfig as InfoFlags
    from tiltfield.config import ReconstructConfig as ReconstructFlags
    from tiltfield.config import SimulateConfig as SimulateFlags
else:
    ReconstructFlags = flags_of(ReconstructConfig, RECONSTRUCT_HEADINGS)
    InfoFlags = flags_of(ReconstructConfig, RECONSTRUCT_HEADINGS, (*ExportConfig.model_fields, "log"))
    SimulateFlags = flags_of(SimulateConfig, SIMULATE_HEADINGS)
    ExportFlags = flags_of(ExportConfig, RECONSTRUCT_HEADINGS)


def given(flags: BaseModel | None) -> dict[str, Any]:
    """Return the settings that were given as flags, and only those.

    Args:
        flags: as parsed, or None.
    """
    return flags.model_dump(include=flags.model_fields_set) if flags else {}


def merged(
    model: type[ReconstructConfig | SimulateConfig], values: dict[str, Any], source: str, flags: BaseModel | None
) -> dict[str, Any]:
    """Return the settings of a file, each found good by itself, with flags over them.

    Args:
        model: of the flags.
        values: what the file says.
        source: its name, for messages.
        flags: as parsed, or None.

    Raises:
        InputError: for a setting of the file that is unknown or bad.
    """
    model.parse(values, source)
    return values | given(flags)
