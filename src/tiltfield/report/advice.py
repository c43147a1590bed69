"""All findings of a run, gathered: the figures that each needs, taken from its record."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiltfield.config import CLASSICAL
from tiltfield.report import findings, tilts
from tiltfield.report.payload import spread
from tiltfield.report.record import Record
from tiltfield.report.words import Finding, Level
from tiltfield.runfolder import cut_short
from tiltfield.schedule import PASSES

ORDER: dict[Level, int] = {"act": 0, "look": 1, "note": 2}


def advice(record: Record) -> list[Finding]:
    """Return what is to be known of a run, what can be mended first.

    Args:
        record: of the run.
    """
    metrics = record.metrics
    found = [*_lost(record), *_of_fit(record), *_of_tilts(record), *_of_noise(record), *_of_volume(record)]
    found += findings.doubts(metrics.get("notes", []))
    return sorted(found, key=lambda f: ORDER[f.level])


def _lost(record: Record) -> list[Finding]:
    if not record.lost:
        return []
    text = f"The tilt series is not shown ({record.lost}). Name it: `tiltfield report {record.folder} --series FILE`."
    return [Finding("look", text)]


def _of_fit(record: Record) -> list[Finding]:
    config, metrics = record.config, record.metrics
    if config.method != "neural":  # its schedule is not ours to judge
        return findings.fit_ended(metrics, (), None)
    curve = [e["heldout_nll"] for e in record.history if e.get("stage") == "fit" and e.get("heldout_nll") is not None]
    return findings.fit_ended(metrics, curve, None if config.max_time is None else PASSES[config.preset])


def _of_tilts(record: Record) -> list[Finding]:
    figures = record.metrics.get("tilts")
    found = tilts.tilt_range(record.angles_deg) if record.angles_deg else []
    if not figures:
        return found
    if record.config.method in CLASSICAL:  # what they leave over is their own doing
        return found
    found += tilts.tilts_that_fit_badly(figures) + tilts.misfit(figures, _correlated(record), _learned(record))
    if cut_short(record.metrics):  # what is not yet explained is no fault of the images
        return found
    return found + tilts.intensity_jumps(figures, _grey_range(record))


def _correlated(record: Record) -> float:
    """Return the correlation of neighbouring residuals along the axis of the images along which it is less."""
    lags = record.metrics.get("residuals", {}).get("autocorrelation", {})
    return min((lags.get(axis) or [0.0])[0] for axis in "xy")


def _learned(record: Record) -> float:
    """Return the typical deviation of the noise that was learned over the range of the clean intensities, or 0."""
    deviation, span = record.metrics.get("noise", {}).get("deviation") or [0.0], _grey_range(record)
    return float(np.median(deviation)) / span if span > 0 else 0.0


def _grey_range(record: Record) -> float:
    """Return the range of the clean intensities."""
    noise = record.metrics.get("noise", {})
    if noise.get("intensity"):
        return float(noise["intensity"][-1] - noise["intensity"][0])
    source = record.rendered if record.rendered is not None else np.zeros(1)
    low, high = spread(source, (0.1, 99.9))
    return high - low


def _of_noise(record: Record) -> list[Finding]:
    noise, residuals = record.metrics.get("noise", {}), record.metrics.get("residuals", {})
    found = findings.correlation(noise, residuals.get("autocorrelation", {}))
    off = bool(record.metrics.get("tilts")) and bool(tilts.misfit(record.metrics["tilts"]))
    found += findings.calibration(residuals.get("calibration_gap", 0.0), off)
    if record.series is None:
        return found
    images, valid = record.series.images, record.series.valid
    if valid is not None:
        found += findings.masked(float(np.mean(~valid)))
    low, high = noise.get("saturated", (False, False))
    at = [float(np.mean(images == end)) if there else 0.0 for end, there in ((images.min(), low), (images.max(), high))]
    return found + findings.saturation(*at)


def _of_volume(record: Record) -> list[Finding]:
    data, config, metrics = record.volume.data, record.config, record.metrics
    low, high = spread(data, (1, 99))
    found = findings.contrast_of_volume(low, high, float(data.mean()))
    if record.rendered is not None and metrics.get("gain") is not None:
        brightest = spread(record.rendered, (0, 99.9))[1]
        mode: Any = metrics.get("mode")
        found += findings.gain_and_offset(mode, brightest, metrics["gain"], metrics["offset"])
    if config.method == "neural":
        layers = data.mean(axis=(1, 2))
        middle = max(float(np.median(layers)), 1e-12)
        ends = float(layers[0]) / middle, float(layers[-1]) / middle
        found += findings.thickness(config.thickness == "auto", len(data), data.shape[2], ends)
    if record.volume.voxel_size_nm is None:
        text = "The pixel size is not known: lengths are in pixels. Give it with `--pixel-size-nm`."
        found.append(Finding("note", text))
    return found
