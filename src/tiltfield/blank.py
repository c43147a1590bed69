"""Images that hold no picture, or not everywhere: of one grey value, or of pixels without a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

from tiltfield.errors import InputError
from tiltfield.parse import numbers_in_ranges

_MOST_LOST = 0.01  # of an image without a number: more is no defect, but a broken file, unless it lies at the edges
_MOST_BESIDE = 0.5  # of an image without a number at its edges


@dataclass(frozen=True)
class ImageName:
    """How messages call an image: "image 3 (counted from 1, at 12.00°)".

    Attributes:
        number: in its file, from 1.
        angle_deg: its tilt, degrees; None if unknown.
    """

    number: int
    angle_deg: float | None = None

    def __str__(self) -> str:
        return f"image {self.number} (counted from 1{'' if self.angle_deg is None else f', at {self.angle_deg:.2f}°'})"


def image_names(count: int, angles_deg: np.ndarray | None, numbers: np.ndarray | None) -> list[ImageName]:
    """Return what to call the images of a series.

    Args:
        count: of the images.
        angles_deg: tilts, degrees, of as many of them as have one; None if unknown.
        numbers: in their file, from 1, shape (count,); None: 1, 2, …
    """
    angles = [None] * count if angles_deg is None else [*map(float, angles_deg), *[None] * count]
    return [ImageName(i + 1 if numbers is None else int(numbers[i]), angles[i]) for i in range(count)]


def one_value(image: np.ndarray) -> float | None:
    """Return the grey value of an image without contrast, None of any other.

    Args:
        image: any shape.
    """
    low, high = float(image.min()), float(image.max())
    return low if low == high else None


def constant_images(values: Mapping[ImageName, float]) -> str:
    """Return the message for images without contrast.

    Args:
        values: the grey value of all pixels, of each such image.
    """
    names, numbers = list(values), numbers_in_ranges(name.number for name in values)
    if len(names) == 1:
        what, them = f"{names[0]} is constant: every pixel is {values[names[0]]:g}, expected a picture", "it"
    else:
        what, them = f"images {numbers.replace(',', ', ')} (counted from 1) are constant, expected pictures", "them"
    return f"{what}; the shutter was closed or the export failed; leave {them} out with --exclude {numbers}"


def without_number(name: ImageName, bad: np.ndarray) -> tuple[int, int]:
    """Return how many pixels have no number within the picture, and how many beside it.

    Where many are joined to an edge the picture ends before the image does, as after an alignment.

    Args:
        name: of the image.
        bad: bool, shape (row, col): True where a pixel is NaN or infinite.

    Raises:
        InputError: if more than 1 % of the image is so within the picture, or more than half beside it.
    """
    count, beside = int(np.count_nonzero(bad)), 0
    if count > _MOST_LOST * bad.size:
        areas, _ = label(bad)
        edges = np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]])
        beside = int(np.count_nonzero(np.isin(areas, edges[edges > 0])))
    if count - beside > _MOST_LOST * bad.size or beside > _MOST_BESIDE * bad.size:
        most = "at most 1 % can be replaced" if beside < count else "at most 50 % can be left out at its edges"
        raise InputError(
            f"{name}: {100 * count / bad.size:.1f} % of its pixels are NaN or infinite, {most}; leave it out with "
            f"--exclude {name.number}, or write it again from the microscope's data"
        )
    return count - beside, beside
