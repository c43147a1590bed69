"""How far each voxel is to be trusted: fits of half the tilts, and a law that was calibrated on simulated cells.

The volume is fitted again from random halves of its tilts. How far these fits stray from it tells where it would be
another if other noise, or other tilts, had been drawn; as they see half the data for a third of the time, they also
miss what the volume itself is about to miss. They do not tell how much: most of the error is what regularisation and
missing wedge take away from every fit alike. So the stray is turned into a deviation by a law whose few constants come
from simulated cells, where the truth is known. docs/evidence.md has the law, its figures, and where it ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from tiltfield.evidence.rerun import Run, fit_share
from tiltfield.observe import Observer

REFITS = 4  # the law holds for so many
SHARE = 1 / 3  # of the passes of the run's preset
CLAIMED = (0.9, 0.95)  # levels that hold in every single volume; of narrower intervals the mean over volumes holds
NEAR, ALONG, BESIDE, COARSE = (0.6, 0.6, 0.6), (2.0, 0.6, 0.6), (2.5, 0.0, 0.0), (1.0, 5.0, 5.0)
"""Widths along (z, y, x) of the Gaussians that average over neighbours, in lengths of :func:`grain`."""
LONGEST = 20.0  # pixels, of the grain: what is as smooth as that is background
METHOD = (
    "root mean square stray of fits of random half sets of the tilts from the volume, combined with the volume's own "
    "change along the beam by a law that was calibrated on simulated cells"
)
_SEED = 100  # after the run's, of the first refit


@dataclass(frozen=True)
class Law:
    """u = exp(c) · Π (feature + floor)^power, homogeneous in the density; and by how many u intervals are wide.

    Attributes:
        constant: c.
        powers: of the five features, in the order of :func:`features`; they sum to 1.
        floor: added to each feature, in units of the volume's typical density.
        widths: level (0 to 1) to k: density ± k·u covers that share of voxels; 1 at 0.68.
    """

    constant: float
    powers: tuple[float, ...]
    floor: float
    widths: Mapping[float, float]

    def deviation(self, volume: np.ndarray, refits: Sequence[np.ndarray]) -> np.ndarray:
        """Return the uncertainty of each voxel, in the unit of the volume.

        Args:
            volume: density, shape (z, y, x).
            refits: volumes of the same shape.
        """
        logs = features(volume, refits, self.floor)
        total = sum(power * log for power, log in zip(self.powers, logs, strict=True))
        return np.exp(self.constant + total).astype(np.float32)


LAW = Law(-0.038, (0.20604, 0.06814, 0.43013, 0.13925, 0.15644), 0.02, {0.5: 0.671, 0.68: 1.0, 0.9: 1.968, 0.95: 2.803})
"""By ``python benchmarks/uncertainty.py --out DIR --calibrate``: sixteen simulated cells of three kinds. It belongs to
the fit that made them: a change of the default field, regulariser or schedule asks for calibrating anew."""


def typical(volume: np.ndarray) -> float:
    """Return the typical density of a volume, the root of its mean square over the denser half of its voxels.

    Args:
        volume: any shape.
    """
    values = np.abs(np.asarray(volume, np.float32)).ravel()
    return float(np.sqrt(np.mean(values[values >= np.median(values)] ** 2, dtype=np.float64))) or 1.0


def features(volume: np.ndarray, refits: Sequence[np.ndarray], floor: float) -> list[np.ndarray]:
    """Return the logarithms of what the law multiplies.

    Args:
        volume: density, shape (z, y, x).
        refits: volumes of the same shape.
        floor: as in :class:`Law`.

    Returns:
        of the stray, |refit - volume| (root mean square); of the same averaged over neighbours; and, as the missing
        wedge smears along the beam, of the gradient along z, of the difference to the mean along z, and of the gradient
        along z of the coarse density. Shape each (z, y, x).
    """
    length = grain(volume)

    def smooth(values: np.ndarray, width: tuple[float, float, float]) -> np.ndarray:
        return np.asarray(gaussian_filter(values, [length * w for w in width], mode="nearest"))

    def slope(values: np.ndarray) -> np.ndarray:
        return length * np.abs(_along_beam(values))

    square = np.zeros(volume.shape, np.float32)
    for refit in refits:
        square += (refit - volume) ** 2 / len(refits)
    parts = [
        np.sqrt(square),
        np.sqrt(smooth(square, NEAR)),
        smooth(slope(volume), ALONG),
        np.abs(volume - smooth(volume, BESIDE)),
        slope(smooth(volume, COARSE)),
    ]
    least = floor * typical(volume)
    return [np.log(part + least) for part in parts]


def grain(volume: np.ndarray) -> float:
    """Return the length over which a volume changes along the beam, its deviation over that of ∂/∂z, pixels.

    By it the law knows no pixel size.

    Args:
        volume: shape (z, y, x).
    """
    change = float(np.sqrt(np.mean(_along_beam(volume) ** 2, dtype=np.float64)))
    return min(max(float(volume.std(dtype=np.float64)) / change, 0.5), LONGEST) if change > 0 else 1.0


def _along_beam(values: np.ndarray) -> np.ndarray:
    """Return ∂/∂z, per pixel; 0 for a single layer."""
    return np.gradient(values, axis=0) if len(values) > 1 else np.zeros_like(values)


def half_sets(angles_deg: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return half sets of tilts in pairs that complement each other: the even and the odd ones, then random ones.

    A random half takes one of every two neighbours in angle, so that no gap is wider than three steps.

    Args:
        angles_deg: tilts, degrees.
        seed: of the draw.

    Returns:
        four of them, as indices that rise.
    """
    order = np.argsort(angles_deg, kind="stable")
    rng = np.random.default_rng(seed)
    place = np.arange(len(order))
    sets = []
    for k in range(REFITS // 2):
        flip = rng.integers(0, 2, len(order) // 2 + 1)[place // 2] if k else np.zeros(len(order), np.int64)
        which = (place + flip) % 2
        sets += [np.sort(order[which == side]) for side in (0, 1)]
    return sets


def uncertainty(run: Run, observer: Observer) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the uncertainty of a run's volume, and how it was made.

    Args:
        run: of method neural.
        observer: told of progress.

    Returns:
        float32, shape (z, y, x), in the unit of the volume; and plain values: method, refits, intervals (of levels that
        hold in each volume), on_average (of levels that hold in the mean over volumes).
    """
    began = time.perf_counter()
    volumes = refit_halves(run, half_sets(run.series.angles_deg, run.config.seed), observer)
    deviation = LAW.deviation(run.volume.data, volumes)
    return deviation, {
        "file": "uncertainty.mrc",
        "method": METHOD,
        "refits": REFITS,
        "intervals": {f"{level:g}": LAW.widths[level] for level in CLAIMED},
        "on_average": {f"{level:g}": width for level, width in LAW.widths.items() if level not in CLAIMED},
        "rule": rule(),
        "mean": float(deviation.mean(dtype=np.float64)),
        "seconds": time.perf_counter() - began,
    }


def refit_halves(run: Run, sets: Sequence[np.ndarray], observer: Observer) -> list[np.ndarray]:
    """Return the volumes of some sets of tilts, each fitted from scratch with a seed of its own.

    Args:
        run: of method neural.
        sets: indices of tilts.
        observer: told of progress.
    """
    began = time.perf_counter()
    volumes = []
    for k, indices in enumerate(sets):
        volumes.append(fit_share(run, indices, run.config.seed + _SEED + k, SHARE))
        done = (k + 1) / len(sets)
        observer.progress("uncertainty", done, (time.perf_counter() - began) * (1 / done - 1), {})
    return volumes


def rule() -> str:
    """Return in words how wide intervals are."""
    parts = ", ".join(f"± {LAW.widths[level]:.2f} u covers {level:.0%}" for level in CLAIMED)
    return f"density {parts} of voxels, up to the scale of the density; ± u covers 68% on the average of many volumes"
