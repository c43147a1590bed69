"""A finding in words, and how numbers are written in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["act", "look", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: "act": something is wrong and can be mended; "look": judge for yourself; "note": good to know.
        text: one or two sentences; what is to be typed stands between backquotes.
        tilt: number of the tilt it is about, if it is about one.
    """

    level: Level
    text: str
    tilt: int | None = None


def times(ratio: float) -> str:
    """Return how many times, e.g. "4" or "1.6".

    Args:
        ratio: > 0.
    """
    return f"{ratio:.1f}".removesuffix(".0") if ratio < 10 else f"{ratio:.0f}"


def percent(share: float) -> str:
    """Return a share without its sign, e.g. "4 %".

    Args:
        share: 1 is all.
    """
    share = abs(share)
    return f"{100 * share:.0f} %" if share >= 0.02 else f"{100 * share:.1f} %"


def degrees(angle: float) -> str:
    """Return an angle with a true minus, e.g. "−60°".

    Args:
        angle: degrees.
    """
    return f"{angle:.4g}°".replace("-", "−")


def short(value: float | None) -> str:
    """Return a number to three digits, without an exponent where it is of everyday size, or a dash.

    Args:
        value: any; None if unknown.
    """
    if value is None:
        return "–"
    text = f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")
