"""What is to be known of single tilts, and of all together, in words: pure functions from figures to sentences.

Tilts are numbered from 1, as in the file and as ``--exclude`` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiltfield.parse import numbers_in_ranges
from tiltfield.report.words import Finding, degrees, percent, times

NEIGHBOURS = 3  # tilts to either side that a tilt is held against
WORSE, SURE = 1.5, 6.0  # times its neighbours' error, and robust deviations beyond them, from which a tilt stands out
JUMP = 0.02  # of the grey range, by which a mean intensity may be off
LISTED = 3  # tilts that get a sentence each
UNEXPLAINED, FAR, UNNEEDED = 1.5, 3.0, 0.6  # times the variance of the noise
UNEVEN, VERY_UNEVEN = 0.03, 0.1  # of the grey range, by which mean intensities differ from tilt to tilt
AT_ENDS = 3.0  # times JUMP: the steepest tilts have neighbours on one side, and are those that a fit explains last
SHARP = 0.7  # of a change over many tilts, which a step makes at once and a trend does not
FLOOR = 0.03  # of the grey range, up to which noise may be what every model allows for imperfect alignment
STRUCTURED = 0.5  # correlation of neighbouring residuals beyond what interpolation of the images brings
FEW = 10.0  # degrees between tilts, from which on they are few
GENTLE, GAP = 50.0, 3.0  # degrees; times the median step


def tilts_that_fit_badly(tilts: Mapping[str, Any]) -> list[Finding]:
    """Name the tilts that fit much worse than those at angles beside theirs.

    Args:
        tilts: number, angle_deg, chi2 and heldout_chi2, lists with an entry a tilt.
    """
    number, angle, error = _errors(tilts)
    ratio = error / np.array([np.median(error[near]) for near in _beside(angle)])
    spread = _spread(np.log(ratio))
    bad = np.flatnonzero((ratio > WORSE) & (np.log(ratio) > SURE * spread))
    worst = [k for k in bad[np.argsort(-ratio[bad], kind="stable")] if math.isfinite(ratio[k])]
    if len(worst) > LISTED:
        listed = numbers_in_ranges(sorted(int(number[k]) for k in worst))
        text = (
            f"Tilts {listed.replace(',', ', ')} fit {times(ratio[worst[-1]])} to {times(ratio[worst[0]])} times worse "
            f"than their neighbours: look at them below, and exclude those that are bad with `--exclude {listed}`"
        )
        return [Finding("act", text + ".", int(number[worst[0]]))]
    return [
        Finding(
            "act",
            f"Tilt {number[k]} ({degrees(angle[k])}) fits {times(ratio[k])} times worse than its neighbours: "
            f"exclude it with `--exclude {number[k]}`.",
            int(number[k]),
        )
        for k in worst
    ]


def _errors(tilts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, angle and error of the tilts in order of angle; held-out if most have it, else of all pixels."""
    held = tilts.get("heldout_chi2", [])
    chosen = held if sum(v is not None for v in held) > len(held) / 2 else tilts["chi2"]
    order = [k for k in np.argsort(tilts["angle_deg"], kind="stable") if chosen[k]]
    columns = tilts["number"], tilts["angle_deg"], chosen
    number, angle, error = (np.array([column[k] for k in order]) for column in columns)
    return number, angle, error.astype(float)


def _beside(angle: np.ndarray) -> list[list[int]]:
    """Return for each tilt, in order of angle, which ones are beside it."""
    n = len(angle)
    return [[j for j in range(max(0, k - NEIGHBOURS), min(n, k + NEIGHBOURS + 1)) if j != k] or [k] for k in range(n)]


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation as the median deviation tells it, at least 0.03."""
    return max(0.03, 1.4826 * float(np.median(np.abs(values - np.median(values))))) if len(values) else 0.03


def intensity_jumps(tilts: Mapping[str, Any], grey_range: float) -> list[Finding]:
    """Tell where, in the order of recording, images get brighter or darker than the volume explains.

    Args:
        tilts: number, angle_deg and mean_residual, lists with an entry a tilt.
        grey_range: between the darkest and the brightest clean intensity.
    """
    order = [k for k in np.argsort(tilts["number"], kind="stable") if tilts["mean_residual"][k] is not None]
    if len(order) < 4 * NEIGHBOURS or not grey_range > 0:
        return []
    off = np.array([tilts["mean_residual"][k] for k in order]) / grey_range
    beside = np.array([np.median(off[near]) for near in _beside(off)])
    scatter = 1.4826 * float(np.median(np.abs(off - beside)))
    usual, at_ends = (max(jump, SURE * scatter) for jump in (JUMP, AT_ENDS * JUMP))
    names = [f"tilt {tilts['number'][k]} ({degrees(tilts['angle_deg'][k])})" for k in order]
    if scatter > UNEVEN:
        text = (
            f"Images are brighter or darker than the volume explains by {percent(scatter)} of the grey range, from "
            "tilt to tilt: exposures differ. Bring the images to one scale before the reconstruction."
        )
        return [Finding("act" if scatter > VERY_UNEVEN else "look", text)]
    steepest = np.argsort([tilts["angle_deg"][k] for k in order], kind="stable")
    least = np.full(len(off), usual)
    for ends in (np.arange(len(off)), steepest):
        least[[*ends[:NEIGHBOURS], *ends[-NEIGHBOURS:]]] = at_ends
    step = _step(off, usual, at_ends)
    odd = [k for k in np.flatnonzero(np.abs(off - beside) > least) if step is None or abs(k - step) > NEIGHBOURS]
    found = [
        Finding(
            "look",
            f"{names[k].capitalize()} is {percent(off[k] - beside[k])} of the grey range "
            f"{'brighter' if off[k] > beside[k] else 'darker'} than those beside it, against what the volume explains: "
            "beam current or detector gain changed, or it shows what the others do not.",
            int(tilts["number"][order[k]]),
        )
        for k in odd[:LISTED]
    ]
    if step is not None:
        before, after = off[max(0, step - 2 * NEIGHBOURS) : step], off[step : step + 2 * NEIGHBOURS]
        change = float(np.median(after) - np.median(before))
        text = (
            f"From {names[step]} on, images are {percent(change)} of the grey range "
            f"{'brighter' if change > 0 else 'darker'} than the volume explains: intensity changed during the "
            "recording. Bring the images to one scale before the reconstruction."
        )
        found.append(Finding("look", text, int(tilts["number"][order[step]])))
    return found


def _step(values: np.ndarray, least: float, at_ends: float) -> int | None:
    """Return where values step up or down for good and at once, by more than `least`, or None; by more at the ends."""
    near, change = _change(values, 2 * NEIGHBOURS)
    if abs(change) <= (least if 2 * NEIGHBOURS < near < len(values) - 2 * NEIGHBOURS else at_ends):
        return None
    around = slice(max(0, near - 2 * NEIGHBOURS), near + 2 * NEIGHBOURS)
    if abs(_change(values[around], NEIGHBOURS)[1]) < SHARP * abs(change):  # a trend
        return None
    places = np.arange(max(1, near - NEIGHBOURS), min(len(values), near + NEIGHBOURS + 1))
    return int(places[np.argmax(np.abs(values[places] - values[places - 1]))])


def _change(values: np.ndarray, n: int) -> tuple[int, float]:
    """Return where the median of n values differs most from that of the n before, and by how much; 0 of too few."""
    places = range(n, len(values) - n + 1)
    changes = [float(np.median(values[k : k + n]) - np.median(values[k - n : k])) for k in places]
    return max(zip(places, changes, strict=True), key=lambda found: abs(found[1]), default=(0, 0.0))


def misfit(tilts: Mapping[str, Any], correlated: float = 0.0, noise: float = 0.0) -> list[Finding]:
    """Tell if what is left of the images is much more than the noise, or much less.

    Args:
        tilts: number, angle_deg, chi2 and heldout_chi2, lists with an entry a tilt.
        correlated: how much residuals of neighbouring pixels correlate, along the axis along which they do less.
        noise: standard deviation that was learned, over the grey range.
    """
    errors = _errors(tilts)[2]
    if not len(errors):
        return []
    error = float(np.median(errors))
    if error < UNNEEDED and correlated > STRUCTURED:
        text = (
            f"Neighbouring residuals correlate by {correlated:.2f} or more along both axes, yet have {error:.2g} of "
            "the variance of the noise that was learned: structure that the volume lacks was taken for noise. The fit "
            "was too short (`--preset`, `--max-time`), the tilt axis is wrong, or the series is not aligned."
        )
        return [Finding("act", text)]
    if error < UNNEEDED and noise > FLOOR:
        text = (
            f"Residuals have {error:.2g} of the variance of the noise that was learned, whose deviation is "
            f"{percent(noise)} of the grey range: some of what was taken for noise is structure that was explained "
            "only later, in a fit that was short (`--preset`, `--max-time`), about a tilt axis that is wrong "
            "(`--tilt-axis`), or of a series that is not aligned."
        )
        return [Finding("look", text)]
    if error < UNNEEDED:
        text = (
            f"Residuals have {error:.2g} of the variance that the noise model allows. It always allows 1 % of the grey "
            "range for imperfect alignment: these images are cleaner than that."
        )
        return [Finding("note", text)]
    if error <= UNEXPLAINED:
        return []
    text = (
        f"Residuals have {times(error)} times the variance of the noise: the volume does not explain all of the "
        "images. The fit was too short, the tilt axis is wrong (`--tilt-axis`), the series is not aligned, or there is "
        "detail finer than the volume shows."
    )
    return [Finding("act" if error > FAR else "look", text)]


def tilt_range(angles_deg: Sequence[float]) -> list[Finding]:
    """Say what the missing wedge does, and name gaps between tilts.

    Args:
        angles_deg: tilts.

    Radermacher, in Frank (ed.), Electron Tomography (1992): elongation √((α + sin α cos α) / (α - sin α cos α)) along
    the beam, of a point reconstructed from tilts within ±α by weighted back-projection.
    """
    angles = np.sort(np.asarray(angles_deg, float))
    first, last = float(angles[0]), float(angles[-1])
    half = math.radians(min(89.9, (last - first) / 2))
    product = math.sin(half) * math.cos(half)
    longer = math.sqrt((half + product) / max(half - product, 1e-9))
    text = (
        f"Tilts reach from {degrees(first)} to {degrees(last)}: a wedge of {180 - (last - first):.0f}° was never "
        f"seen. Back-projection would draw points out along z {longer:.1f} times; a fit with a prior does better, but "
        "faces across the beam remain the least certain part of the volume."
    )
    found = [Finding("look" if math.degrees(half) < GENTLE else "note", text)]
    steps = np.diff(angles)
    usual = float(np.median(steps))
    if usual > FEW:
        text = f"There are {len(angles)} tilts, {usual:.0f}° apart: what lies between is the prior's guess."
        found.append(Finding("look", text))
    wide = np.flatnonzero(steps > max(GAP * usual, GAP))
    if len(wide):
        places = ", ".join(f"{degrees(angles[k])} and {degrees(angles[k + 1])}" for k in wide[:LISTED])
        found.append(Finding("look", f"There are no images between {places}."))
    return found
