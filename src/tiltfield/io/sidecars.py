"""Files that lie beside a stack and name its tilt angles: .rawtlt, .tlt, .mdoc."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.raw import nm_per, plausible_pixel

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
    """

    path: Path
    angles_deg: np.ndarray
    pixel_size_nm: float | None = None
    image_file: str | None = None


def read_sidecar(path: Path) -> Sidecar:
    """Read a list of tilt angles or an .mdoc; which it is, its content says.

    Args:
        path: the file.

    Raises:
        InputError: if it cannot be read or does not hold what it should; the message names the line or section.
    """
    text = _text(path)
    if path.suffix.lower() == ".mdoc" or re.search(r"^\[\s*(ZValue|FrameSet)\s*=", text, re.MULTILINE):
        return _parse_mdoc(path, text)
    return Sidecar(path, _parse_angles(path, text))


def candidates(stack: Path) -> list[Path]:
    """Return the names under which a stack's angles are looked for, the most trusted first.

    An aligned stack (.ali) prefers the refined .tlt, any other the .rawtlt of the microscope. For a folder of images,
    files of these kinds inside it count too.

    Args:
        stack: the stack, or a folder of single images.
    """
    aligned = stack.suffix.lower() == ".ali" or stack.stem.endswith("_ali")
    suffixes = [".tlt", ".rawtlt"] if aligned else [".rawtlt", ".tlt"]
    stems = [stack.stem, stack.name]
    stems += [stack.stem.removesuffix(end) for end in ("_ali", "_aligned") if stack.stem.endswith(end)]
    names = [stem + suffix for suffix in suffixes for stem in stems]
    names += [f"{stack.name}.mdoc", f"{stack.stem}.mdoc"]
    names += [f"{stem}{kind}.mdoc" for stem in dict.fromkeys(stems[::2]) for kind in (".mrc", ".st", ".ali")]
    found = [stack.with_name(name) for name in dict.fromkeys(names)]
    if not stack.is_dir():
        return found
    return [p for s in (*suffixes, ".mdoc") for p in sorted(stack.glob(f"*{s}"))] + found


def find(stack: Path) -> list[Path]:
    """Return the sidecars that exist beside a stack, the most trusted first.

    Args:
        stack: the stack, or a folder of single images.
    """
    return [path for path in candidates(stack) if path.is_file()]


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


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LIMIT:
            raise InputError(f"{path}: expected a small text file with tilt angles, got {path.stat().st_size} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the tilt angles ({error.strerror}); check the name") from error
    if b"\0" in content:
        raise InputError(f"{path}: expected a text file with tilt angles, got binary data; is it the stack itself?")
    return content.decode("utf-8-sig", errors="replace")


def _parse_angles(path: Path, text: str) -> np.ndarray:
    angles = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.split(r"[#;]", line, maxsplit=1)[0].strip().rstrip(",").split()
        if not words:
            continue
        angle = _float(words[0]) if len(words) == 1 else None
        if angle is None:
            raise InputError(f"{path}, line {number}: expected one tilt angle in degrees, got '{line.strip()[:60]}'")
        angles.append(angle)
    if not angles:
        raise InputError(f"{path}: expected one tilt angle a line, got an empty file")
    return np.array(angles)


def _parse_mdoc(path: Path, text: str) -> Sidecar:
    header, sections = _sections(text)
    if not sections:
        raise InputError(f"{path}: expected [ZValue = n] or [FrameSet = n] sections, got none; is it an .mdoc?")
    order = _order(path, [label for label, _ in sections])
    angles = [_tilt(path, *sections[i]) for i in order]
    spacing = _float(header.get("PixelSpacing", "") or sections[order[0]][1].get("PixelSpacing", ""))
    size = None if spacing is None else spacing * (nm_per("Å") or 0.0)
    image = PureWindowsPath(header["ImageFile"]).name if header.get("ImageFile") else None
    return Sidecar(path, np.array(angles), size if size is not None and plausible_pixel(size) else None, image)


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
