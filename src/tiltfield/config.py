"""Every setting and its default, once. The command line's flags and the YAML files are both made from these models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tiltfield.parse import as_text, numbers_as_text, parse_defocus, parse_numbers, parse_tilts, word_or_number
from tiltfield.settings import Settings, unexpected
from tiltfield.settings import read_yaml as read_yaml

Mode = Literal["auto", "bf", "haadf"]
Implicit = Literal["ours", "ours-sup", "l2-noisy", "l1-noisy", "l2-clean", "l2-den", "l2-blur", "l2-blur+"]
Explicit = Literal["explicit-ours", "explicit-l2"]
Classical = Literal["sirt", "wbp", "wbp-den"]
Method = Literal["neural", Classical, Implicit, Explicit]
PUBLISHED: tuple[str, ...] = (*get_args(Implicit), *get_args(Explicit))  # networks and grids of the paper
CLASSICAL: tuple[str, ...] = get_args(Classical)
DENOISED = ("wbp-den", "l2-den")  # methods that denoise the images first
DenoiserName = Literal["bm3d", "topaz", "dwk-p", "dwk-g", "noise2self"]
FieldName = Literal["hashgrid", "mlp", "voxels"]
NOISE_NAMES = (
    *("auto", "flow", "scan-flow", "flow-paper"),
    *("poisson-gaussian", "scan-poisson-gaussian", "gaussian", "l2", "l1"),
)
FLOWS = ("auto", "flow", "scan-flow", "flow-paper")
NOISE_LAWS = ("poisson-gaussian", "gaussian", "none")  # of the simulation
LearnedNoise = Literal["gaussian", "poisson", "poisson-gaussian", "flow-paper", "flow", "scan-flow"]
DEFAULT_SNR = 0.7
FormatName = Literal["mrc", "ome-zarr", "tiff"]
DataType = Literal["float32", "int8", "uint8", "int16", "uint16"]
HELD_BY: dict[FormatName, tuple[str, ...]] = {  # MRC has no unsigned bytes, ImageJ no signed ones
    "mrc": ("float32", "int8", "int16", "uint16"),
    "tiff": ("float32", "uint8", "int16", "uint16"),
    "ome-zarr": get_args(DataType),
}
Preset = Literal["draft", "standard", "fine"]
Device = Literal["auto", "cpu", "cuda"]
Text = Annotated[str, BeforeValidator(as_text)]  # a number or a path too, as the text that stands for it
READING = ("angles", "transforms", "tilt_axis", "pixel_size_nm", "bin", "exclude")  # what a file needs, not a series


class SeriesConfig(Settings):
    """How a tilt series is read, and on what it is computed."""

    angles: Path | None = Field(
        None, description="file of tilt angles in degrees, one a line (.rawtlt, .tlt) or an .mdoc"
    )
    transforms: Path | None = Field(
        None, description="file of IMOD's transforms (.xf, .prexg, .prexf) to align the images with, in unbinned pixels"
    )
    tilt_axis: Text = Field(
        "y", description="tilt axis in the image: y (vertical), x (horizontal), degrees from y, or file: as that says"
    )
    pixel_size_nm: float | None = Field(None, gt=0, description="pixel size in nm; overrides the file's")
    bin: int = Field(1, ge=1, description="average blocks of this many pixels first")
    exclude: str = Field("none", description="tilts to leave out, counted from 1 as in IMOD: 23, or 3,17,40-44")

    threads: int | None = Field(None, ge=1, description="CPU threads; all cores if not given")
    device: Device = Field("auto", description="where to compute")
    seed: int = Field(0, ge=0, description="seed of every random draw")

    @field_validator("tilt_axis")
    @classmethod
    def _axis(cls, value: str) -> str:
        return word_or_number(value, ("x", "y", "file"), "degrees")

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclude(cls, value: Any) -> Any:
        return numbers_as_text(value)

    @property
    def reading(self) -> dict[str, Any]:
        """Return how the series is read: what :func:`tiltfield.io.load` takes by name."""
        return {**self.model_dump(include=set(READING)), "exclude": parse_numbers(self.exclude)}


class ExportConfig(Settings):
    """How a volume is written for other programs, beside the float32 density that tiltfield keeps."""

    format: tuple[FormatName, ...] = Field(
        (),
        description="write the volume for other programs too: mrc (3dmod, ChimeraX), ome-zarr (napari), tiff (Fiji); "
        "may be given several times",
    )
    orient: Literal["xyz", "xzy"] = Field(
        "xyz",
        description="order of the axes: xyz has z sections, as most viewers want; xzy is what IMOD's tilt writes, "
        "for scripts that go on with trimvol -rx",
    )
    invert: bool = Field(
        False, description="dense is dark, as in IMOD's bright-field tomograms; tiltfield's density is bright"
    )
    dtype: DataType = Field(
        "float32",
        description="16 bits halve the file, from minimum to maximum; 8 bits quarter it, from the 0.1 to the 99.9 "
        "percentile; the header says how to undo it",
    )
    mean_intensity: float | None = Field(
        None, gt=0, description="scale to this mean, as IMOD does, so that tomograms share one grey scale"
    )

    @field_validator("format", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @property
    def formats(self) -> tuple[FormatName, ...]:
        """Return the formats, each once; an option of a file without any means the first that can be."""
        shaped = any(getattr(self, name) != field.default for name, field in ExportConfig.model_fields.items())
        likely = next(name for name, types in HELD_BY.items() if self.dtype in types)
        return tuple(dict.fromkeys(self.format)) or ((likely,) if shaped else ())

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        for name in self.formats:
            if self.dtype not in HELD_BY[name]:
                raise ValueError(f"{name} does not hold {self.dtype}: take {', '.join(HELD_BY[name])} for it")
        return self


class ReconstructConfig(ExportConfig, SeriesConfig):
    """Settings of `tiltfield reconstruct`."""

    mode: Mode = Field("auto", description="contrast: bright field, HAADF, or told from the data")
    method: Method = Field("neural", description="neural field with a learned noise model, or another by name")
    field: FieldName = Field("hashgrid", description="what holds the density")
    noise: Text = Field(
        "auto", description="auto, [scan-]flow, flow-paper, [scan-]poisson-gaussian, gaussian, l2, l1, or a fitted file"
    )
    preset: Preset = Field("standard", description="how long to fit")
    max_time: float | None = Field(None, gt=0, description="seconds the whole run may take")
    log: Literal["none", "tensorboard"] = Field(
        "none", description="curves of the fit for TensorBoard too, in DIR/tensorboard; history.jsonl always has them"
    )
    thickness: Text = Field("auto", description="extent of the specimen along the beam in nm, or auto")
    tv_weight: float | None = Field(
        None, ge=0, description="weight of the total variation; if not given, chosen from the data (explicit grids: 0)"
    )

    defocus: str = Field(
        "none", description="blur of the binned images: none, or linear:PIXELS or paper:PIXELS at the steepest edge"
    )
    features: int | None = Field(
        None, ge=1, le=1024, description="width of the network; of the grid, features a node; its own if not given"
    )
    flow_layers: int | None = Field(
        None, ge=2, le=32, multiple_of=2, description="layers of the noise flow; its own number if not given"
    )
    steps: int | None = Field(None, ge=1, description="steps of a published method; by the images' size if not given")
    reduced: bool = Field(
        False, description="a published method multiplies in bfloat16: up to twice as fast where the CPU has it"
    )
    denoiser: DenoiserName = Field("bm3d", description="what wbp-den and l2-den denoise the images with")

    sirt_iterations: int = Field(30, ge=1, description="iterations of SIRT")
    wbp_filter: Literal["hann", "ram-lak"] = Field("hann", description="window of the WBP ramp filter")

    @field_validator("noise")
    @classmethod
    def _noise(cls, value: str) -> str:
        if value in NOISE_NAMES or Path(value).suffix:  # whether there is such a file is seen when it is read
            return value
        raise unexpected(NOISE_NAMES, "the .json of a fitted noise model")

    @field_validator("defocus")
    @classmethod
    def _defocus(cls, value: str) -> str:
        parse_defocus(value)
        return value

    @field_validator("thickness")
    @classmethod
    def _thickness(cls, value: str) -> str:
        value = word_or_number(value, ("auto",), "nm")
        if value != "auto" and not 0 < float(value) < math.inf:
            raise ValueError("must be positive and finite")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        method, given = self.method, self.model_fields_set
        if self.defocus != "none" and method not in ("neural", "l2-blur+"):
            raise ValueError(f"method {method} knows of no blur: leave out defocus, or use neural or l2-blur+")
        if method == "l2-blur+" and self.defocus == "none":
            raise ValueError("method l2-blur+ needs to know the blur: give defocus, e.g. linear:2")
        if method == "ours-sup" and self.noise in NOISE_NAMES:
            raise ValueError("method ours-sup needs a fitted noise model: give noise, a file of tiltfield noise fit")
        if self.features is not None and self.field == "voxels":
            raise ValueError("voxels have no features: leave them out, or take the field hashgrid or mlp")
        if self.flow_layers is not None and method == "neural" and self.noise not in FLOWS:
            raise ValueError(f"noise {self.noise} has no flow_layers: leave them out, or take {', '.join(FLOWS)}")
        for name, takers in _TAKEN_BY.items():
            if name in given and getattr(self, name) != type(self).model_fields[name].default and method not in takers:
                raise ValueError(f"method {method} does not take {name}: leave it out, or use {', '.join(takers)}")
        return self

    @property
    def ignored(self) -> list[str]:
        """Return the names of settings that are not the default, and mean nothing to the method."""
        fields = type(self).model_fields
        return [name for name in _IGNORED_BY.get(self.method, ()) if getattr(self, name) != fields[name].default]


_OURS = ("neural", *CLASSICAL)  # a file of settings for one of these serves the others, which ignore what is not theirs
_TAKEN_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("field", "preset", "thickness"), _OURS),
    "noise": (*_OURS, "ours-sup"),
    "tv_weight": (*_OURS, *get_args(Explicit)),
    "features": ("neural", *get_args(Implicit)),
    "flow_layers": ("neural", "ours", "explicit-ours"),
    "steps": PUBLISHED,
    "reduced": get_args(Implicit),
    **dict.fromkeys(("sirt_iterations", "wbp_filter"), _OURS),
    "denoiser": DENOISED,
}  # the methods that a setting means something to
_OF_A_FIT = ("field", "preset", "noise", "tv_weight")
_IGNORED_BY: dict[str, tuple[str, ...]] = {
    "neural": ("sirt_iterations", "wbp_filter"),
    "sirt": (*_OF_A_FIT, "wbp_filter"),
    "wbp": (*_OF_A_FIT, "sirt_iterations"),
}


class SimulateConfig(Settings):
    """Settings of `tiltfield simulate`."""

    size: int = Field(96, ge=16, le=1000, description="edge of the cubic cell, voxels")
    cell: Literal["simple", "paper"] = Field(
        "simple", description="recipe: few shells and virions, or those of the paper"
    )
    virion: Path | None = Field(
        None, description="structure (PDB, mmCIF) or map (MRC) of the virion of a paper cell; built in if not given"
    )
    resolution_a: float = Field(15.0, ge=5, le=60, description="resolution of that virion, Å")
    tilts: str = Field("-50:50:1.5", description="first:last:step, degrees; the last is included when it is hit")
    mode: Literal["bf", "haadf"] = Field("bf", description="contrast")
    defocus: Literal["none", "paper", "linear"] = Field(
        "none", description="blur away from the tilt axis: exponential (paper) or Gaussian (linear) kernel"
    )
    defocus_pixels: float = Field(
        2.0, gt=0, le=50, description="standard deviation of that blur at the steepest tilt, at the edge of the image"
    )
    snr: float | None = Field(
        None,
        gt=0,
        description=f"variance of the untilted clean image over that of its noise; {DEFAULT_SNR} if not given",
    )
    noise: Text = Field(
        "poisson-gaussian",
        description="noise put on the images: poisson-gaussian, gaussian, none, or a fitted noise file",
    )
    scan_correlation: float = Field(
        0.0, ge=0, le=0.9, description="correlation of the noise of neighbours along the fast scan direction"
    )
    scan_axis: Literal["x", "y"] = Field("x", description="fast scan direction: along the rows (x) or the columns (y)")
    clip: bool = Field(False, description="clip the noisy images to the range of the clean ones")
    quantise: int | None = Field(None, description="write grey levels of so many bits, 8 or 16")
    wide: bool = Field(False, description="let the slab go on beyond the field of view on both sides")
    pixel_size_nm: float = Field(1.0, gt=0, description="pixel size written to the files, nm")
    seed: int = Field(0, ge=0, description="seed of the cell and the noise")

    @property
    def angles_deg(self) -> list[float]:
        """Return the tilts in degrees."""
        return parse_tilts(self.tilts)

    @property
    def effective_snr(self) -> float:
        """Return the strength of the noise where a law draws it: `snr`, or its default."""
        return self.snr or DEFAULT_SNR

    @property
    def noise_file(self) -> Path | None:
        """Return the fitted noise, None if the noise is one of `NOISE_LAWS`."""
        return None if self.noise in NOISE_LAWS else Path(self.noise)

    @field_validator("tilts")
    @classmethod
    def _tilts(cls, value: str) -> str:
        parse_tilts(value)
        return value

    @field_validator("noise")
    @classmethod
    def _noise(cls, value: str) -> str:
        if value not in NOISE_LAWS and not Path(value).is_file():
            raise unexpected(NOISE_LAWS, "a file")
        return value

    @field_validator("quantise")
    @classmethod
    def _quantise(cls, value: int | None) -> int | None:
        if value not in (None, 8, 16):
            raise ValueError("expected 8 or 16 bits")
        return value

    @field_validator("virion")
    @classmethod
    def _virion(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("expected a file of atoms (PDB, mmCIF) or a map (MRC)")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.noise_file is not None and self.snr is not None:
            raise ValueError("a noise file says how strong the noise is: leave out snr, or name a noise law")
        if self.noise_file is not None and (self.scan_correlation > 0 or self.scan_axis != "x"):
            raise ValueError("a noise file says how the noise correlates: leave out scan_correlation and scan_axis")
        if self.noise == "none" and (self.snr is not None or self.scan_correlation > 0):
            raise ValueError("there is no noise to be strong or correlated: leave out snr and scan_correlation")
        if self.scan_axis != "x" and self.scan_correlation == 0:
            raise ValueError("noise that does not correlate has no scan_axis: leave it out, or give scan_correlation")
        if self.defocus == "none" and self._changed("defocus_pixels"):
            raise ValueError("there is no blur for defocus_pixels: leave it out, or say which defocus")
        if self.virion is None and self._changed("resolution_a"):
            raise ValueError("the built-in virions have no resolution_a: leave it out, or give virion")
        return self

    def _changed(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class NoiseRunConfig(Settings):
    """Settings that the commands of `tiltfield noise` share."""

    crop: int | None = Field(None, ge=64, description="use only the middle of the images, this many pixels wide")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores if not given")


class NoiseConfig(NoiseRunConfig):
    """Settings of `tiltfield noise fit`."""

    model: LearnedNoise = Field("scan-flow", description="noise model to fit")


class DenoiseConfig(SeriesConfig):
    """Settings of `tiltfield denoise`."""
