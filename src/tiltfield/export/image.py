"""What is written of a volume: turned, scaled, and read a few planes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tiltfield.config import ExportConfig
from tiltfield.export.scaling import Scaling, find_scaling
from tiltfield.io.mrc import TURNED
from tiltfield.io.slabs import in_slabs
from tiltfield.series import Volume

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Image:
    """A volume as a file is to hold it.

    Attributes:
        data: densities, shape (z, y, x) of the file; a view, not a copy.
        scaling: from densities to values.
        voxel_size_nm: edge of a voxel, nm, or None if unknown.
        origin_nm: (x, y, z) of the first voxel, nm; zeros if the voxel size is unknown.
        about: the command that made it, how to get densities back, and what is known of earlier ones.
        axes: "xyz", or "xzy" if it is turned.
        watch: told the share that has been read, 0 to 1, as it is written.
    """

    data: np.ndarray
    scaling: Scaling
    voxel_size_nm: float | None
    origin_nm: Triple
    about: tuple[str, ...]
    axes: str = "xyz"
    watch: Callable[[float], None] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the values are the densities, in their own order."""
        return self.scaling.is_plain and self.axes == "xyz"

    def __str__(self) -> str:
        """Return size and type of the file, and how to get densities back."""
        size = " × ".join(str(n) for n in self.data.shape)
        axes = "z y x" if self.axes == "xyz" else "y z x"
        cut_off = f"{self.scaling.cut_off:.2%} of the voxels cut off" if self.scaling.cut_off else ""
        return ", ".join(filter(None, (size, axes, str(self.scaling.dtype), self.scaling.words(), cut_off)))

    def slabs(self, depth: int | None = None) -> Iterator[np.ndarray]:
        """Return the values slab by slab.

        Args:
            depth: planes of a slab; as many as make 32 MiB of densities if None.
        """
        done = 0
        for part in in_slabs(self.data, depth):
            yield self.scaling.apply(part)
            done += len(part)
            if self.watch is not None:
                self.watch(done / len(self.data))


def make_image(
    volume: Volume, config: ExportConfig, origin_nm: Triple | None = None, about: tuple[str, ...] = ()
) -> Image:
    """Return a volume as the settings want it written.

    Args:
        volume: the densities.
        config: the settings.
        origin_nm: (x, y, z) of its first voxel, nm; None: x and y are those of the images, z counts from the middle.
        about: the command that makes it, and lines on how the volume came about.

    Raises:
        InputError: if it cannot be scaled as asked.
    """
    size = volume.voxel_size_nm or 0.0
    origin = origin_nm or (0.0, 0.0, -(len(volume.data) - 1) / 2 * size)
    scaling = find_scaling(volume.data, config)
    data = volume.data
    if config.orient == "xzy":
        data, origin = turned(data), turned_origin(origin, len(data), size)
    lines = tuple(filter(None, (*about[:1], scaling.words(), *about[1:])))
    lines += (TURNED,) if config.orient == "xzy" else ()
    return Image(data, scaling, volume.voxel_size_nm, origin if size else (0.0, 0.0, 0.0), lines, config.orient)


def turned(data: np.ndarray) -> np.ndarray:
    """Return a volume as IMOD's ``tilt`` stores it: sections along y, whose rows run against z.

    (x, y, z) goes to (x, -z, y): a rotation by 90° about x, so that handedness is kept. ``clip rotx`` and
    ``trimvol -rx``, which rotate by -90°, undo it.

    Args:
        data: shape (z, y, x).

    Returns:
        a view, shape (y, z, x).
    """
    return data.transpose(1, 0, 2)[:, ::-1]


def turned_origin(origin_nm: Triple, n_z: int, size_nm: float) -> Triple:
    """Return where the first voxel lies after `turned`.

    Args:
        origin_nm: (x, y, z) of the first voxel before, nm.
        n_z: sections before.
        size_nm: edge of a voxel, nm.
    """
    x, y, z = origin_nm
    return x, -(z + (n_z - 1) * size_nm), y
