"""Who is believed: what was given, then what lies beside the stack, then its header; who disagrees is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tiltfield.errors import InputError
from tiltfield.geometry import Placement, axis_degrees
from tiltfield.io import sidecars
from tiltfield.io.raw import RawStack
from tiltfield.io.sidecars import Sidecar, is_aligned

FILE = "file"  # as a tilt axis: what the files say
_SAME_ANGLE = 0.05  # degrees: SerialEM rounds its header to hundredths
_SAME_AXIS = 1.0  # degrees
_SOLVED = 15.0  # degrees: an alignment that leaves less than this has solved for the axis
_SAME_SIZE = 0.01  # of the pixel size
_AXES = {"y": "y, vertical in the images", "x": "x, horizontal in the images"}


def settle(path: Path, raw: RawStack, given: Path | None, aligned: bool | None = None) -> tuple[RawStack, list[str]]:
    """Choose angles, pixel size and tilt axis among the sources, and note who contradicts them.

    Args:
        path: the stack.
        raw: what it says itself.
        given: the file of angles that the user gave, or None.
        aligned: as for :func:`sidecars.candidates`.

    Returns:
        the stack with what was chosen, and where angles were looked for.

    Raises:
        InputError: if the file of angles cannot be read, or has another number of angles than there are images.
    """
    sources = dict(raw.sources)
    beside = [p for p in sidecars.find(path, aligned) if given is None or not p.samefile(given)]
    first = given or (beside[0] if beside else None)
    chosen = None if first is None else sidecars.read_sidecar(first)
    others = [(p.name, _readable(p)) for p in beside if p != first]
    angles = raw.angles_deg
    if chosen is not None:
        _check_count(path, chosen, len(raw.images))
        angles = chosen.angles_deg
        sources["angles"] = f"{chosen.path.name}, {'as given' if given else 'beside the stack'}"
        _doubt_angles(chosen, others, raw, sources)
    cards = [card for card in (chosen, *(card for _, card in others)) if card is not None]
    size = _size(raw, cards, sources)
    axis = _axis(raw, cards, sources)
    looked = [p.name for p in sidecars.candidates(path, aligned)] + [f"the header of {path.name}"]
    return replace(raw, angles_deg=angles, pixel_size_nm=size, tilt_axis_deg=axis, sources=sources), looked


def choose_axis(
    path: Path, raw: RawStack, wanted: str | float, moved: Placement | None
) -> tuple[str | float, dict[str, str]]:
    """Return the tilt axis to turn the images by, and what is to be said of it.

    What the files say holds for the images as they were recorded. Transforms that turn them nearly upright know the
    axis better: then nothing is left to turn.

    Args:
        path: the stack.
        raw: with what the files say.
        wanted: by the user, "file" for what the files say.
        moved: transforms that are applied before, or None.

    Raises:
        InputError: if the files are to say it, and do not.
    """
    said, who = raw.tilt_axis_deg, raw.sources.get("tilt_axis", "")
    if said is not None and moved is not None:
        said, who = _wrapped(said - moved.turn), f"{who}, turned by the transforms,"
        said = 0.0 if abs(said) < _SOLVED else said
    if wanted == FILE:
        if said is None:
            raise InputError(
                f"{path}: --tilt-axis file asks for the axis that the files name, but neither an .mdoc beside the "
                "stack nor its header names one; give y, x or degrees"
            )
        return said, {"tilt_axis": f"{said:g}° from vertical, as {who} has it"}
    sources = {"tilt_axis": _AXES.get(str(wanted), f"{wanted}° from vertical")}
    if said is None or is_aligned(path):
        return wanted, sources
    if abs(_wrapped(said - axis_degrees(wanted))) > _SAME_AXIS:
        sources["warning tilt axis"] = (
            f"{who} says {said:g}° (counter-clockwise from vertical, first row at the top), which was not used; give "
            "--tilt-axis file to turn the images by it, unless they are aligned already"
        )
    return wanted, sources


def doubt_axis(notes: dict[str, str], taken: str | float, doubt: str) -> dict[str, str]:
    """Return what is to be said of the sources, with what the images say against the tilt axis.

    Args:
        notes: what is to be said so far.
        taken: the axis that the images were turned by.
        doubt: of :func:`tiltfield.axis.turns_across`.
    """
    if not doubt:
        return notes
    degrees = axis_degrees(taken)
    other = {"y": "x", "x": "y"}.get(str(taken), f"{degrees - 90 if degrees > 0 else degrees + 90:g}")
    text = f"{doubt} (--tilt-axis {other}), or the series is not aligned along the axis"
    before = notes.get("warning tilt axis")
    return notes | {"warning tilt axis": f"{before}; {text}" if before else text}


def _wrapped(degrees: float) -> float:
    """The same direction within [-180°, 180°)."""
    return (degrees + 180) % 360 - 180


def choose_size(raw: RawStack, wanted: float | None) -> tuple[float | None, dict[str, str]]:
    """Return the pixel size, nm, and what is to be said of it.

    Args:
        raw: with what the files say.
        wanted: by the user, nm, or None.
    """
    said = raw.pixel_size_nm
    if wanted is None:
        return said, {}
    sources = {"pixel_size": "the settings"}
    if said is not None and abs(said / wanted - 1) > _SAME_SIZE:
        sources["warning pixel size"] = (
            f"the settings say {wanted:.4g} nm, {raw.sources.get('pixel_size', 'the file')} {said:.4g} nm; "
            "the settings were believed"
        )
    return wanted, sources


def _readable(path: Path) -> Sidecar | None:
    try:
        return sidecars.read_sidecar(path)
    except InputError:
        return None


def _check_count(path: Path, chosen: Sidecar, n: int) -> None:
    if len(chosen.angles_deg) != n:
        raise InputError(
            f"{path}: {chosen.path.name} has {len(chosen.angles_deg)} tilt angles, the stack has {n} images; "
            "they must be as many; give the right file with --angles FILE"
        )


def _doubt_angles(
    chosen: Sidecar, others: list[tuple[str, Sidecar | None]], raw: RawStack, sources: dict[str, str]
) -> None:
    rivals = [(name, card.angles_deg) for name, card in others if card is not None]
    if raw.angles_deg is not None:
        rivals.append((raw.sources.get("angles", "the header"), raw.angles_deg))
    doubts = [text for name, other in rivals if (text := _differ(chosen, name, other))]
    doubts += [f"{name} beside the stack cannot be read" for name, card in others if card is None]
    if doubts:
        sources["warning angles"] = "; ".join(doubts)


def _differ(chosen: Sidecar, name: str, other: np.ndarray) -> str | None:
    if len(other) != len(chosen.angles_deg):
        return f"{name} has another number of angles; {chosen.path.name} was used"
    gap = np.abs(chosen.angles_deg - other)
    worst = int(np.argmax(gap))
    if gap[worst] <= _SAME_ANGLE:
        return None
    return (
        f"{chosen.path.name} says {chosen.angles_deg[worst]:.2f}° for image {worst + 1} (counted from 1), "
        f"{name} {other[worst]:.2f}°; {chosen.path.name} was used"
    )


def _size(raw: RawStack, cards: list[Sidecar], sources: dict[str, str]) -> float | None:
    """The file's own pixel size counts first (binning updates it); a sidecar's where there is none."""
    size = raw.pixel_size_nm
    card = next((card for card in cards if card.pixel_size_nm is not None), None)
    said = None if card is None else card.pixel_size_nm
    if card is None or said is None:
        return size
    if size is None:
        sources["pixel_size"] = card.path.name
        return said
    if abs(said / size - 1) > _SAME_SIZE:
        sources["warning pixel size"] = (
            f"{card.path.name} says {said:.4g} nm, the stack {size:.4g} nm; the stack was believed"
        )
    return size


def _axis(raw: RawStack, cards: list[Sidecar], sources: dict[str, str]) -> float | None:
    card = next((card for card in cards if card.tilt_axis_deg is not None), None)
    if card is None:
        return raw.tilt_axis_deg
    sources["tilt_axis"] = card.path.name
    return card.tilt_axis_deg
