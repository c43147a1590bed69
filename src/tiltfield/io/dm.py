"""Gatan DigitalMicrograph (.dm3, .dm4): single images, and stacks.

The file is a tree of tags with big-endian structure and values in an order of their own. A damaged length must cost
neither time nor memory, so no array is read before it is known to be wanted. (After C. B. Boothroyd's description of
the format, https://imagejdocu.list.lu/plugin/inputoutput/gatan_dm3_reader/start, and the DM4 one beside it.)
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tiltfield.errors import InputError
from tiltfield.io.hyperspy import number
from tiltfield.io.raw import RawStack, evenly_spaced, guard_size, nm_per, square_pixel, usable_angles

_GROUP, _DATA = 20, 21  # kinds of tags
_STRUCT, _STRING, _ARRAY = 15, 18, 20  # kinds of values
_VALUES = {2: "i2", 3: "i4", 4: "u2", 5: "u4", 6: "f4", 7: "f8", 8: "u1", 9: "i1", 10: "i1", 11: "i8", 12: "u8"}
_GREY = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8"}  # types of images
_SHORT = 4096  # letters of a text that is read at once; other arrays are only located
_DEEPEST = 64
_SMALLEST = 24
_INFO = 1024  # words that say what a value is
_STAGE = ("ImageTags", "Microscope Info", "Stage Position", "Stage Alpha")
_THIRD = ("ImageTags", "Meta Data", "Dimension info", "2")
_WANTED = (("ImageData",), _STAGE, _THIRD)

Place = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A long array that was left in the file.

    Attributes:
        start: where it begins, bytes.
        count: its values.
        dtype: of a value.
    """

    start: int
    count: int
    dtype: np.dtype


def matches(path: Path, head: bytes) -> bool:
    """Return whether a file is DM3 or DM4: its version, and a byte order that is one.

    Args:
        path: the file.
        head: its first bytes.
    """
    start = {b"\0\0\0\3": 8, b"\0\0\0\4": 12}.get(head[:4])
    return start is not None and head[start : start + 4] in (b"\0\0\0\0", b"\0\0\0\1")


def read(path: Path) -> RawStack:
    """Map the largest grey image or stack of a file, with the stage tilts that its tags hold.

    Args:
        path: the file.

    Raises:
        InputError: if its tags lead nowhere, it holds no grey image, or it is cut short.
    """
    if path.stat().st_size < _SMALLEST:
        raise InputError(f"{path}: expected a file of DigitalMicrograph, got {path.stat().st_size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        tags = {place[1:]: value for place, value in _Tags(path, content).walk() if _is_wanted(place)}
    names = list(dict.fromkeys(place[0] for place in tags))
    images = [_of(tags, name) for name in names]
    grey = [image for image in images if _layout(image) is not None]
    if not grey:
        kinds = ", ".join(str(image.get(("ImageData", "DataType"), "?")) for image in images) or "none"
        raise InputError(f"{path}: expected a grey image of two or three dimensions, got data types {kinds}; export it")
    best = max(grey, key=lambda image: math.prod((_layout(image) or ((), None))[0]))
    return _stack(path, best)


def _is_wanted(place: Place) -> bool:
    return place[0] == "ImageList" and any(place[2 : 2 + len(wanted)] == wanted for wanted in _WANTED)


def _of(tags: dict[Place, Any], name: str) -> dict[Place, Any]:
    return {place[1:]: value for place, value in tags.items() if place[0] == name}


def _layout(image: dict[Place, Any]) -> tuple[tuple[int, ...], Block] | None:
    """Shape (image, row, col) and place of the values, if the image is grey; DM names the fastest dimension first."""
    data, kind = image.get(("ImageData", "Data")), image.get(("ImageData", "DataType"))
    dims = [value for place, value in image.items() if place[:2] == ("ImageData", "Dimensions") and len(place) == 3]
    if not isinstance(data, Block) or kind not in _GREY or not all(isinstance(n, int) and n > 0 for n in dims):
        return None
    dtype = np.dtype(_GREY[kind]).newbyteorder(data.dtype.byteorder)
    if len(dims) not in (2, 3) or math.prod(dims) != data.count or dtype.itemsize != data.dtype.itemsize:
        return None
    return (1, *dims[::-1])[-3:], Block(data.start, data.count, dtype)


def _stack(path: Path, image: dict[Place, Any]) -> RawStack:
    shape, block = _layout(image) or ((0, 0, 0), Block(0, 0, np.dtype("u1")))
    guard_size(shape, block.dtype.itemsize, str(path))
    images = np.memmap(path, block.dtype, "r", block.start, shape)
    size, sources = square_pixel([_step_nm(image, 1), _step_nm(image, 0)], f"calibration in {path.name}")
    sources["images"] = f"{path.name} (DigitalMicrograph, {block.dtype.newbyteorder('=')})"
    angles, where = _angles(image, shape[0])
    if angles is not None:
        sources["angles"] = f"{where} in {path.name}"
    return RawStack(images, angles, size, sources)


def _angles(image: dict[Place, Any], n: int) -> tuple[np.ndarray | None, str]:
    if n == 1:
        alpha = number(image.get(_STAGE))
        return (None if alpha is None else np.array([alpha])), "Stage Alpha"
    if "tilt" in str(image.get((*_THIRD, "Label"), "")).lower():
        listed = [number(image.get((*_THIRD, "Data", str(i)))) for i in range(n)]
        angles = usable_angles(np.array([math.nan if angle is None else angle for angle in listed]))
        if angles is not None:
            return angles, "Dimension info"
    scale, origin, unit = _calibration(image, 2)
    offset = None if scale is None or origin is None else -scale * origin
    return evenly_spaced(scale, offset, unit, n), "calibration of the third dimension"


def _calibration(image: dict[Place, Any], index: int) -> tuple[float | None, float | None, str]:
    """Scale, origin (in pixels) and unit of a dimension, columns first."""
    at = ("ImageData", "Calibrations", "Dimension", str(index))
    scale, origin = (number(image.get((*at, name))) for name in ("Scale", "Origin"))
    return scale, origin, str(image.get((*at, "Units"), ""))


def _step_nm(image: dict[Place, Any], index: int) -> float | None:
    scale, _, unit = _calibration(image, index)
    each = nm_per(unit)
    return None if scale is None or each is None else scale * each


class _Tags:
    """Walks the tags of a file.

    Args:
        path: the file, for messages.
        content: all of it.
    """

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content = path, content
        self.wide = content[3] == 4  # DM4 counts in 64 bits, DM3 in 32
        self.at = 12 if self.wide else 8
        self.order: Literal["<", ">"] = "<" if self._take(">I") else ">"

    def walk(self) -> Iterator[tuple[Place, Any]]:
        """Yield the place and value of every tag; tags without a name are called by their number."""
        yield from self._group(())

    def _group(self, place: Place) -> Iterator[tuple[Place, Any]]:
        if len(place) > _DEEPEST:
            raise self._error("groups within groups without end")
        self.at += 2  # sorted, open
        for i in range(self._word()):
            kind, length = self._take(">B"), self._take(">H")
            name = self._bytes(length).decode("utf-8", "replace") or str(i)
            self.at += 8 if self.wide else 0  # length of the tag
            if kind == _GROUP:
                yield from self._group((*place, name))
            elif kind == _DATA:
                yield (*place, name), self._data(pixels=place[-1:] == ("ImageData",) and name == "Data")
            else:
                raise self._error(f"a tag of kind {kind}, expected 20 or 21")

    def _data(self, *, pixels: bool) -> Any:
        if self._bytes(4) != b"%%%%":
            raise self._error("a value without its mark")
        count = self._word()
        if not 1 <= count <= _INFO:
            raise self._error(f"a value described by {count} words")
        info = [self._word() for _ in range(count)]
        if info[0] == _STRUCT:
            return tuple(self._value(kind) for kind in info[4::2])
        if info[0] == _STRING and count == 2:
            return self._array([4], info[1], pixels=False)
        if info[0] == _ARRAY:
            return self._array(info[1:-1], info[-1], pixels=pixels)
        return self._value(info[0])

    def _value(self, kind: int) -> Any:
        dtype = self._dtype([kind])
        return np.frombuffer(self._bytes(dtype.itemsize), dtype)[0].item()

    def _array(self, kind: list[int], count: int, *, pixels: bool) -> Any:
        dtype = self._dtype(kind[3:][1::2] if kind and kind[0] == _STRUCT else kind)
        start, size = self.at, dtype.itemsize * count
        if size > len(self.content) - start:
            raise self._error(f"an array of {count} values of {dtype.itemsize} bytes, more than the file holds")
        self.at += size
        if kind == [4] and count <= _SHORT and not pixels:  # text, as DigitalMicrograph writes it
            text = self.content[start : self.at]
            return text.decode("utf-16-le" if self.order == "<" else "utf-16-be", "replace")
        return Block(start, count, dtype)

    def _dtype(self, kinds: list[int]) -> np.dtype:
        if not kinds or any(kind not in _VALUES for kind in kinds):
            raise self._error(f"values of kind {kinds[:4]}")
        parts = [np.dtype(_VALUES[kind]).newbyteorder(self.order) for kind in kinds]
        return parts[0] if len(parts) == 1 else np.dtype([(str(i), part) for i, part in enumerate(parts)])

    def _word(self) -> int:
        return self._take(">Q" if self.wide else ">I")

    def _take(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _bytes(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise self._error("its end, where more was to come; it is cut short")
        self.at += count
        return self.content[self.at - count : self.at]

    def _error(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: the tags of DigitalMicrograph lead, at byte {self.at}, to {what}; copy it again"
        )
