"""Stacks of images as pictures that fit into a page: 8 bits of grey, in as good a quality as a budget of bytes allows.

Values v become round(255 · √((v - low) / (high - low))) where `root` is set, so that the dark parts of a stack keep as
many grey levels as the bright ones; the page undoes it before it sets the contrast.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

LARGEST = 256  # pixels along the longest edge of what is shown; more is binned
PAGE = 2048  # pixels along the edges of one picture, at most
BLOCK = 8  # pixels of a JPEG's blocks: images begin at multiples of it, so that none bleeds into the next
QUALITIES = (93, 88, 80, 70, 55, 40, 25)


def shrink(stack: np.ndarray, axes: tuple[int, ...], largest: int = LARGEST) -> tuple[np.ndarray, int]:
    """Return a stack averaged over blocks along some axes, so that none is longer than `largest`; and the blocks' edge.

    What fills no block at the end of an axis is left out, of an axis shorter than a block nothing.

    Args:
        stack: shape (n, row, col).
        axes: to be averaged along.
        largest: samples.
    """
    n = max(math.ceil(stack.shape[axis] / largest) for axis in axes)
    if n == 1:
        return stack, 1
    for axis in axes:
        edge = min(n, stack.shape[axis])
        blocks = stack.shape[axis] // edge
        kept = stack[(slice(None),) * axis + (slice(blocks * edge),)]
        shape = (*stack.shape[:axis], blocks, edge, *stack.shape[axis + 1 :])
        stack = kept.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return stack, n


def to_bytes(stack: np.ndarray, low: float, high: float, *, root: bool) -> np.ndarray:
    """Return values from `low` to `high` as 0 to 255; what lies beyond is cut.

    Args:
        stack: any shape.
        low: becomes 0.
        high: becomes 255, > low.
        root: take the square root of the share first.
    """
    share = (np.asarray(stack, np.float32) - np.float32(low)) / np.float32(high - low)
    np.nan_to_num(share, copy=False, nan=0.0)
    np.clip(share, 0, 1, out=share)
    if root:
        np.sqrt(share, out=share)
    return np.rint(255 * share, out=share).astype(np.uint8)


def atlas(stack: np.ndarray, low: float, high: float, budget: int, *, root: bool = False) -> dict[str, Any]:
    """Return a stack as JPEG pictures of many images each, JSON-ready.

    Args:
        stack: shape (n, row, col), edges of at most `LARGEST`.
        low: value that becomes black.
        high: value that becomes white, > low.
        budget: bytes that the pictures may take before they are written as text, about.
        root: as in :func:`to_bytes`.

    Returns:
        n, rows, cols, low, high, root; cell, the rows and columns from one image to the next; across and down, images
        of a page; quality, of the JPEG; and pages, in base64.
    """
    n, rows, cols = stack.shape
    cell = -(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK
    down, across = max(1, PAGE // cell[0]), max(1, PAGE // cell[1])
    across = min(across, n)
    down = min(down, -(-n // across))
    pages = [
        _page(to_bytes(stack[i : i + down * across], low, high, root=root), cell, down, across)
        for i in range(0, n, down * across)
    ]
    quality, written = _written(pages, budget)
    return {
        "n": n,
        "rows": rows,
        "cols": cols,
        "low": float(low),
        "high": float(high),
        "root": root,
        "cell": cell,
        "across": across,
        "down": down,
        "quality": quality,
        "pages": [base64.b64encode(page).decode("ascii") for page in written],
    }


def _page(images: np.ndarray, cell: tuple[int, int], down: int, across: int) -> np.ndarray:
    """Return images side by side, row by row, their last row and column repeated up to the next image."""
    n, rows, cols = images.shape
    down = min(down, -(-n // across))
    padded = np.pad(images, ((0, down * across - n), (0, cell[0] - rows), (0, cell[1] - cols)), mode="edge")
    return padded.reshape(down, across, *cell).transpose(0, 2, 1, 3).reshape(down * cell[0], across * cell[1])


def _written(pages: list[np.ndarray], budget: int) -> tuple[int, list[bytes]]:
    """Return the best quality at which all pages are within the budget, or the least there is; and the JPEG files."""
    middle, total = pages[len(pages) // 2], sum(page.size for page in pages)
    for quality in QUALITIES:
        last = quality == QUALITIES[-1]
        if not last and len(_jpeg(middle, quality)) * total > budget * middle.size:
            continue
        written = [_jpeg(page, quality) for page in pages]
        if last or sum(map(len, written)) <= budget:
            break
    return quality, written


def _jpeg(page: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(page).save(file, "JPEG", quality=quality)
    return file.getvalue()
