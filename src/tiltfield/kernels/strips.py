"""Where the strips of detector columns and the footprints of pixels lie, for kernels of the slice projector.

Positions are whole numbers of 2⁻³² pixels, start + i · step + j · step': exact to 2e-7 pixels in slices of 1000 pixels,
and as wide as memory allows. float32 would be off by 6e-5 there.
"""

from __future__ import annotations

import math

from tiltfield.geometry import SliceGeometry

POINT = 32
"""Binary digits behind the point of a position."""


def fixed(value: float) -> int:
    """Return a position as a whole number.

    Args:
        value: pixels.
    """
    return round(value * 2**POINT)


def lines(g: SliceGeometry) -> list[tuple[bool, int, int, int, int]]:
    """Return, per tilt, whether its lines are columns, its number, and where column k's strip meets line l.

    On row z the strip about u is centred at x = (u - z sin θ) / cos θ, on column x at z = (u - x cos θ) / sin θ.

    Args:
        g: sizes and tilts.

    Returns:
        turned, tilt, start, step of a column, step of a line; whole numbers as :func:`fixed` gives them.
    """
    found = []
    for tilt, angle in enumerate(g.angles):
        cos, sin = math.cos(angle), math.sin(angle)
        turned = abs(sin) > abs(cos)
        lead, other = (sin, cos) if turned else (cos, sin)
        n_lines, n_along = (g.n_x, g.n_z) if turned else (g.n_z, g.n_x)
        start = (n_along - 1) / 2 - (g.n_u - 1) / 2 / lead + (n_lines - 1) / 2 * other / lead
        found.append((turned, tilt, fixed(start), fixed(1 / lead), fixed(-other / lead)))
    return found


def pixels(g: SliceGeometry) -> list[tuple[int, int, int]]:
    """Return, per tilt, the column above which the footprint of pixel (0, 0) begins, and its steps along x and z.

    Args:
        g: sizes and tilts.

    Returns:
        whole numbers as :func:`fixed` gives them.
    """
    rows = []
    for angle in g.angles:
        cos, sin = math.cos(angle), math.sin(angle)
        middle = (g.n_u - 1) / 2 - (g.n_x - 1) / 2 * cos - (g.n_z - 1) / 2 * sin
        rows.append((fixed(middle + 0.5 - (abs(cos) + abs(sin)) / 2), fixed(cos), fixed(sin)))
    return rows


def extents(angle: float) -> tuple[float, float]:
    """Return the smaller and the larger of |cos θ| and |sin θ|: half their sum is half the width of a footprint.

    Args:
        angle: tilt, radians.
    """
    narrow, wide = sorted((abs(math.cos(angle)), abs(math.sin(angle))))
    return narrow, wide
