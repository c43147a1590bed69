"""A density volume: what comes out of tiltfield. Frozen and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiltfield.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Volume:
    """A density volume.

    Attributes:
        data: float32, shape (z, y, x), finite.
        voxel_size_nm: edge of a voxel, nm, or None if unknown.

    Raises:
        InputError: if the data are not three-dimensional and finite, or the voxel size is not positive.
    """

    data: np.ndarray
    voxel_size_nm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_array(self.data, np.float32, "data", "volume"))
        if self.data.ndim != 3 or self.data.size == 0:
            raise InputError(f"volume: expected data of shape (z, y, x), got {self.data.shape}")
        if not (np.isfinite(self.data.min()) and np.isfinite(self.data.max())):
            count = int(np.count_nonzero(~np.isfinite(self.data)))
            raise InputError(
                f"volume: {count} of {self.data.size} voxels are NaN or infinite; expected numbers everywhere"
            )
        problem = size_problem("voxel", self.voxel_size_nm)
        if problem:
            raise InputError(f"volume: {problem}")

    def __repr__(self) -> str:
        """Return size and range."""
        size = " x ".join(str(n) for n in self.data.shape)
        voxel = "unknown" if self.voxel_size_nm is None else f"{self.voxel_size_nm:.4g} nm"
        return f"Volume {size} (z, y, x), voxel size {voxel}, density {self.data.min():.4g} to {self.data.max():.4g}"

    @classmethod
    def load(cls, path: str | Path) -> Volume:
        """Read a volume: MRC, OME-Zarr, TIFF, or another format that holds a stack.

        Args:
            path: the file; its content says what it is, and its ending where the content does not.

        Raises:
            InputError: if it is not there, is of no known kind, is cut short, or holds NaN.
        """
        from tiltfield.io import read_volume

        return read_volume(path)

    def save(self, path: str | Path) -> Path:
        """Write the volume, as its ending says: MRC, OME-Zarr or TIFF (under a temporary name, then renamed).

        Args:
            path: file to write: .mrc, .rec, .map; .ome.zarr, .zarr; .tif, .tiff. What is there is replaced.

        Returns:
            the path written.

        Raises:
            InputError: for another ending, or if the folder is not there or cannot be written to.
        """
        from tiltfield.export import save

        return save(self, Path(path))

    def centred(self, depth: int) -> Volume:
        """Return the volume with `depth` planes: cut off, or added as vacuum, as many on either side along z.

        Args:
            depth: planes, ≥ 1; odd if there is an odd number of planes, even if an even one, so that the middle stays.

        Returns:
            the volume, shape (depth, y, x).

        Raises:
            InputError: if the depth is not such a number.
        """
        extra = depth - len(self.data)
        if depth < 1 or extra % 2:
            raise InputError(
                f"volume: {len(self.data)} planes can be brought to a depth that differs by an even number, got {depth}"
            )
        if extra <= 0:
            return replace(self, data=self.data[-extra // 2 : len(self.data) + extra // 2])
        return replace(self, data=np.pad(self.data, ((extra // 2, extra // 2), (0, 0), (0, 0))))

    def fitted_to(self, truth: Volume) -> Volume:
        """Return the volume in the box of another, a·ρ + b by the least squares; a density is known up to a and b.

        Args:
            truth: shape (z, y, x), of equal y and x; z may differ by an even number.

        Raises:
            InputError: if the boxes differ otherwise.
        """
        from tiltfield.metrics import affine_fit

        data = self.centred(len(truth.data)).data
        scale, shift = affine_fit(data, truth.data)
        return replace(self, data=scale * data + shift)

    def show(
        self, at: tuple[int, int, int] | None = None, *, low: float | None = None, high: float | None = None
    ) -> Figure:
        """Draw three sections through one voxel, with a grey bar and a scale in nm.

        Args:
            at: the voxel (z, y, x), from 0; None: the middle.
            low: density that is black; by the 0.5th percentile if None.
            high: density that is white; by the 99.5th percentile if None.

        Raises:
            InputError: if there is no such voxel.
        """
        from tiltfield.report import draw_sections

        return draw_sections(self, _voxel(self, at), low, high)

    def compare(
        self,
        volumes: Mapping[str, Volume] | Volume,
        at: tuple[int, int, int] | None = None,
        *,
        title: str = "truth",
        low: float | None = None,
        high: float | None = None,
    ) -> Figure:
        """Draw the xy and xz sections of this volume and of others, each fitted to it, in one grey scale.

        Args:
            volumes: by title, or a single one; see `fitted_to`.
            at: a voxel (z, y, x) of this one that the sections go through, from 0; None: the middle.
            title: of this one.
            low: density that is black; by the 0.5th percentile of this one if None.
            high: density that is white; by the 99.5th percentile of this one if None.

        Raises:
            InputError: if the boxes do not fit, or there is no such voxel.
        """
        from tiltfield.report import draw_comparison

        others = {"volume": volumes} if isinstance(volumes, Volume) else volumes
        return draw_comparison({title: self, **others}, _voxel(self, at), low, high)


def as_array(values: np.ndarray, dtype: type, what: str, name: str) -> np.ndarray:
    """Return values as an array of real numbers.

    Args:
        values: what was given.
        dtype: of the array; what is too large for it becomes infinite.
        what: they are, for the message.
        name: of what they belong to, likewise.

    Raises:
        InputError: if they are no real numbers.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(values)
            if array.dtype.kind not in "iufb":
                raise TypeError(f"{array.dtype} values")
            return array.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {what} must be an array of real numbers, got {error}") from None


def size_problem(what: str, size: float | None) -> str | None:
    """Return what is wrong with the size of a pixel or voxel, if anything.

    Args:
        what: "pixel" or "voxel".
        size: nm, or None if unknown.
    """
    if size is None or (np.isfinite(size) and size > 0):
        return None
    return f"the {what} size must be a positive number of nm, got {size}; leave it out if it is unknown"


def _voxel(volume: Volume, at: tuple[int, int, int] | None) -> tuple[int, int, int]:
    z, y, x = at or (n // 2 for n in volume.data.shape)
    if not all(0 <= index < n for index, n in zip((z, y, x), volume.data.shape, strict=True)):
        raise InputError(f"volume: expected a voxel (z, y, x) within {volume.data.shape}, got {at}")
    return z, y, x
