"""Values that are written as text: tilts, lists of tilts, blurs, words or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Real
from os import PathLike


def parse_tilts(text: str) -> list[float]:
    """Return the tilts of ``first:last:step`` in degrees.

    Args:
        text: e.g. "-50:50:1.5", which ends at 49.

    Raises:
        ValueError: if it is not three numbers, the step does not lead from first to last, or a tilt is beyond ±89°.
    """
    parts = text.split(":")
    try:
        first, last, step = (float(p) for p in parts)
    except ValueError:
        raise ValueError("expected first:last:step in degrees such as -50:50:1.5") from None
    if not all(math.isfinite(v) for v in (first, last, step)):
        raise ValueError("tilts must be finite")
    if step == 0 or (last - first) / step < 1:
        raise ValueError("the step must lead from the first to the last tilt")
    count = int((last - first) / step + 1e-6) + 1
    if count > 1000:
        raise ValueError(f"these are {count} tilts: at most 1000")
    tilts = [round(first + i * step, 6) for i in range(count)]
    if max(abs(t) for t in tilts) > 89:
        raise ValueError("tilts must lie within ±89°")
    return tilts


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as IMOD's, in order and each once; none for "none".

    Args:
        text: e.g. "3,17,40-44", counted from 1.

    Raises:
        ValueError: if it is no such list.
    """
    if text.strip() == "none":
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise ValueError("expected none, or numbers counted from 1 such as 23 or 3,17,40-44")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def numbers_in_ranges(numbers: Iterable[int]) -> str:
    """Return what :func:`parse_numbers` takes, as short as it can be said.

    Args:
        numbers: counted from 1, rising, e.g. 3, 17, 40, 41, 42, 43, 44, which make "3,17,40-44".
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def numbers_as_text(value: object) -> str:
    """Return what :func:`parse_numbers` takes, checked: YAML has a single number or a list of them too.

    Args:
        value: text, a whole number, or several.

    Raises:
        ValueError: if it is no such list.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    text = ",".join(map(str, parts)) or "none"
    parse_numbers(text)
    return text


def as_text(value: object) -> object:
    """Return a number or a path as the text that stands for it; anything else as it is.

    Args:
        value: given for a setting that takes words, numbers or names of files.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{float(value):.15g}"
    return str(value) if isinstance(value, PathLike) else value


def parse_defocus(text: str) -> tuple[str, float] | None:
    """Return law and size of ``law:pixels``, or None for "none".

    Args:
        text: e.g. "linear:2": a standard deviation of 2 pixels at the steepest tilt, at the edge of the image.

    Raises:
        ValueError: if it is neither.
    """
    if text == "none":
        return None
    law, colon, pixels = text.partition(":")
    try:
        most = float(pixels)
    except ValueError:
        most = math.nan
    if law not in ("linear", "paper") or not colon or not 0 < most <= 50:
        raise ValueError("expected none, or linear:PIXELS or paper:PIXELS with 0 < PIXELS <= 50, e.g. linear:2")
    return law, most


def word_or_number(value: str, words: tuple[str, ...], unit: str) -> str:
    """Return the text if it is one of some words or a number.

    Args:
        value: the text.
        words: that are taken.
        unit: of the number, for the message.

    Raises:
        ValueError: if it is neither.
    """
    if value in words:
        return value
    try:
        float(value)
    except ValueError:
        raise ValueError(f"expected {', '.join(words)} or a number of {unit}") from None
    return value


def clock(seconds: float) -> str:
    """Return a span of time as m:ss or h:mm:ss.

    Args:
        seconds: ≥ 0.
    """
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
