"""What a reconstruction is expected to take.

*Memory* is the machine's, and is counted: images, samples, points of a step, voxels, and the numbers that the tables
of a hash grid hold, each times so many bytes. The peak is where the projector is made, as many coordinates are sorted;
or in a fit, where a new best state is kept beside the last one; or in the end, when the volume and what the report
draws are there, and the optimiser and the best state still are. The constants were fitted to the peaks of whole runs,
each in a process of its own (``benchmarks/forecast.py``; 11 to 61 tilts, cubes of 64³ to 256³ and flat volumes, one to
eight features a node; x86-64, torch 2.13), which they meet within 15 %, and within 25 % where the projector keeps a
matrix. A GPU has its own memory for all but images and volume, which is not forecast.

*Time* is the number of steps times the seconds of one, which :func:`tiltfield.pace.step_seconds` measures on the
machine; without a measurement, it is that of two quiet cores.

The specimen is as thick as the settings say, where they know the pixel size; else it is taken to be 60 % as thick as
the image is wide, unless the method works in a cube. One that goes on beyond the images gets room beside it, and takes
two to five times as much, more with steeper tilts: then memory is asked for again when the box is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import psutil

from tiltfield import published, ranks
from tiltfield.config import CLASSICAL, DENOISED, PUBLISHED, ReconstructConfig
from tiltfield.defocus import halo_of
from tiltfield.errors import InputError
from tiltfield.fields import FEATURES, WIDTH
from tiltfield.fields.base import Box
from tiltfield.fields.hashgrid import table_numbers
from tiltfield.parse import clock, parse_defocus
from tiltfield.projector import keeps_matrix
from tiltfield.rehearsal import TRIAL_PASSES, TRIAL_ROWS
from tiltfield.schedule import POINTS, Schedule, block_size, schedule_for

GIB = 2.0**30
THICK = 0.6  # of the image's width
THICKEST, LEAST_LAYERS = 8, 4  # times the image's width that a given thickness may be; what a box has at least
BASE_BYTES = {"classical": 385e6, "published": 500e6, "neural": 425e6}  # the interpreter and libraries, what is fixed
MAKING, HOLDING, ENTRY = 180, 70, 80  # of a projector, a sample and tilt; of one that is not stored, a sample
PIXEL_READ, PIXEL = 20, 40  # images; their slices, masks, likelihood, residuals and rendered images too
HELD, HELD_TWICE = 16, 20  # of a number in a hash grid: itself, two moments, the best; and the best before
VOLUME = 8  # of a voxel, as it is made and as it is written
FIT_BASE, FIT_PIXEL = 250e6, 22  # what of the neural base, and of an image, is there while such a grid is fitted
BYTES_PER_VOXEL = {"mlp": 8, "voxels": 36}  # parameters, moments, best copy, the volume
BYTES_PER_POINT = {"hashgrid": 1200, "mlp": 27_000, "voxels": 80}  # activations of a step
ROUNDED, LEAST_ROWS = 1.2, 2  # points of a step over those aimed at, at most, as it takes whole slices, two at least
GRID_BYTES, TV_BYTES = 34, 45  # of a published grid, a voxel: parameters, gradients, moments, best copy; with TV
SIRT_VOXEL, PUBLISHED_VOXEL = 16, 12
OWN_FEATURES = {"hashgrid": FEATURES, "mlp": WIDTH, "voxels": 1}

POINTS_PER_SECOND = {"hashgrid": 5e6, "mlp": 4e4, "voxels": 6e6}  # field points in training, two CPU cores
SLICE_SECONDS = 3e-9  # of a projection and its adjoint, a sample and tilt
GRID_SECONDS, TV_SECONDS = 1e-8, 2e-8  # of a step of a published grid, a voxel
DENOISING_SECONDS = {"bm3d": 1e-4, "topaz": 9e-5, "dwk-p": 7e-6, "dwk-g": 7e-6, "noise2self": 7e-5}  # a pixel
FIXED_SECONDS = {"neural": 4.0, "classical": 2.0, "published": 4.0}  # reading, the coarse fit, pictures, files
WEIGHTS = 5  # tried of STRENGTHS, as a rule
TRIAL_STEP = 0.8  # of a step's time, as the noise model is a simpler one
FINISHING = 0.5  # of a pass, for evaluating the field and judging what it explains

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Forecast:
    """What a reconstruction is expected to take.

    Attributes:
        memory_bytes: peak memory of the process.
        seconds: run time.
    """

    memory_bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"about {self.memory_bytes / GIB:.1f} GiB of memory and {clock(self.seconds)} (h:mm:ss or m:ss)"


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        steps: of the fit, or slices through SIRT's iterations; what else grows with the fit counts as steps too.
        usual: seconds of a step on two quiet cores.
        fixed: seconds besides.
    """

    steps: float
    usual: float
    fixed: float


def forecast(shape: Shape, config: ReconstructConfig, step_seconds: float | None = None) -> Forecast:
    """Return what a reconstruction is expected to take.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        step_seconds: of a step of :class:`Work`, as measured; None: that of two quiet cores.
    """
    work = work_of(shape, config)
    seconds = work.fixed + work.steps * (work.usual if step_seconds is None else step_seconds)
    if config.method in DENOISED:
        seconds += DENOISING_SECONDS[config.denoiser] * math.prod(shape)
    if config.max_time is not None and config.method not in CLASSICAL:
        seconds = min(seconds, config.max_time)
    return Forecast(int(_memory(shape, config)), seconds)


def knowing(config: ReconstructConfig, pixel_size_nm: float | None) -> ReconstructConfig:
    """Return settings with the pixel size of a series, by which a thickness in nm is one in pixels.

    Args:
        config: settings.
        pixel_size_nm: of the series as it was read, `bin` pixels of its file to a pixel; None if unknown.
    """
    if pixel_size_nm is None:
        return config
    return config.model_copy(update={"pixel_size_nm": pixel_size_nm / config.bin})


def box_of(shape: Shape, config: ReconstructConfig) -> Box:
    """Return the box that the specimen is taken to need.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.

    Raises:
        InputError: if the thickness that was given is many times the width of the images.
    """
    _, n_y, n_x = shape
    return Box(_layers(n_x, config), n_y, n_x)


def _layers(n_x: int, config: ReconstructConfig) -> int:
    """Return the layers of the box, of a thickness that was given where the settings know the pixel size."""
    if config.method in PUBLISHED:
        return n_x
    if config.thickness == "auto" or config.pixel_size_nm is None:
        return math.ceil(THICK * n_x) if config.method == "neural" else n_x
    layers = float(config.thickness) / (config.pixel_size_nm * config.bin)
    if layers > THICKEST * n_x:
        raise InputError(
            f"a thickness of {float(config.thickness):g} nm is {layers / n_x:.0f} times the width of the images, "
            f"expected at most {THICKEST}: give it in nm, and check the pixel size, {config.pixel_size_nm:g} nm"
        )
    return max(LEAST_LAYERS, math.ceil(layers))


# ---- time ----------------------------------------------------------------------------------------------------------


def work_of(shape: Shape, config: ReconstructConfig) -> Work:
    """Return how much there is to do.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
    """
    if config.method in CLASSICAL:
        iterations = config.sirt_iterations if config.method == "sirt" else 1
        samples = shape[2] * _layers(shape[2], config)
        return Work(shape[1] * iterations, SLICE_SECONDS * shape[0] * samples, FIXED_SECONDS["classical"])
    return _published_work(shape, config) if config.method in PUBLISHED else _neural_work(shape, config)


def _neural_work(shape: Shape, config: ReconstructConfig) -> Work:
    box = box_of(shape, config)
    schedule = schedule_for(box, config, 0.0, on_gpu=_on_gpu(config))
    block = box.n_z * box.n_x * schedule.block
    usual = _wider(config, schedule.block) * max(1.0, _larger(config)) * block / POINTS_PER_SECOND[config.field]
    finishing = FINISHING * math.ceil(box.n_y / schedule.block)
    return Work(schedule.steps(box.n_y) + _rehearsal(box, config) + finishing, usual, FIXED_SECONDS["neural"])


def _rehearsal(box: Box, config: ReconstructConfig) -> float:
    """Return what the fits of a block of slices, before the whole is fitted, are in steps of that."""
    rows = min(TRIAL_ROWS, box.n_y)
    trial: Schedule = replace(
        schedule_for(Box(box.n_z, rows, box.n_x), config, 0.0, on_gpu=_on_gpu(config)), passes=TRIAL_PASSES
    )
    fits = 1 + (WEIGHTS if config.tv_weight is None else 0)
    return TRIAL_STEP * fits * trial.steps(rows)


def _on_gpu(config: ReconstructConfig) -> bool:
    return config.device == "cuda" or (config.device == "auto" and ranks.have_gpus())


def _published_work(shape: Shape, config: ReconstructConfig) -> Work:
    n_voxels = math.prod(box_of(shape, config).shape)
    scaled = published.Scaled.to(shape, config.steps)
    if published.RECIPES[config.method].explicit:
        second = TV_SECONDS if config.tv_weight else GRID_SECONDS
        return Work(scaled.steps, n_voxels * second, FIXED_SECONDS["published"])
    points = published.PARTS * scaled.rays * sum(scaled.samples)
    rate = POINTS_PER_SECOND["mlp"] * (2 if config.reduced else 1) / _larger(config) ** 2
    return Work(scaled.steps + n_voxels / 3 / points, points / rate, FIXED_SECONDS["published"])


def _larger(config: ReconstructConfig) -> float:
    """Return the size of the field over its own."""
    own = OWN_FEATURES[config.field] if config.method == "neural" else published.FEATURES
    return 1.0 if config.features is None else config.features / own


def _wider(config: ReconstructConfig, block: int) -> float:
    """Return the slices that a block is rendered from, over its own: under blur it is seen with its neighbours."""
    blur = parse_defocus(config.defocus)
    return 1.0 if blur is None else 1 + 2 * halo_of(*blur) / block


# ---- memory --------------------------------------------------------------------------------------------------------


def _memory(shape: Shape, config: ReconstructConfig, box: Box | None = None) -> float:
    """Return the peak: where the projector is made, in the fit, or in the end; in the box that is guessed if None."""
    box, pixels = box or box_of(shape, config), math.prod(shape)
    samples = box.n_z * box.n_x
    base = BASE_BYTES[
        "classical" if config.method in CLASSICAL else "published" if config.method in PUBLISHED else "neural"
    ]
    if _on_gpu(config):
        return base + PIXEL * pixels + _host_bytes(box, config)
    stored = keeps_matrix(samples)
    making = MAKING * shape[0] * samples if stored else ENTRY * samples
    holding = HOLDING * shape[0] * samples if stored else ENTRY * samples
    fitting, ending = _fit_bytes(shape, box, config)
    return max(
        base + making + PIXEL_READ * pixels,
        FIT_BASE + holding + FIT_PIXEL * pixels + fitting,
        base + holding + PIXEL * pixels + ending,
    )


def _fit_bytes(shape: Shape, box: Box, config: ReconstructConfig) -> tuple[float, float]:
    """Return what is held during the fit, and in the end; in one, the latter, where they were not told apart."""
    voxels = math.prod(box.shape)
    if config.method in CLASSICAL:
        return 0.0, SIRT_VOXEL * voxels
    if config.method in PUBLISHED:
        return 0.0, _published_bytes(shape, config, voxels)
    block = block_size(box, config.field)
    points = _wider(config, block) * max(ROUNDED * POINTS[config.field], LEAST_ROWS * box.n_z * box.n_x)
    step = _larger(config) * BYTES_PER_POINT[config.field] * points
    if config.field != "hashgrid":
        return 0.0, _larger(config) * BYTES_PER_VOXEL[config.field] * voxels + step
    numbers = table_numbers(box, config.features or FEATURES)
    return HELD_TWICE * numbers + step, HELD * numbers + VOLUME * voxels


def _host_bytes(box: Box, config: ReconstructConfig) -> float:
    """Return what of field and volume is in the machine's memory where a GPU computes: a grid is made there."""
    volume = float(VOLUME * math.prod(box.shape))
    if config.method in CLASSICAL or config.method in PUBLISHED or config.field != "hashgrid":
        return volume
    return max(volume, 4.0 * table_numbers(box, config.features or FEATURES))


def _published_bytes(shape: Shape, config: ReconstructConfig, voxels: int) -> float:
    if published.RECIPES[config.method].explicit:
        return (TV_BYTES if config.tv_weight else GRID_BYTES) * voxels
    scaled = published.Scaled.to(shape, config.steps)
    points = scaled.rays * sum(scaled.samples)
    return PUBLISHED_VOXEL * voxels + _larger(config) * BYTES_PER_POINT["mlp"] * points


# ---- what fits -----------------------------------------------------------------------------------------------------


def check_memory(shape: Shape, config: ReconstructConfig, available: int | None = None) -> Forecast:
    """Refuse a reconstruction that would not fit into memory.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        available: bytes; by default what the machine has free.

    Returns:
        the forecast.

    Raises:
        InputError: if the forecast exceeds what is available; it names the ``--bin`` that fits.
    """
    cost = forecast(shape, config)
    if problem := too_much(shape, config, available):
        raise InputError(f"this reconstruction is expected to need {problem}")
    return cost


def too_much(shape: Shape, config: ReconstructConfig, available: int | None = None) -> str:
    """Return in words what does not fit into memory, and what would; nothing if all fits.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        available: bytes; by default what the machine has free.
    """
    available = psutil.virtual_memory().available if available is None else available
    share = available / ranks.on_this_machine()  # every process holds the images and the field
    needed = forecast(shape, config).memory_bytes
    if needed <= share:
        return ""
    bin_by = fitting_bin(shape, config, share)
    advice = f"try --bin {bin_by * config.bin}" if bin_by else "a machine with more memory is needed"
    return _lacking(needed, available, advice)


def _lacking(needed: float, available: float, advice: str) -> str:
    n = ranks.on_this_machine()
    each = f" in each of {n} processes" if n > 1 else ""
    return f"{needed / GIB:.1f} GiB of memory{each}, {available / GIB:.1f} GiB are free: {advice}"


def check_box(shape: Shape, config: ReconstructConfig, box: Box) -> None:
    """Refuse a fit in a box that has been found to be larger than it was taken to be, and does not fit into memory.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        box: with the room beside the field of view.

    Raises:
        InputError: if it does not fit.
    """
    free, own = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    needed = _memory(shape, config, box)
    if needed > free / ranks.on_this_machine() + own:
        raise InputError(
            "the specimen goes on beyond the images, and with room for that the fit is expected to need "
            + _lacking(needed - own, free, f"try --bin {2 * config.bin}, or a --thickness if it was found too large")
        )


def fitting_bin(shape: Shape, config: ReconstructConfig, available: float) -> int | None:
    """Return by how much more the images must be binned to fit into memory, None if up to 32 is not enough.

    Args:
        shape: (tilt, row, col) of the images.
        config: settings.
        available: bytes.
    """
    n_tilts, n_y, n_x = shape
    for b in range(2, 33):
        binned = config.model_copy(update={"bin": b * config.bin})
        if forecast((n_tilts, max(1, n_y // b), max(1, n_x // b)), binned).memory_bytes <= available:
            return b
    return None
