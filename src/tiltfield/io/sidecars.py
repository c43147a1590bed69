"""Files that lie beside a stack and name its tilt angles, pixel size and tilt axis: .rawtlt, .tlt, .mdoc."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import from_imod, nm_per, plausible_pixel

_AXIS = re.compile(r"tilt axis angle\s*=\s*([-+0-9.eE]+)", re.IGNORECASE)
_SECTION = re.compile(r"^\[\s*(\w+)\s*=\s*(.*?)\s*\]\s*$")
_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What a file beside a stack says about it.

    Attributes:
        path: the file.
        angles_deg: float64, shape (image,), degrees, in the order of the images.
        pixel_size_nm: edge of a pixel, nm, or None.
        image_file: name of the stack it belongs to, without a folder, or None.
        tilt_axis_deg: the tilt axis, degrees as `load` counts them, or None.
    """

    path: Path
    angles_deg: np.ndarray
    pixel_size_nm: float | None = None
    image_file: str | None = None
    tilt_axis_deg: float | None = None


def read_sidecar(path: Path) -> Sidecar:
    """Read a list of tilt angles or an .mdoc; which it is, its content says.

    Args:
        path: the file.

    Raises:
        InputError: if it cannot be read or does not hold what it should; the message names the line or section.
    """
    text = text_of(path, "tilt angles")
    if path.suffix.lower() == ".mdoc" or re.search(r"^\[\s*(ZValue|FrameSet)\s*=", text, re.MULTILINE):
        return _parse_mdoc(path, text)
    return Sidecar(path, numbers_of(path, text, 1, "one tilt angle in degrees")[:, 0])


def is_aligned(stack: Path) -> bool:
    """Return whether a stack is aligned by its name: .ali, or x_ali, x_aligned.

    Args:
        stack: the stack.
    """
    return stack.suffix.lower() == ".ali" or stack.stem.lower().endswith(("_ali", "_aligned"))


def stems(stack: Path) -> list[str]:
    """Return what the names of the files that belong to a stack begin with, the likeliest first.

    Args:
        stack: the stack, or a folder of single images.
    """
    found = [stack.stem, stack.name]
    found += [stack.stem.removesuffix(end) for end in ("_ali", "_aligned") if stack.stem.endswith(end)]
    return found


def candidates(stack: Path, aligned: bool | None = None) -> list[Path]:
    """Return the names under which a stack's angles are looked for, the most trusted first.

    An aligned stack prefers the refined .tlt, any other the .rawtlt of the microscope. For a folder of images, files of
    these kinds inside it count too.

    Args:
        stack: the stack, or a folder of single images.
        aligned: whether it is aligned, or is about to be; if None, its name tells.
    """
    suffixes = [".tlt", ".rawtlt"] if (is_aligned(stack) if aligned is None else aligned) else [".rawtlt", ".tlt"]
    begin = stems(stack)
    names = [stem + suffix for suffix in suffixes for stem in begin]
    names += [f"{stack.name}.mdoc", f"{stack.stem}.mdoc"]
    names += [f"{stem}{kind}.mdoc" for stem in dict.fromkeys(begin[::2]) for kind in (".mrc", ".st", ".ali")]
    found = [stack.with_name(name) for name in dict.fromkeys(names)]
    if not stack.is_dir():
        return found
    return [p for s in (*suffixes, ".mdoc") for p in sorted(stack.glob(f"*{s}"))] + found


def find(stack: Path, aligned: bool | None = None) -> list[Path]:
    """Return the sidecars that exist beside a stack, the most trusted first.

    Args:
        stack: the stack, or a folder of single images.
        aligned: as for :func:`candidates`.
    """
    return [path for path in candidates(stack, aligned) if path.is_file()]


def stack_of(mdoc: Path) -> tuple[Path, str | None]:
    """Return the stack an .mdoc belongs to.

    The file with the name of the .mdoc less its suffix comes first, as SerialEM writes it, for stacks get renamed
    together with their .mdoc; then the ``ImageFile`` inside.

    Args:
        mdoc: the .mdoc.

    Returns:
        the stack, and a note if ``ImageFile`` says otherwise.

    Raises:
        InputError: if neither is there.
    """
    inside = read_sidecar(mdoc).image_file
    named, listed = mdoc.with_suffix(""), mdoc.with_name(inside) if inside else None
    if named.is_file():
        note = None if inside in (None, named.name) else f"{mdoc.name} calls its stack {inside}; {named.name} was read"
        return named, note
    if listed and listed.is_file():
        return listed, None
    looked = f"{named.name} and {inside}" if inside else named.name
    raise InputError(
        f"{mdoc}: its stack was not found; looked for {looked} in {mdoc.parent}; "
        "give the stack itself, with --angles for this file"
    )


def text_of(path: Path, what: str) -> str:
    """Return the content of a small text file.

    Args:
        path: the file.
        what: it should hold, for the message.

    Raises:
        InputError: if it is not there, is large, or is no text.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise InputError(f"{path}: expected a small text file with {what}, got {path.stat().st_size} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what} ({error.strerror}); check the name") from error
    if b"\0" in content:
        raise InputError(f"{path}: expected a text file with {what}, got binary data; is it the stack itself?")
    return content.decode("utf-8-sig", errors="replace")


def numbers_of(path: Path, text: str, count: int, expected: str) -> np.ndarray:
    """Return the numbers of a text file, float64, shape (line, count); # and ; begin a comment.

    Args:
        path: the file, for the message.
        text: its content.
        count: numbers in a line.
        expected: what they are, for the message.

    Raises:
        InputError: if a line holds something else, or there is none.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.split(r"[#;]", line, maxsplit=1)[0].strip().rstrip(",").split()
        values = [value for word in words if (value := _float(word)) is not None]
        if words and not len(values) == len(words) == count:
            raise InputError(f"{path}, line {number}: expected {expected}, got '{line.strip()[:60]}'")
        if values:
            rows.append(values)
    if not rows:
        raise InputError(f"{path}: expected {expected} a line, got an empty file")
    return np.array(rows)


def _parse_mdoc(path: Path, text: str) -> Sidecar:
    header, sections = _sections(text)
    if not sections:
        raise InputError(f"{path}: expected [ZValue = n] or [FrameSet = n] sections, got none; is it an .mdoc?")
    order = _order(path, [label for label, _ in sections])
    angles = [_tilt(path, *sections[i]) for i in order]
    spacing = _float(header.get("PixelSpacing", "") or sections[order[0]][1].get("PixelSpacing", ""))
    size = None if spacing is None else spacing * (nm_per("Å") or 0.0)
    size = size if size is not None and plausible_pixel(size) else None
    image = PureWindowsPath(header["ImageFile"]).name if header.get("ImageFile") else None
    return Sidecar(path, np.array(angles), size, image, _axis(text, sections[order[0]][1]))


def axis_in_title(text: str) -> float | None:
    """Return the tilt axis that SerialEM writes into titles, "Tilt axis angle = 84.1, binning = 1 ...".

    Args:
        text: an .mdoc, or the label of an MRC header.

    Returns:
        degrees as `load` counts them, or None.
    """
    match = _AXIS.search(text)
    angle = _float(match[1]) if match else None
    return None if angle is None else from_imod(angle)


def _axis(text: str, section: dict[str, str]) -> float | None:
    """The axis of SerialEM's title; of an .mdoc by Thermo Fisher's Tomography its RotationAngle, as IMOD takes it."""
    angle = _float(section.get("RotationAngle", "")) if "TiltAxisAngle" in text else None
    return axis_in_title(text) if angle is None else from_imod(angle)


def _sections(text: str) -> tuple[dict[str, str], list[tuple[str, dict[str, str]]]]:
    header: dict[str, str] = {}
    sections: list[tuple[str, dict[str, str]]] = []
    current = header
    for line in text.splitlines():
        match = _SECTION.match(line.strip())
        if match and match[1] in ("ZValue", "FrameSet"):
            current = {}
            sections.append((match[2], current))
        elif "=" in line and not line.lstrip().startswith("["):
            key, value = line.split("=", 1)
            current[key.strip()] = value.strip()
    return header, sections


def _order(path: Path, labels: list[str]) -> list[int]:
    values = [_float(label) for label in labels]
    for label, value in zip(labels, values, strict=True):
        if value is None:
            raise InputError(f"{path}: expected a number in [ZValue = n], got '{label[:60]}'")
    numbers = [v for v in values if v is not None]
    if len(set(numbers)) == 1:  # one [FrameSet = 0] for every image: the order of the file
        return list(range(len(numbers)))
    if len(set(numbers)) < len(numbers):
        twice = next(v for v in numbers if numbers.count(v) > 1)
        raise InputError(f"{path}: section {twice:g} is there twice; each image may have one")
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def _tilt(path: Path, label: str, section: dict[str, str]) -> float:
    angle = _float(section.get("TiltAngle", ""))
    if angle is None:
        got = section.get("TiltAngle")
        raise InputError(
            f"{path}: section {label} has {f'TiltAngle = {got[:40]}' if got else 'no TiltAngle'}; expected degrees"
        )
    return angle


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
