"""What the page shows, as plain values: pictures of volume and images, curves, figures of tilts and noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiltfield.report.atlas import atlas, shrink
from tiltfield.report.record import Record

VOLUME_BYTES, UNCERTAINTY_BYTES, IMAGES_BYTES, RENDERED_BYTES = 4_800_000, 1_200_000, 1_700_000, 1_000_000
REACH = 4.0  # typical residuals at the ends of their colours; half of what the picture holds
SAMPLES = 2_000_000
ENDS = (0.02, 99.98)  # percentiles that the grey levels of a picture span
WINDOW = (0.5, 99.8)  # those that are black and white at first


def payload(record: Record) -> dict[str, Any]:
    """Return all that the page's scripts draw, JSON-ready.

    Args:
        record: of the run.
    """
    order = None if record.series is None else np.argsort(record.series.angles_deg, kind="stable")
    return {
        "volume": _volume(record),
        "images": _images(record, order),
        "tilts": _tilts(record.metrics.get("tilts", {})),
        "unit": "noise" if record.metrics.get("noise", {}).get("deviation") else "mean",
        "fit": _columns(record, "fit", ("step", "seconds", "heldout_nll", "nll", "loss", "tv")),
        "weights": _columns(record, "weight", ("tv_weight", "heldout_nll")),
        "chosen": record.metrics.get("tv_weight"),
        "noise": {**record.metrics.get("residuals", {}), "correlation": _correlation(record)},
        "evaluation": {key: record.evaluation.get(key) for key in ("fsc", "whiteness", "heldout_per_tilt")},
    }


def spread(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles of a sample of the values, made different if they are equal.

    Args:
        values: any shape.
        percentiles: lower and upper.
    """
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // SAMPLES)]
    low, high = (float(v) for v in np.percentile(flat, percentiles))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _volume(record: Record) -> dict[str, Any]:
    data, binned = shrink(record.volume.data, (0, 1, 2))
    low, high = spread(data, ENDS)
    found: dict[str, Any] = {
        "shape": record.volume.data.shape,
        "bin": binned,
        "voxel_nm": record.volume.voxel_size_nm,
        "window": spread(data, WINDOW),
        "density": atlas(data, low, high, VOLUME_BYTES, root=True),
    }
    if record.uncertainty is not None:
        doubt, _ = shrink(record.uncertainty, (0, 1, 2))
        found["uncertainty"] = atlas(doubt, 0.0, spread(doubt, ENDS)[1], UNCERTAINTY_BYTES, root=True)
        found["uncertainty_window"] = (0.0, spread(doubt, WINDOW)[1])
    return found


def _images(record: Record, order: np.ndarray | None) -> dict[str, Any] | None:
    """Return observed and rendered images and their residuals over the noise, in order of angle."""
    series, rendered = record.series, record.rendered
    if series is None or order is None:
        return None
    observed, binned = shrink(series.images, (1, 2))
    low, high = spread(observed, (0.1, 99.9))
    found: dict[str, Any] = {
        "bin": binned,
        "pixel_nm": series.pixel_size_nm,
        "shape": series.images.shape[1:],
        "number": series.tilt_numbers[order],
        "angle": series.angles_deg[order],
        "window": spread(observed, WINDOW),
        "observed": atlas(observed[order], low, high, IMAGES_BYTES),
    }
    if rendered is None:
        return found
    found["rendered"] = atlas(shrink(rendered, (1, 2))[0][order], low, high, RENDERED_BYTES)
    shares = np.concatenate([shrink(_over_noise(record, k)[None], (1, 2))[0] for k in order])
    typical = spread(np.abs(shares), (0, 68.3))[1]
    found["reach"] = REACH * typical
    found["residual"] = atlas(shares, -2 * REACH * typical, 2 * REACH * typical, IMAGES_BYTES)
    return found


def _over_noise(record: Record, k: int) -> np.ndarray:
    """Return observed less rendered over the deviation of the noise, of one tilt, 0 where there are no data."""
    assert record.series is not None
    assert record.rendered is not None
    noise, twin = record.metrics.get("noise", {}), record.rendered[k]
    difference = record.series.images[k] - twin
    if record.series.valid is not None:
        difference[~record.series.valid[k]] = 0
    if noise.get("deviation"):
        return np.asarray(difference / np.interp(twin, noise["intensity"], noise["deviation"]), np.float32)
    return np.asarray(difference / (record.metrics.get("rmse") or max(float(difference.std()), 1e-12)), np.float32)


def _tilts(tilts: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the figures of the tilts in order of angle."""
    if not tilts:
        return {}
    order = np.argsort(tilts["angle_deg"], kind="stable")
    return {name: [column[k] for k in order] for name, column in tilts.items()}


def _columns(record: Record, stage: str, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return what the history tells of a stage, by name."""
    entries = [entry for entry in record.history if entry.get("stage") == stage]
    return {name: [entry.get(name) for entry in entries] for name in names}


def _correlation(record: Record) -> list[float]:
    noise = record.metrics.get("noise", {})
    return list(noise.get("correlation", [])) if noise.get("scan_axis") else []
