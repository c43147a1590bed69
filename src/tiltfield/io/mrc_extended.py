"""The extended headers of MRC: tilts and pixel sizes as FEI, SerialEM and the Agard layout write them."""

from __future__ import annotations

import numpy as np
from mrcfile.dtypes import get_ext_header_dtype

from tiltfield.io.raw import from_imod, plausible_pixel, usable_angles

# bytes of one SerialEM record by the bit that announces it: tilt, piece, stage, magnification, intensity, dose, ...
_SERIAL_BYTES = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2, 32: 4, 128: 4, 256: 2, 512: 2, 1024: 2}


Facts = tuple[np.ndarray | None, float | None, float | None]


def read_extended(record: np.void, order: str, data: bytes, n: int) -> Facts:
    """Return the tilts, the pixel size and the tilt axis that an extended header holds.

    Args:
        record: the 1024-byte header.
        order: byte order of the file, '<' or '>'.
        data: the extended header.
        n: number of images.

    Returns:
        the tilts, degrees, shape (n,), the pixel size, nm, and the axis, degrees as `load` counts them; each None where
        there is none.
    """
    kind = bytes(record["exttyp"])
    n_int, n_real = (int(v) for v in np.frombuffer(record.tobytes()[128:132], order + "u2"))
    if kind in (b"FEI1", b"FEI2"):
        return *_fei(kind, order, data, n), None
    if kind == b"SERI" or (kind != b"AGAR" and n_int == _serial_bytes(n_real) and n_real & 1):
        return _serial(data, n_int, n_real, n, order), None, None
    return _agard(order, data, n, (n_int, n_real), bytes(record["label"][0]))


def _fei(kind: bytes, order: str, data: bytes, n: int) -> tuple[np.ndarray | None, float | None]:
    """Records of one type, each as long as its first word says."""
    dtype = get_ext_header_dtype(kind, order)
    step = int(np.frombuffer(data[:4].ljust(4, b"\0"), order + "i4")[0])
    if not dtype.itemsize <= step <= len(data) // n:
        return None, None
    rows = [np.frombuffer(data, dtype, 1, i * step)[0] for i in range(n)]
    angles = np.array([float(row["Alpha tilt"]) for row in rows])
    return usable_angles(angles), _from_metres(float(rows[0]["Pixel size X"]))


def _serial(data: bytes, step: int, flags: int, n: int, order: str) -> np.ndarray | None:
    if not flags & 1 or step < 2 or step * n > len(data):
        return None
    records = np.frombuffer(data, np.uint8, step * n).reshape(n, step)
    return records[:, :2].copy().view(order + "i2")[:, 0] / 100.0


def _serial_bytes(flags: int) -> int:
    return sum(size for bit, size in _SERIAL_BYTES.items() if flags & bit)


def _agard(order: str, data: bytes, n: int, counts: tuple[int, int], label: bytes) -> Facts:
    """Records of integers, then reals: the first real is the tilt; of FEI the 11th the axis, the 12th the pixel in m.

    The sign of the axis is as IMOD's header program takes it: turned where the first label begins with "Fei ".
    """
    words, n_int = sum(counts), counts[0]
    if not 0 < words <= 4096 or counts[1] < 1 or 4 * words * n > len(data):
        return None, None, None
    records = np.frombuffer(data, order + "f4", words * n).reshape(n, words)[:, n_int:]
    with np.errstate(invalid="ignore"):
        angles = usable_angles(records[:, 0])
    if counts[1] < 12:
        return angles, None, None
    axis = float(records[0, 10])
    known = np.isfinite(axis) and 0 < abs(axis) <= 360
    turned = from_imod(-axis if label.startswith(b"Fei ") else axis) if known else None
    return angles, _from_metres(float(records[0, 11])), turned


def _from_metres(size: float) -> float | None:
    return size * 1e9 if np.isfinite(size) and plausible_pixel(size * 1e9) else None
