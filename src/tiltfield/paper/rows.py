"""The studies of the paper as plain data: methods, settings, the images they see, and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tiltfield.errors import InputError, nearest

Settings = Mapping[str, Any]
Images = Literal["noisy", "clean", "noisy, blurred", "clean, blurred"]
NOISE_NAME = "stem-noise.json"  # the noise of the images, shipped with the package
BLUR_PIXELS = 2  # standard deviation at the steepest tilt, at the edge of the image
BLUR = f"linear:{BLUR_PIXELS}"
ALL = "all"


@dataclass(frozen=True)
class Published:
    """What the paper prints of a row, in its units; None where it prints nothing.

    Attributes:
        psnr_2d: dB.
        psnr_3d: dB.
        mse_2d: times 100.
        dssim_2d: times 10.
        mse_3d: times 100.
    """

    psnr_2d: float | None = None
    psnr_3d: float | None = None
    mse_2d: float | None = None
    dssim_2d: float | None = None
    mse_3d: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        title: in the table, once in a study.
        variants: settings of :class:`tiltfield.config.ReconstructConfig`, of which the truth picks the best.
        images: what it sees.
        published: what the paper prints, or None.
        rival: whether it may be marked as the best: not a row that is told what others have to find.
    """

    title: str
    variants: tuple[Settings, ...]
    images: Images = "noisy"
    published: Published | None = None
    rival: bool = True


@dataclass(frozen=True)
class Study:
    """A study of volumes.

    Attributes:
        title: what it compares.
        origin: where the paper has it.
        rows: of its table.
        note: what must be known to read it; may be empty.
    """

    title: str
    origin: str
    rows: tuple[Row, ...]
    note: str = ""


def _row(title: str, images: Images = "noisy", published: Published | None = None, **settings: Any) -> Row:
    return Row(title, (settings,), images, published)


def _wbp(title: str, published: Published | None = None, **settings: Any) -> Row:
    """Return a row of WBP with the better of its two filters."""
    method = {"method": "wbp", **settings}
    return Row(title, tuple({**method, "wbp_filter": name} for name in ("hann", "ram-lak")), "noisy", published)


# A setting that equals what a method does by itself is left out, so that studies share the result.
TILTFIELD = _row("tiltfield")
WBP = _wbp("WBP", Published(2.97, 7.62))
SIRT = Row(
    "SIRT",
    tuple({"method": "sirt", "sirt_iterations": n} for n in (10, 30, 100)),
    published=Published(3.27, 9.13),
)
L2_NOISY = _row("L2Noisy", published=Published(13.86, 19.73, 4.271, 1.885, 1.064), method="l2-noisy")
L2_DEN = _row("L2Den", published=Published(18.15, 20.25), method="l2-den")
OURS = _row("Ours", published=Published(19.93, 21.75, 1.020, 0.645, 0.669), method="ours")
OURS_SUP = replace(_row("OursSup", published=Published(20.07, 20.64), method="ours-sup", noise=NOISE_NAME), rival=False)
L2_CLEAN = replace(_row("L2Clean", "clean", Published(20.73, 21.60), method="l2-clean"), rival=False)


def _named(row: Row, title: str, published: Published | None = None) -> Row:
    return replace(row, title=title, published=published or row.published)


def _widths(name: str, method: str, published: Mapping[int, Published], whole: Row) -> tuple[Row, ...]:
    """Return a network at three widths below its own, and at its own 256."""
    smaller = (
        _row(f"{name}, {features} features", published=figures, method=method, features=features)
        for features, figures in published.items()
    )
    return (*smaller, _named(whole, f"{name}, 256 features"))


_L2_WIDTHS = {
    32: Published(12.84, 19.73, 5.397, 2.038, 1.065),
    64: Published(13.69, 19.57, 4.433, 1.925, 1.103),
    128: Published(13.68, 19.85, 4.450, 1.884, 1.034),
}
_OURS_WIDTHS = {
    32: Published(13.47, 19.28, 4.672, 1.990, 1.181),
    64: Published(13.32, 19.93, 4.830, 1.925, 1.017),
    128: Published(14.15, 19.33, 3.996, 1.912, 1.166),
}
_GRIDS = (
    *(_row(f"tiltfield, {n} feature{'s' * (n > 1)} a node", features=n) for n in (1, 2)),
    _named(TILTFIELD, "tiltfield, 4 features a node (default)"),
    _row("tiltfield, 8 features a node", features=8),
)
_DENOISERS = {"DWK-P": "dwk-p", "DWK-G": "dwk-g", "Topaz": "topaz", "Noise2Self": "noise2self"}  # besides BM3D
_EXPLICIT = (("explicit-l2", "L2", (0.0, 0.05)), ("explicit-ours", "with noise model", (0.0, 50.0)))

STUDIES = {
    "main": Study(
        "Methods",
        "main table",
        (WBP, SIRT, L2_NOISY, L2_DEN, OURS, OURS_SUP, L2_CLEAN, TILTFIELD),
        "L2Clean sees the clean images, OursSup knows the noise: both are bounds, not rivals.",
    ),
    "field-capacity": Study(
        "Capacity of the field",
        "Table 2",
        (*_widths("L2Noisy", "l2-noisy", _L2_WIDTHS, L2_NOISY), *_widths("Ours", "ours", _OURS_WIDTHS, OURS), *_GRIDS),
    ),
    "flow-capacity": Study(
        "Capacity of the noise flow, half of its layers conditioned",
        "Table 3",
        (
            *(_row(f"Ours, {n} layers", method="ours", flow_layers=n) for n in (2, 4)),
            _named(OURS, "Ours, 8 layers"),
            _row("Ours, 16 layers", method="ours", flow_layers=16),
        ),
        "The published table is a picture without numbers; those of 8 layers are the main table's.",
    ),
    "defocus": Study(
        "Defocus",
        "Table 4, Fig. 5",
        (
            _named(L2_CLEAN, "L2Clean, no blur", Published(20.79, 21.47, 0.838, 0.383, 0.712)),
            _row("L2Blur", "clean, blurred", Published(19.66, 20.15, 1.090, 0.514, 0.965), method="l2-blur"),
            _row(
                "L2Blur+",
                "clean, blurred",
                Published(20.89, 20.42, 0.819, 0.412, 0.909),
                method="l2-blur+",
                defocus=BLUR,
            ),
            _named(TILTFIELD, "tiltfield, no blur"),
            _row("tiltfield, blur not modelled", "noisy, blurred"),
            _row("tiltfield, blur modelled", "noisy, blurred", defocus=BLUR),
        ),
        f"The blur is Gaussian, of {BLUR_PIXELS} pixels at the steepest tilt at the edge of the image, and known to "
        "the rows that model it. The paper's rows see images without noise, as published; tiltfield's see noisy ones. "
        "L2Blur+ takes one ray a pixel, as published: the squared error of one ray counts its variance besides.",
    ),
    "losses": Study("Losses", "Fig. 6", (_row("L1Noisy", method="l1-noisy"), L2_NOISY, OURS)),
    "denoisers-wbp": Study(
        "Denoisers before WBP",
        "Fig. 7",
        (
            _named(WBP, "none"),
            _wbp("BM3D", method="wbp-den"),
            *(_wbp(title, method="wbp-den", denoiser=name) for title, name in _DENOISERS.items()),
        ),
        "Noise2Self is ours: the paper has no self-supervised denoiser.",
    ),
    "denoisers-l2": Study(
        "Denoisers before the network under squared errors",
        "Fig. 8",
        (
            _named(L2_NOISY, "none"),
            _named(L2_DEN, "BM3D"),
            *(_row(title, method="l2-den", denoiser=name) for title, name in _DENOISERS.items()),
        ),
        "Noise2Self is ours: the paper has no self-supervised denoiser.",
    ),
    "explicit": Study(
        "Implicit and explicit, with and without noise model and total variation",
        "Fig. 9",
        (
            _named(L2_NOISY, "implicit, L2"),
            _named(OURS, "implicit, with noise model"),
            *(
                _row(f"explicit, {words}, TV {weight:g}", method=method, tv_weight=weight)
                for method, words, weights in _EXPLICIT
                for weight in weights
            ),
        ),
        "The networks have no total variation, neither as published nor here, so implicit with TV is left out. "
        "Published figures of the implicit rows are the main table's; Fig. 9 is a picture.",
    ),
}
NOISE_STUDY = "noise"
NAMES = ("main", NOISE_STUDY, *(name for name in STUDIES if name != "main"))


def studies_named(name: str) -> tuple[str, ...]:
    """Return the studies of a name, which is one of `NAMES` or "all".

    Args:
        name: as the user wrote it.

    Raises:
        InputError: for any other name.
    """
    if name == ALL:
        return NAMES
    if name not in NAMES:
        valid = (*NAMES, ALL)
        raise InputError(f"unknown study '{name}', expected one of {', '.join(valid)}{nearest(name, valid)}")
    return (name,)
