"""A simulated tilt series with its truth, and the files it is kept in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import yaml

import tiltfield
from tiltfield.config import SimulateConfig
from tiltfield.contrast import DEPTH
from tiltfield.errors import InputError
from tiltfield.io.slabs import in_slabs
from tiltfield.replacing import replacing
from tiltfield.series import TiltSeries, Volume
from tiltfield.simulate.recording import GreyLevels, NoiseLaw

FILES = ("truth.mrc", "inside.mrc", "clean.mrc", "noisy.mrc", "series.rawtlt", "meta.yaml")


@dataclass(frozen=True, eq=False)
class Simulation:
    """A synthetic tilt series and the truth behind it.

    Attributes:
        truth: density, float32, shape (z, y, x), 0 in vacuum, at most 1; mapped from a file if it is large.
        inside: bool, shape (z, y, x): the slab with its contents; mapped as `truth`.
        clean: images without noise, float32, shape (tilt, row, col), min-max scaled to [0, 1] over the series (before
            any defocus); with a noise file scaled to its range; with grey levels in units of these.
        noisy: images with noise, as `clean`; whole numbers if they are grey levels.
        angles_deg: tilts, degrees, float64, shape (tilt,).
        config: the settings it was made with.
        gain: clean = offset + gain · exp(-∫ρ dl) (bf) or offset + gain · ∫ρ dl (haadf), where the box spans [-1, 1] and
            density counts 7-fold.
        offset: see `gain`.
        noise_law: variance of the noise before any clipping and rounding, `slope` · (clean - `dark`) + `floor`; None if
            a noise file says it.
        levels: grey levels over the units that the images had before, or None.
        facts: files, laws and versions that made it; JSON-ready.
    """

    truth: np.ndarray
    inside: np.ndarray
    clean: np.ndarray
    noisy: np.ndarray
    angles_deg: np.ndarray
    config: SimulateConfig
    gain: float
    offset: float
    noise_law: NoiseLaw | None
    levels: GreyLevels | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return sizes, tilts and the settings that are not the default."""
        n, rows, columns = self.noisy.shape
        size = " x ".join(str(edge) for edge in self.truth.shape)
        tilts = f"{self.angles_deg.min():.4g}° to {self.angles_deg.max():.4g}°"
        settings = ", ".join(f"{k}={v!r}" for k, v in self.config.model_dump(exclude_defaults=True).items())
        return "\n  ".join(
            (
                f"Simulation({settings})",
                f"truth, inside: {size} (z, y, x), voxel size {self.config.pixel_size_nm:.4g} nm",
                f"clean, noisy: {n} images of {rows} x {columns} pixels, tilts {tilts}",
            )
        )

    def series(self) -> TiltSeries:
        """Return the noisy images as a tilt series."""
        return TiltSeries(
            self.noisy,
            self.angles_deg,
            self.config.pixel_size_nm,
            quantum=1.0 if self.levels else None,
            name=f"synthetic cell {self.config.seed}",
            sources={"angles": "simulated"},
        )

    def volume(self) -> Volume:
        """Return the true density as a volume."""
        return Volume(self.truth, self.config.pixel_size_nm)

    def save(self, out_dir: str | Path, *, overwrite: bool = False) -> Path:
        """Write truth.mrc, inside.mrc, clean.mrc, noisy.mrc, series.rawtlt and meta.yaml.

        Volumes are written a few planes at a time, grey levels as unsigned 16-bit numbers.

        Args:
            out_dir: folder, made if absent.
            overwrite: replace files of these names.

        Returns:
            the folder.

        Raises:
            InputError: if the folder holds any of the files and `overwrite` is not set, or cannot be made.
        """
        from tiltfield.io.mrc_sections import About, write_sections

        folder = _fresh_folder(Path(out_dir), overwrite)
        volume, images = (About(self.config.pixel_size_nm, is_volume) for is_volume in (True, False))
        inside = (part.astype(np.int8) for part in in_slabs(self.inside))
        write_sections(folder / "truth.mrc", in_slabs(self.truth), volume)
        write_sections(folder / "inside.mrc", inside, volume)
        write_sections(folder / "clean.mrc", in_slabs(self.clean), images)
        write_sections(folder / "noisy.mrc", self._recorded(), images)
        tilts, meta = "".join(f"{a:.6g}\n" for a in self.angles_deg), yaml.safe_dump(self._meta(), sort_keys=False)
        for name, text in (("series.rawtlt", tilts), ("meta.yaml", meta)):
            with replacing(folder / name) as part:
                part.write_text(text)
        return folder

    def _recorded(self) -> Iterator[np.ndarray]:
        kind = np.uint16 if self.levels else np.float32
        return (part.astype(kind) for part in in_slabs(self.noisy))

    def _meta(self) -> dict[str, object]:
        return {
            "tiltfield": tiltfield.__version__,
            "settings": self.config.model_dump(mode="json"),
            "tilts": len(self.angles_deg),
            "gain": self.gain,
            "offset": self.offset,
            "depth_per_voxel": DEPTH * 2 / self.config.size,
            "noise_variance": asdict(self.noise_law) if self.noise_law else None,
            "grey_levels": asdict(self.levels) if self.levels else None,
            **self.facts,
        }


def _fresh_folder(folder: Path, overwrite: bool) -> Path:
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise InputError(f"{folder} already holds {', '.join(present)}: choose another folder or ask to overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder
