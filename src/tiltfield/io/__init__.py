"""Files in: content, then suffix, tells what a path holds; angles come from a file given, beside it, or inside it.

A format is one file with `matches` and `read`, and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tiltfield import geometry
from tiltfield.errors import InputError
from tiltfield.io import hdf5, mrc, sidecars, tiff
from tiltfield.io.mrc import write_stack, write_volume
from tiltfield.io.raw import RawStack, reading
from tiltfield.io.sidecars import Sidecar
from tiltfield.screening import quantum_of, screen
from tiltfield.series import TiltSeries, Volume

__all__ = ["FORMATS", "Format", "RawStack", "load", "load_frames", "read_volume", "write_stack", "write_volume"]

_SAME_ANGLE = 0.05  # degrees: SerialEM rounds its header to hundredths
_HEAD = 4096
_AXES = {"y": "y, vertical in the images", "x": "x, horizontal in the images"}


@dataclass(frozen=True)
class Format:
    """A kind of file that holds images.

    Attributes:
        name: what to call it in messages.
        suffixes: endings of its files, lower case.
        matches: whether a file with this path and these first bytes is one.
        read: reads it.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    read: Callable[[Path], RawStack]


FORMATS = (  # those with a signature first, the guess at old MRC headers last
    Format("HyperSpy", (".hspy", ".hdf5", ".h5"), hdf5.matches, hdf5.read),
    Format("TIFF", (".tif", ".tiff"), tiff.matches, tiff.read),
    Format("MRC", (".mrc", ".st", ".ali", ".preali", ".mrcs", ".rec", ".map"), mrc.matches, mrc.read),
)


def load(
    path: str | Path,
    *,
    angles: str | Path | None = None,
    tilt_axis: str | float = "y",
    pixel_size_nm: float | None = None,
    bin: int = 1,
) -> TiltSeries:
    """Read a tilt series, mask its bad pixels, and turn it so that the tilt axis is vertical.

    Args:
        path: an MRC, TIFF or HyperSpy stack, a folder of TIFF files, or the .mdoc of a stack.
        angles: file of tilts in degrees (.rawtlt, .tlt: one a line; .mdoc). If left out, such a file beside the stack
            counts, then the header of the stack.
        tilt_axis: "y" (vertical in the image), "x" (horizontal), or degrees from y, counter-clockwise.
        pixel_size_nm: edge of a pixel before binning, nm, > 0; overrides the file's.
        bin: edge of the blocks of pixels to average, ≥ 1.

    Returns:
        the series; its `sources` say where each fact came from.

    Raises:
        InputError: if anything is missing, damaged or contradicts itself; the message says what to do.
    """
    path = Path(path)
    _check_axis(tilt_axis)
    raw, looked = _frames(path, angles)
    if raw.angles_deg is None:
        raise InputError(
            f"{path}: no tilt angles found; looked for {', '.join(looked)}; write them into a text file, in degrees, "
            "one a line, and give it with --angles FILE"
        )
    quantum = quantum_of(raw.images)
    raw, valid = _screened(path, raw)  # from here on the file's own values are let go
    return _series(path, raw, valid, quantum, tilt_axis, pixel_size_nm).binned(bin)


def load_frames(path: str | Path, *, angles: str | Path | None = None) -> RawStack:
    """Read images with whatever is known of them, without asking that they be a tilt series.

    Args:
        path: as for `load`.
        angles: as for `load`; without any, the stack's angles are None.

    Returns:
        the images in the number type of the file, unchanged.

    Raises:
        InputError: if the file cannot be read, or the number of angles is not that of the images.
    """
    return _frames(Path(path), angles)[0]


def read_volume(path: str | Path) -> Volume:
    """Read a volume from MRC.

    Args:
        path: the file.

    Raises:
        InputError: if it is not there, is not MRC, is cut short, or holds NaN.
    """
    with reading(Path(path)):
        return mrc.read_volume(Path(path))


def _check_axis(tilt_axis: str | float) -> None:
    try:
        good = tilt_axis in ("x", "y") or bool(np.isfinite(float(tilt_axis)))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"the tilt axis must be y (vertical), x (horizontal) or degrees from y, got {tilt_axis!r}")


def _frames(path: Path, angles: str | Path | None) -> tuple[RawStack, list[str]]:
    notes = {}
    if path.suffix.lower() == ".mdoc" and path.is_file():
        angles = angles or path
        path, note = sidecars.stack_of(path)
        notes = {"note": note} if note else {}
    with reading(path):
        raw = _format(path).read(path)
        raw = replace(raw, sources={**raw.sources, **notes})
        return _with_angles(path, raw, None if angles is None else Path(angles))


def _format(path: Path) -> Format:
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(_HEAD)
    for kind in FORMATS:
        if (head or path.is_dir()) and kind.matches(path, head):
            return kind
    for kind in FORMATS:
        if path.suffix.lower() in kind.suffixes and not path.is_dir():
            return kind
    raise InputError(f"{path}: {_unknown(path, head)}")


def _unknown(path: Path, head: bytes) -> str:
    known = ", ".join(f"{kind.name} ({', '.join(kind.suffixes)})" for kind in FORMATS)
    if path.is_dir():
        return "a folder without TIFF files; give a stack or a folder of .tif images"
    if path.suffix.lower() in (".rawtlt", ".tlt"):
        return "this is a list of tilt angles; give the stack, and this with --angles"
    what = "unknown kind of file" if head else "an empty file"
    return f"{what}; tiltfield reads {known}; convert it to one of these"


def _with_angles(path: Path, raw: RawStack, given: Path | None) -> tuple[RawStack, list[str]]:
    """Choose the angles, the most trusted source first, and note who contradicts them."""
    sources, n = dict(raw.sources), len(raw.images)
    beside = [p for p in sidecars.find(path) if given is None or not p.samefile(given)] if path.exists() else []
    first = given or (beside[0] if beside else None)
    chosen = None if first is None else sidecars.read_sidecar(first)
    angles = raw.angles_deg if chosen is None else chosen.angles_deg
    if chosen is not None:
        _check_count(path, chosen, n)
        sources["angles"] = f"{chosen.path.name}, {'as given' if given else 'beside the stack'}"
        others = _others([p for p in beside if p != first], n)
        if raw.angles_deg is not None:
            others.append((raw.sources.get("angles", "the header"), raw.angles_deg))
        doubts = [text for name, other in others if (text := _differ(chosen, name, other))]
        if doubts:
            sources["warning angles"] = "; ".join(doubts)
    size = raw.pixel_size_nm
    if chosen is not None and chosen.pixel_size_nm is not None:
        size = _sidecar_size(chosen, size, sources)
    looked = [p.name for p in sidecars.candidates(path)] + [f"the header of {path.name}"]
    return replace(raw, angles_deg=angles, pixel_size_nm=size, sources=sources), looked


def _check_count(path: Path, chosen: Sidecar, n: int) -> None:
    if len(chosen.angles_deg) != n:
        raise InputError(
            f"{path}: {chosen.path.name} has {len(chosen.angles_deg)} tilt angles, the stack has {n} images; "
            "they must be as many; give the right file with --angles FILE"
        )


def _others(paths: list[Path], n: int) -> list[tuple[str, np.ndarray | None]]:
    found: list[tuple[str, np.ndarray | None]] = []
    for path in paths:
        try:
            angles = sidecars.read_sidecar(path).angles_deg
        except InputError:
            continue
        found.append((path.name, angles if len(angles) == n else None))
    return found


def _differ(chosen: Sidecar, name: str, other: np.ndarray | None) -> str | None:
    if other is None:
        return f"{name} has another number of angles; {chosen.path.name} was used"
    gap = np.abs(chosen.angles_deg - other)
    worst = int(np.argmax(gap))
    if gap[worst] <= _SAME_ANGLE:
        return None
    return (
        f"{chosen.path.name} says {chosen.angles_deg[worst]:.2f}° for image {worst} (counted from 0), "
        f"{name} {other[worst]:.2f}°; {chosen.path.name} was used"
    )


def _sidecar_size(chosen: Sidecar, size: float | None, sources: dict[str, str]) -> float | None:
    """The file's own pixel size counts first (binning updates it); the sidecar's where there is none."""
    said = chosen.pixel_size_nm
    if size is None:
        sources["pixel_size"] = chosen.path.name
        return said
    if said is not None and abs(said / size - 1) > 0.01:
        sources["warning pixel size"] = (
            f"{chosen.path.name} says {said:.4g} nm, the stack {size:.4g} nm; the stack was believed"
        )
    return size


def _screened(path: Path, raw: RawStack) -> tuple[RawStack, np.ndarray | None]:
    with reading(path):
        images, valid, report = screen(raw.images, raw.angles_deg)
    sources = {**raw.sources, "bad pixels": "; ".join(report)} if report else raw.sources
    return replace(raw, images=images, sources=sources), valid


def _series(
    path: Path,
    raw: RawStack,
    valid: np.ndarray | None,
    quantum: float | None,
    tilt_axis: str | float,
    pixel_size_nm: float | None,
) -> TiltSeries:
    sources = {**raw.sources, "tilt_axis": _AXES.get(str(tilt_axis), f"{tilt_axis}° from vertical")}
    with reading(path):
        turned = geometry.orient(raw.images, tilt_axis)
        if turned is not raw.images:
            valid = _turned(valid, raw.images.shape, tilt_axis)
    if pixel_size_nm is not None:
        sources["pixel_size"] = "the settings"
    return TiltSeries(
        images=turned,
        angles_deg=np.zeros(0) if raw.angles_deg is None else raw.angles_deg,
        pixel_size_nm=raw.pixel_size_nm if pixel_size_nm is None else pixel_size_nm,
        valid=valid,
        quantum=quantum if _is_quarter(tilt_axis) else None,
        name=path.name.split(".")[0] or path.name,
        sources=sources,
    )


def _is_quarter(tilt_axis: str | float) -> bool:
    return tilt_axis in ("x", "y") or float(tilt_axis) % 90 == 0


def _turned(valid: np.ndarray | None, shape: tuple[int, ...], tilt_axis: str | float) -> np.ndarray | None:
    """Turn the mask; after a rotation by any other angle than a quarter the corners have no data."""
    if _is_quarter(tilt_axis):
        return None if valid is None else geometry.orient(valid, tilt_axis)
    seen = np.ones((1, *shape[1:]), np.float32)
    seen[:, [0, -1], :] = seen[:, :, [0, -1]] = 0.0  # what lies beyond the edge repeats the edge: mark it
    inside = geometry.orient(seen, tilt_axis) > 0.5
    if valid is None:
        return np.repeat(inside, shape[0], axis=0)
    result = np.empty((shape[0], *inside.shape[1:]), bool)
    for i, frame in enumerate(valid):
        result[i] = inside[0] & (np.abs(geometry.orient(frame[None].astype(np.float32), tilt_axis)[0] - 1) < 0.05)
    return result
