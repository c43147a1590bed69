"""Find dead and hot pixels before anything is fitted, and tell counted data from measured.

A pixel is masked when it has no number, when it never changes while its neighbours do, or when it stands alone, far
above or below everything around it. Heavy noise, saturation and small bright particles stay: in doubt, keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import convolve, uniform_filter

from tiltfield.blank import constant_images, image_names, one_value, without_number
from tiltfield.errors import InputError
from tiltfield.threads import by_image

_MOST_HOT = 0.003  # of all pixels standing out: more is the nature of the data
_LOCAL_SIGMAS = 8.0
_TAIL = 3.5  # times the 99.5 % quantile of the image's own deviations, 2.8 σ for a normal
_NEARLY = 0.6  # of the way out: if more pixels are here than beyond, the tail is continuous
_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def screen(
    images: np.ndarray, angles_deg: np.ndarray | None = None, numbers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Mask the pixels that cannot be trusted and put a local median in their place.

    Args:
        images: shape (tilt, row, col), any real numbers; never changed.
        angles_deg: tilts, degrees, shape (tilt,), to name images by; may be left out.
        numbers: of the images in their file, counted from 1, shape (tilt,); 1, 2, … if left out.

    Returns:
        the images as float32 (the same array if it was float32 and nothing was replaced), a bool mask of the same shape
        that is False where a pixel was replaced (None if none was), and what was done, in words.

    Raises:
        InputError: if `images` is not three-dimensional and real, an image is constant, or more than 1 % of it is NaN
            or infinite; of what is joined to its edges, where a picture that was aligned ends, more than half.
    """
    values = _float32(images)
    valid, report = find_bad(values, angles_deg, numbers)
    if valid is None:
        return values, None, report
    return fill(values, valid, in_place=not np.shares_memory(values, images)), valid, report


def find_bad(
    images: np.ndarray, angles_deg: np.ndarray | None = None, numbers: np.ndarray | None = None
) -> tuple[np.ndarray | None, list[str]]:
    """Return the mask and the words of :func:`screen`.

    Args:
        images: float32, shape (tilt, row, col).
        angles_deg: as there.
        numbers: as there.

    Raises:
        InputError: as there.
    """
    lost, constant, somewhere = [], {}, np.zeros(images.shape[1:], bool)
    for name, image in zip(image_names(len(images), angles_deg, numbers), images, strict=True):
        bad = ~np.isfinite(image)
        lost.append(without_number(name, bad))
        value = one_value(image[~bad] if any(lost[-1]) else image)
        if value is not None:
            constant[name] = value
        somewhere |= bad
    if constant:
        raise InputError(constant_images(constant))
    stuck = _stuck(images, somewhere)
    spots, note = _hot(images, stuck, quantum_of(images))
    report = _report_lost(lost) + _report_stuck(stuck) + note
    if not (somewhere.any() or stuck.any() or len(spots)):
        return None, report
    valid = np.empty(images.shape, bool)
    for image, good in zip(images, valid, strict=True):
        np.logical_not(_bad(image, stuck), out=good)
    valid[tuple(spots.T)] = False
    return valid, report


def fill(images: np.ndarray, valid: np.ndarray, *, in_place: bool = False) -> np.ndarray:
    """Return images with a local median in place of masked pixels, whatever these hold.

    Args:
        images: float32, shape (tilt, row, col).
        valid: bool, same shape: False where masked.
        in_place: whether the images themselves are changed.
    """
    filled = images if in_place else images.copy()
    for image, good in zip(filled, valid, strict=True):
        if good.any() and not good.all():
            image[...] = _filled(image, ~good)
    return filled


def quantile(values: np.ndarray, share: float) -> float:
    """Return what np.quantile does, in a quarter of the time.

    Args:
        values: two or more, any shape.
        share: of the values that lie below, 0 ≤ share < 1.
    """
    place = share * (values.size - 1)
    ranked = np.partition(values, int(place), axis=None)[int(place) :]
    below, above, way = ranked[0], ranked[1:].min(), place % 1
    gap = float(above - below)
    return float(above) - (1 - way) * gap if way >= 0.5 else float(below) + way * gap


def quantum_of(images: Iterable[np.ndarray]) -> float | None:
    """Return the spacing of the grey values if they are whole numbers, else None.

    Args:
        images: shape (tilt, row, col), or parts of them; values that are not finite are passed over.

    Returns:
        the greatest common divisor of all differences, e.g. 1.0 for counts; None for values with fractions.
    """
    spacing = 0
    origin: int | None = None
    for image in images:
        whole = _whole(image)
        if whole is None:
            return None
        if whole.size == 0:
            continue
        origin = int(whole[0]) if origin is None else origin
        if spacing != 1:
            spacing = math.gcd(spacing, int(np.gcd.reduce(whole - origin)))
    return float(spacing or 1) if origin is not None else None


def _whole(image: np.ndarray) -> np.ndarray | None:
    """The values as int64, or None if one of them is no whole number that float32 can hold."""
    if image.dtype.kind in "iub":
        return image.ravel().astype(np.int64)
    finite = image[np.isfinite(image)]
    if finite.size and (np.abs(finite).max() >= 2**24 or np.any(finite != np.rint(finite))):
        return None
    return finite.astype(np.int64)


def _float32(images: np.ndarray) -> np.ndarray:
    if images.ndim != 3 or images.dtype.kind not in "iufb" or 0 in images.shape:
        raise InputError(
            f"expected images of shape (tilt, row, col) with real values, got shape {images.shape}, {images.dtype}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return images.astype(np.float32, copy=False)


def _stuck(values: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Pixels of one value in all tilts, alone among neighbours for which that would be a wonder."""
    same = ~lost
    for image in values[1:]:
        same &= image == values[0]
    alone = same & (convolve(same.astype(np.uint8), _NEIGHBOURS, mode="constant") == 0)
    spots = np.argwhere(alone)
    stuck = np.zeros_like(same)
    if len(spots) <= _MOST_HOT * same.size + 1:
        for row, col in spots:
            stuck[row, col] = _wonder(values, row, col) * same.size < 1e-3
    return stuck


def _wonder(values: np.ndarray, row: int, col: int) -> float:
    """Chance that this pixel's value comes up in every tilt, judged by the neighbour that shows it most often."""
    n = len(values)
    near = values[:, max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
    hits = np.count_nonzero(near == values[0, row, col], axis=0)
    hits[min(row, 1), min(col, 1)] = 0
    return float((hits.max() + 1) / (n + 1)) ** n


def _hot(values: np.ndarray, stuck: np.ndarray, quantum: float | None) -> tuple[np.ndarray, list[str]]:
    """Return the (image, row, col) of hot and dead pixels, shape (pixel, 3), and a report."""
    if min(values.shape[1:]) < 5:
        return np.zeros((0, 3), int), []

    def outlying(image: np.ndarray) -> tuple[np.ndarray, int]:
        bad = _bad(image, stuck)
        spots, score = _outlyingness(_filled(image, bad) if bad.any() else image, quantum)
        nearly = np.count_nonzero((score > _NEARLY) & (score <= 1))
        return spots[(score > 1) & ~bad[tuple(spots.T)]], int(nearly)

    found = by_image(outlying, values)
    nearly = sum(number for _, number in found)
    hot = np.concatenate([np.insert(spots, 0, i, axis=1) for i, (spots, _) in enumerate(found)])
    hot = _without_saturated(values, stuck, hot)
    count, where = len(hot), len(np.unique(hot[:, 0]))
    if count and (nearly > count or count > _MOST_HOT * values.size + 3):
        return hot[:0], [f"{count} single pixel{_s(count)} stand out, but as the tail of many: none masked"]
    return hot, [f"{count} hot or dead pixel{_s(count)} in {where} image{_s(where)} masked"] if count else []


def _bad(image: np.ndarray, stuck: np.ndarray) -> np.ndarray:
    return stuck | ~np.isfinite(image)


def _outlyingness(image: np.ndarray, quantum: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels that stand out, (row, col), and how far from noise and tails of the image: beyond 1 is too far."""
    centred = image.astype(np.float64)
    centred -= np.median(image[::4, ::4])  # roughly, lest running sums lose digits
    size = _ring(centred, 5)
    np.abs(np.subtract(centred, size, out=size), out=size)
    tail = quantile(size, 0.995)
    spots = np.argwhere(size > _NEARLY * _TAIL * tail)  # half a percent of the pixels at most
    if tail == 0 or not len(spots):
        return spots[:0], np.zeros(0)
    high = size[tuple(spots.T)]
    sigma = np.sqrt(_around(np.minimum(_windows(size, 7, "edge", spots), 1.5 * tail) ** 2).mean(axis=1))
    likely = high > _NEARLY * _LOCAL_SIGMAS * sigma
    spots, high, sigma = spots[likely], high[likely], sigma[likely]
    near = _windows(centred, 5, "reflect", spots)
    far = np.minimum(high / (_TAIL * tail), high / np.maximum(_LOCAL_SIGMAS * sigma, 1e-9 * tail))
    far = np.minimum(far, _beyond_counting(near - centred.min(), quantum))
    return spots, np.minimum(far, _beyond_median(near)) * _alone(near)


def _windows(image: np.ndarray, size: int, mode: Any, spots: np.ndarray) -> np.ndarray:
    """Return squares of pixels around some, shape (pixel, size, size), the image continued beyond its edges."""
    return sliding_window_view(np.pad(image, size // 2, mode=mode), (size, size))[tuple(spots.T)]


def _ring(image: np.ndarray, size: int) -> np.ndarray:
    """Mean of a square of pixels around each, itself left out."""
    return (uniform_filter(image, size, mode="nearest") * size**2 - image) / (size**2 - 1)


def _around(near: np.ndarray) -> np.ndarray:
    """Return the pixels around the centres of windows, shape (window, pixel)."""
    size = math.prod(near.shape[1:])
    return np.delete(near.reshape(len(near), size), size // 2, axis=1)


def _beyond_median(near: np.ndarray) -> np.ndarray:
    """Distance of the centre from the median around it, in units of the allowed number of robust sigmas."""
    around = _around(near)
    middle = np.median(around, axis=1)
    spread = 1.4826 * np.median(np.abs(around - middle[:, None]), axis=1)
    height = np.abs(near[:, 2, 2] - middle)
    return height / np.maximum(_LOCAL_SIGMAS * spread, 1e-9 * height + np.finfo(float).tiny)


def _alone(near: np.ndarray) -> np.ndarray:
    """Whether the neighbours have no share in a pixel's height, as they would under any blur."""
    middle = np.median(_around(near), axis=1)
    height = near[:, 2, 2] - middle
    share = (near - middle[:, None, None]) / np.where(height == 0, 1, height)[:, None, None]
    cross = (share[:, 1, 2] + share[:, 3, 2] + share[:, 2, 1] + share[:, 2, 3]) / 4
    touching = np.delete(share[:, 1:4, 1:4].reshape(len(near), 9), 4, axis=1).max(axis=1)
    return (height != 0) & (cross < 0.1) & (touching < 0.5)


def _beyond_counting(near: np.ndarray, quantum: float | None) -> np.ndarray:
    """For counted data, the distance as Poisson noise, 2(√(n + 3/8) − √(λ + 3/8)), in units of the allowed sigmas."""
    if quantum is None:
        return np.full(len(near), np.inf)
    count, mean = near[:, 2, 2] / quantum, _around(near).mean(axis=1) / quantum
    return np.abs(2 * (np.sqrt(count + 0.375) - np.sqrt(mean + 0.375))) / _LOCAL_SIGMAS


def _without_saturated(values: np.ndarray, stuck: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """Leave out what sits at the lowest or highest grey value if most pixels there are no outliers: clipping."""
    if not len(hot):
        return hot
    grey = values[tuple(hot.T)]

    def of_all(figure: Callable[[np.ndarray], Any]) -> list[Any]:
        return by_image(lambda image: figure(image[~_bad(image, stuck)]), values)

    ends = min(of_all(np.min)), max(of_all(np.max))
    counts = np.sum(of_all(lambda good: [np.count_nonzero(good == end) for end in ends]), axis=0)
    for level, there in zip(ends, counts, strict=True):
        if 2 * np.count_nonzero(grey == level) < there:
            hot, grey = hot[grey != level], grey[grey != level]
    return hot


def _filled(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the image with the median of the good pixels within two of it at each bad one."""
    rows, cols = np.nonzero(bad)
    holed = np.where(bad, np.nan, image)
    near = np.sort(
        sliding_window_view(np.pad(holed, 2, constant_values=np.nan), (5, 5))[rows, cols].reshape(-1, 25), axis=1
    )
    count = 25 - np.count_nonzero(np.isnan(near), axis=1)
    every = np.arange(len(near))
    middle = (near[every, np.maximum(count - 1, 0) // 2] + near[every, count // 2]) / 2
    holed[rows, cols] = np.where(count > 0, middle, np.median(image[~bad]))
    return holed


def _report_lost(lost: list[tuple[int, int]]) -> list[str]:
    report = []
    kinds = ("without a number (NaN or infinite)", "without a number at the edges of the picture,")
    for counts, what in zip(zip(*lost, strict=True), kinds, strict=True):
        where, total = int(np.count_nonzero(counts)), sum(counts)
        report += [f"{total} pixel{_s(total)} {what} in {where} image{_s(where)} masked"] if total else []
    return report


def _report_stuck(stuck: np.ndarray) -> list[str]:
    spots = np.argwhere(stuck)
    if not len(spots):
        return []
    listed = ", ".join(f"row {r} column {c}" for r, c in spots[:4]) + (", ..." if len(spots) > 4 else "")
    return [f"{len(spots)} pixel{_s(len(spots))} with one value in all images masked ({listed})"]


def _s(count: int) -> str:
    return "" if count == 1 else "s"
