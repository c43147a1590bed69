"""The synthetic microscope: tilt images of a cell, and the noise on them.

The projector here is the simulator's own: exact footprints of square voxels at twice the sampling. Nothing that
reconstructs uses it, so that no method meets the very operator that made its data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy.sparse import csc_matrix

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.series import TiltSeries, Volume
from tiltfield.simulate.cell import Cell, make_cell

Progress = Callable[[str, float], None]

NOISE_STREAM = 3
DEPTH = 7.0  # optical depth of unit density over one unit of length, the box spanning [-1, 1]
SHOT_SHARE = 0.98  # share of the mean noise variance that is shot noise; docs/log.md has the measurement
BLOCK_VOXELS = 32_000_000
WIDEST_TILT = 80.0


@dataclass(frozen=True)
class NoiseLaw:
    """Noise variance as a function of the clean intensity c: ``slope · (c - dark) + floor``.

    Attributes:
        slope: variance per unit intensity (shot noise), ≥ 0.
        floor: variance without electrons (readout), ≥ 0.
        dark: intensity without electrons.
    """

    slope: float
    floor: float
    dark: float = 0.0

    def draw(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return clean plus noise of zero mean: scaled Poisson counts and Gaussian readout.

        Args:
            clean: intensities ≥ `dark`, any shape.
            rng: source of randomness.
        """
        counted = clean
        if self.slope > 0:
            counted = self.dark + self.slope * rng.poisson((clean - self.dark).clip(0) / self.slope)
        return np.asarray(counted + math.sqrt(self.floor) * rng.standard_normal(clean.shape), np.float32)


@dataclass(frozen=True, eq=False)
class Simulation:
    """A synthetic tilt series and the truth behind it.

    Attributes:
        truth: density, float32, shape (z, y, x), 0 in vacuum, at most 1.
        inside: bool, shape (z, y, x): the slab with its contents.
        clean: images without noise, float32, shape (tilt, row, col), min-max scaled to [0, 1] over the series.
        noisy: images with noise, as `clean`.
        angles_deg: tilts, degrees, float64, shape (tilt,).
        config: the settings it was made with.
        gain: clean = offset + gain · exp(-∫ρ dl) (bf) or offset + gain · ∫ρ dl (haadf), where the box spans [-1, 1] and
            density counts 7-fold.
        offset: see `gain`.
        noise_law: variance of the noise, before any clipping.
    """

    truth: np.ndarray
    inside: np.ndarray
    clean: np.ndarray
    noisy: np.ndarray
    angles_deg: np.ndarray
    config: SimulateConfig
    gain: float
    offset: float
    noise_law: NoiseLaw

    def series(self) -> TiltSeries:
        """Return the noisy images as a tilt series."""
        name = f"synthetic cell {self.config.seed}"
        return TiltSeries(
            self.noisy, self.angles_deg, self.config.pixel_size_nm, name=name, sources={"angles": "simulated"}
        )

    def volume(self) -> Volume:
        """Return the true density as a volume."""
        return Volume(self.truth, self.config.pixel_size_nm)

    def save(self, out_dir: str | Path, *, overwrite: bool = False) -> Path:
        """Write truth.mrc, inside.mrc, clean.mrc, noisy.mrc, series.rawtlt and meta.yaml.

        Args:
            out_dir: folder, made if absent.
            overwrite: replace files of these names.

        Returns:
            the folder.

        Raises:
            InputError: if the folder holds any of the files and `overwrite` is not set, or cannot be made.
        """
        from tiltfield.io.mrc import write_stack, write_volume

        folder = _fresh_folder(Path(out_dir), overwrite)
        nm = self.config.pixel_size_nm
        write_volume(self.volume(), folder / "truth.mrc")
        write_volume(Volume(self.inside.astype(np.float32), nm), folder / "inside.mrc")
        write_stack(self.clean, folder / "clean.mrc", nm)
        write_stack(self.noisy, folder / "noisy.mrc", nm)
        _write_text(folder / "series.rawtlt", "".join(f"{a:.6g}\n" for a in self.angles_deg))
        _write_text(folder / "meta.yaml", yaml.safe_dump(self._meta(), sort_keys=False))
        return folder

    def _meta(self) -> dict[str, object]:
        law = {"slope": self.noise_law.slope, "floor": self.noise_law.floor, "dark": self.noise_law.dark}
        return {
            "settings": self.config.model_dump(mode="json"),
            "tilts": len(self.angles_deg),
            "gain": self.gain,
            "offset": self.offset,
            "depth_per_voxel": DEPTH * 2 / self.config.size,
            "noise_variance": law,
        }


FILES = ("truth.mrc", "inside.mrc", "clean.mrc", "noisy.mrc", "series.rawtlt", "meta.yaml")


def _fresh_folder(folder: Path, overwrite: bool) -> Path:
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise InputError(f"{folder} already holds {', '.join(present)}: choose another folder or ask to overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def footprint_matrix(z: np.ndarray, x: np.ndarray, n_u: int, theta: float) -> csc_matrix:
    """Return the matrix that projects one slice of unit voxels at one tilt, exactly.

    A voxel casts a trapezoid, the convolution of boxes of widths |cos θ| and |sin θ|, centred at u = x cos θ + z sin θ;
    each bin gets the part of it that it covers, that is, the line integral averaged over the bin.

    Args:
        z: centred z of the slice's rows, voxels, shape (n_z,).
        x: centred x of its columns, voxels, shape (n_x,).
        n_u: bins of unit width, centred.
        theta: tilt, radians.

    Returns:
        shape (n_u, n_z · n_x), float32, x running fastest.
    """
    centre = (z[:, None] * math.sin(theta) + x[None, :] * math.cos(theta)).ravel() + n_u / 2
    first = np.floor(centre - (abs(math.cos(theta)) + abs(math.sin(theta))) / 2).astype(np.int32)
    edges = first[:, None] + np.arange(4, dtype=np.int32)
    weights = np.diff(_trapezoid_cdf(edges - centre[:, None], theta), axis=1)
    bins = edges[:, :3]
    hit = (bins >= 0) & (bins < n_u) & (weights > 1e-9)
    starts = np.concatenate([[0], np.cumsum(hit.sum(axis=1))]).astype(np.int32)
    return csc_matrix((weights[hit].astype(np.float32), bins[hit], starts), shape=(n_u, len(centre)))


def _trapezoid_cdf(u: np.ndarray, theta: float) -> np.ndarray:
    """Return the share of a unit voxel's footprint that lies below u; its centre is at 0."""
    wide, narrow = sorted((abs(math.cos(theta)), abs(math.sin(theta))), reverse=True)
    narrow = max(narrow, 1e-6)

    def ramp(v: np.ndarray) -> np.ndarray:  # integral of the clipped ramp of the narrow box's CDF
        v = np.clip(v + narrow / 2, 0, None)
        return np.where(v < narrow, v * v / (2 * narrow), v - narrow / 2)

    return (ramp(u + wide / 2) - ramp(u - wide / 2)) / wide


def simulate(config: SimulateConfig, progress: Progress | None = None) -> Simulation:
    """Make a synthetic cell and its tilt series.

    The cell is painted and projected at twice the sampling, I = exp(-τ) (bf) or τ (haadf) with the optical depth
    τ = 7 ∫ρ dl over a box [-1, 1]; then images are binned 2 × 2, scaled to [0, 1] over the series, and noise is added.

    Args:
        config: the settings.
        progress: called as ``progress(stage, fraction)`` with the fraction done, 0 to 1.

    Returns:
        truth, clean and noisy images; the same settings give the same bytes.

    Raises:
        InputError: for a wide slab with a tilt at which no extent would do.

    Kniesel et al., CVPR 2022, supplement (synthetic data).
    """
    report = progress or (lambda stage, fraction: None)
    angles_deg = np.array(config.angles_deg)
    cell, pad = _specimen(config, angles_deg)
    truth, inside, raw = _image(cell, config, pad, np.deg2rad(angles_deg), report)
    low, high = float(raw.min()), float(raw.max())
    clean = ((raw - low) / (high - low)).astype(np.float32)
    law = _noise_law(config, clean, angles_deg, dark=-low / (high - low))
    noisy = _add_noise(clean, law, config, report)
    return Simulation(truth, inside, clean, noisy, angles_deg, config, 1 / (high - low), -low / (high - low), law)


def _specimen(config: SimulateConfig, angles_deg: np.ndarray) -> tuple[Cell, int]:
    """Return the cell and the voxels by which it goes on beyond the box on each side."""
    cell = make_cell(config.seed)
    if not config.wide:
        return cell, 0
    steepest = float(np.abs(angles_deg).max())
    if steepest > WIDEST_TILT:
        raise InputError(
            f"a wide slab needs tilts within ±{WIDEST_TILT:g}°, got {steepest:g}°: "
            f"narrow the tilts '{config.tilts}' or leave out wide"
        )
    theta = math.radians(steepest)
    half_width = (0.5 + cell.slab.reach * math.sin(theta)) / math.cos(theta)
    return make_cell(config.seed, half_width), math.ceil(config.size * (half_width - 0.5)) + 1


def _image(
    cell: Cell, config: SimulateConfig, pad: int, angles: np.ndarray, report: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth and inside (z, y, x) and the unscaled images (tilt, row, col)."""
    n = config.size
    truth, inside = np.zeros((n, n, n), np.float32), np.zeros((n, n, n), bool)
    images = np.empty((len(angles), n, n), np.float32)
    skip = max(0, math.floor(n * (0.5 - cell.slab.reach)) - 1)
    rows = slice(skip, n - skip)  # the z that can hold anything
    z, x = (np.arange(2 * rows.start, 2 * rows.stop), np.arange(-2 * pad, 2 * (n + pad)))
    for start, stop in _blocks(n, 4 * len(z) * len(x)):
        density, slab = cell.paint(*(_fraction(i, n) for i in (z, np.arange(2 * start, 2 * stop), x)))
        centre = slice(pad, pad + n)
        truth[rows, start:stop] = _halve(density)[:, centre].transpose(0, 2, 1)
        inside[rows, start:stop] = (_halve(slab) >= 0.5)[:, centre].transpose(0, 2, 1)
        for i, theta in enumerate(angles):
            depth = footprint_matrix(z + 0.5 - n, x + 0.5 - n, 2 * n, theta) @ density.reshape(-1, density.shape[2])
            depth *= DEPTH / n
            images[i, start:stop] = _halve(np.exp(-depth) if config.mode == "bf" else depth).T
            report("project", (start + (stop - start) * (i + 1) / len(angles)) / n)
    return truth, inside, images


def _fraction(index: np.ndarray, n: int) -> np.ndarray:
    """Return the coordinate in cell edges of voxels at twice the sampling of n."""
    return (index + 0.5) / (2 * n) - 0.5


def _blocks(n: int, voxels_per_row: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_VOXELS // voxels_per_row)
    return ((start, min(start + step, n)) for start in range(0, n, step))


def _halve(fine: np.ndarray) -> np.ndarray:
    """Return the means of blocks of two along every axis."""
    shape = [m for size in fine.shape for m in (size // 2, 2)]
    return fine.reshape(shape).mean(axis=tuple(range(1, 2 * fine.ndim, 2)), dtype=np.float32)


def _noise_law(config: SimulateConfig, clean: np.ndarray, angles_deg: np.ndarray, dark: float) -> NoiseLaw:
    """Return the law whose mean variance in the least tilted image is that image's variance / snr.

    There the specimen fills the field of view. In tilted images the vacuum beside it would count as signal.
    """
    image = clean[np.argmin(np.abs(angles_deg))].astype(np.float64)
    variance = float(image.var()) / config.snr
    if config.noise == "none":
        return NoiseLaw(0.0, 0.0)
    if config.noise == "gaussian":
        return NoiseLaw(0.0, variance)
    return NoiseLaw(SHOT_SHARE * variance / (float(image.mean()) - dark), (1 - SHOT_SHARE) * variance, dark)


def _add_noise(clean: np.ndarray, law: NoiseLaw, config: SimulateConfig, report: Progress) -> np.ndarray:
    noisy = clean.copy()
    if config.noise == "none":
        return noisy
    rng = np.random.default_rng([config.seed, NOISE_STREAM])
    for i, image in enumerate(clean):
        noisy[i] = law.draw(image, rng)
        report("noise", (i + 1) / len(clean))
    return np.clip(noisy, 0, 1) if config.clip else noisy
