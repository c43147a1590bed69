"""Files of every kind that is read, written by the libraries of others, or byte by byte after a description."""

import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from dm_bytes import dm_file
from mrcfile.dtypes import get_ext_header_dtype

N, ROWS, COLS = 7, 24, 20
ANGLES = np.linspace(-60, 60, N)
SIZE = 0.5  # nm
AXIS = -84.1  # as IMOD counts it


@dataclass(frozen=True)
class Sample:
    """A way to write a series.

    Attributes:
        row: of the table in docs/files.md.
        write: from a folder and images (image, row, col) to the path to be read.
        dtype: of the images.
        angles: whether the file holds ANGLES.
        size: pixel size that it holds, nm.
        axis: tilt axis that it holds, degrees from vertical, first row at the top.
        needs: package without which it cannot be written.
    """

    row: str
    write: Callable[[Path, np.ndarray], Path]
    dtype: str = "f4"
    angles: bool = False
    size: float | None = SIZE
    axis: float | None = None
    needs: str | None = None


def make(n=N, rows=ROWS, cols=COLS, dtype="f4", seed=0):
    """Images of noise, with a shape that tells them from their transposes."""
    return np.random.default_rng(seed).normal(100, 10, (n, rows, cols)).astype(dtype)


def tilts(n):
    return np.linspace(-60, 60, n)


def mrc(folder, data):
    path = folder / "x.mrc"
    with mrcfile.new(path, data, overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = 10 * SIZE
    return path


def mrc_serialem(folder, data, name="x.st", angles=None):
    """A tilt in hundredths of a degree for each image, the axis in a title."""
    path = mrc(folder, data).rename(folder / name)
    angles = tilts(len(data)) if angles is None else np.array(angles)
    with mrcfile.open(path, "r+") as file:
        file.set_extended_header(np.frombuffer(np.round(angles * 100).astype("<i2").tobytes(), "V2"))
        file.header.exttyp = b"SERI"
        file.add_label("SerialEM: somewhere")
        file.add_label(f"    Tilt axis angle = {AXIS}, binning = 1  spot = 9  camera = 0")
    with path.open("r+b") as file:
        file.seek(128)
        file.write(struct.pack("<2h", 2, 1))
    return path


def mrc_fei(folder, data):
    path = mrc(folder, data)
    dtype = get_ext_header_dtype(b"FEI1", "<")
    records = np.zeros(len(data), dtype)
    records["Metadata size"], records["Alpha tilt"] = dtype.itemsize, tilts(len(data))
    records["Pixel size X"] = SIZE * 1e-9
    with mrcfile.open(path, "r+") as file:
        file.set_extended_header(records)
        file.header.exttyp = b"FEI1"
    return path


def mdoc(folder, data):
    path = mrc(folder, data).rename(folder / "x.st")
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 1.0  # unknown
    head = f"PixelSpacing = {10 * SIZE}\nImageFile = x.st\n\n[T = SerialEM: somewhere]\n\n"
    title = f"[T =     Tilt axis angle = {AXIS}, binning = 1  spot = 7  camera = 0]\n\n"
    sections = "".join(f"[ZValue = {i}]\nTiltAngle = {a}\n\n" for i, a in enumerate(tilts(len(data))))
    path.with_name("x.st.mdoc").write_text(head + title + sections)
    return path.with_name("x.st.mdoc")


def tlt(folder, data):
    path = mrc(folder, data)
    path.with_suffix(".rawtlt").write_text("".join(f"{a:8.2f}\n" for a in tilts(len(data))))
    return path


def xf(folder, data):
    """A stack with transforms beside it: small turns and shifts."""
    path = mrc(folder, data)
    rows = [(np.cos(a), -np.sin(a), np.sin(a), np.cos(a), 3 * a, -a) for a in np.linspace(-0.1, 0.1, len(data))]
    path.with_suffix(".xf").write_text("".join(" ".join(f"{v:11.7f}" for v in row) + "\n" for row in rows))
    return path


def tiff_imagej(folder, data):
    options = {"resolution": (1 / SIZE, 1 / SIZE), "metadata": {"unit": "nm", "axes": "ZYX"}}
    tifffile.imwrite(folder / "x.tif", data, imagej=True, **options)
    return folder / "x.tif"


def tiff_ome(folder, data, **options):
    sizes = {f"PhysicalSize{side}": SIZE for side in "XY"} | {f"PhysicalSize{side}Unit": "nm" for side in "XY"}
    path = folder / "x.ome.tif"
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata={"axes": "ZYX"} | sizes, **options)
    return path


def tiff_packed(folder, data):
    return tiff_ome(folder, data, compression="zlib")


def signal(data):
    """What RosettaSciIO's writers take: a HyperSpy signal as a dictionary."""
    scales = [(20.0, "°", "tilt"), (SIZE, "nm", "y"), (SIZE, "nm", "x")]
    axes = [
        {"_type": "UniformDataAxis", "name": name, "units": unit, "scale": scale, "offset": -60.0 if i == 0 else 0.0,
         "size": n, "navigate": i == 0, "is_binned": False, "index_in_array": i}
        for i, ((scale, unit, name), n) in enumerate(zip(scales, data.shape, strict=True))
    ]  # fmt: skip
    axes[0]["scale"] = 120 / (len(data) - 1)
    metadata = {"General": {"title": "series"}, "Signal": {"signal_type": ""}}
    extra = {"original_metadata": {}, "learning_results": {}, "models": {}, "tmp_parameters": {}, "package_info": {}}
    return {"data": data, "axes": axes, "metadata": metadata, "attributes": {"_lazy": False}} | extra


def hspy(folder, data):
    import rsciio.hspy

    rsciio.hspy.file_writer(folder / "x.hspy", signal(data))
    return folder / "x.hspy"


def zspy(folder, data):
    """RosettaSciIO's writer names stores of zarr 2, which zarr 3 calls otherwise; its files are of zarr 2 as well."""
    import rsciio.zspy

    class Gone: ...

    with pytest.MonkeyPatch.context() as patch, zarr.config.set({"default_zarr_format": 2}):
        patch.setattr(zarr.storage, "NestedDirectoryStore", zarr.storage.LocalStore, raising=False)
        for name in ("ZipStore", "DBMStore", "LMDBStore"):
            patch.setattr(zarr, name, Gone, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rsciio.zspy.file_writer(str(folder / "x.zspy"), signal(data), show_progressbar=False)
    return folder / "x.zspy"


def emd_berkeley(folder, data):
    import rsciio.emd

    rsciio.emd.file_writer(folder / "x.emd", signal(data))
    return folder / "x.emd"


def emd_tomviz(folder, data):
    """As tomviz lays it out: tilts first, names and units as lists of one string."""
    path = folder / "x.emd"
    with h5py.File(path, "w") as file:
        file.attrs.update({"version_major": np.uint32(0), "version_minor": np.uint32(2)})
        group = file.create_group("data/tomography")
        group.attrs["emd_group_type"] = np.uint32(1)
        group["data"] = data
        for i, (name, unit) in enumerate([("angles", "[deg]"), ("y", "[n_m]"), ("x", "[n_m]")]):
            values = tilts(len(data)) if i == 0 else SIZE * np.arange(data.shape[i])
            group[f"dim{i + 1}"] = values.astype("f4")
            group[f"dim{i + 1}"].attrs.update({"name": np.array([name], "S"), "units": np.array([unit], "S")})
    return path


def emd_velox(folder, data):
    """As Velox lays it out, byte for byte as its files are: (row, col, frame), JSON in columns of bytes."""
    path = folder / "x.emd"
    texts = []
    for tilt in np.deg2rad(tilts(len(data))):
        size = {"width": str(SIZE * 1e-9), "height": str(SIZE * 1e-9)}
        result = {"PixelSize": size, "PixelUnitX": "m", "PixelUnitY": "m", "DetectorIndex": "0"}
        stage = {"AlphaTilt": str(tilt), "BetaTilt": "0", "Position": {"x": "0", "y": "0", "z": "0"}}
        detectors = {"Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"}}
        scan = {"FrameTime": "1", "DwellTime": "1e-6", "ScanRotation": "0"}
        core = {"MetadataDefinitionVersion": "7.9", "MetadataSchemaVersion": "v1/2013/07"}
        frame = {"Core": core, "BinaryResult": result, "Stage": stage, "Scan": scan, "Detectors": detectors}
        frame |= {
            "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
            "Optics": {},
            "Instrument": {},
        }
        texts.append(json.dumps(frame))
    columns = np.zeros((2048, len(texts)), np.uint8)
    for i, text in enumerate(texts):
        columns[: len(text), i] = np.frombuffer(text.encode(), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("Version", data=[json.dumps({"format": "Velox", "version": 10})], dtype=h5py.string_dtype())
        group = file.create_group("Data/Image/0123456789abcdef")
        stack = np.moveaxis(data, 0, 2)
        group.create_dataset("Data", data=stack, chunks=(*data.shape[1:], 1))
        group.create_dataset("Metadata", data=columns, chunks=(2048, 1), compression="gzip")
    return path


def dm3(folder, data):
    return dm_file(folder / "x.dm3", data, 3, tilts(len(data)), SIZE)


def dm4(folder, data):
    return dm_file(folder / "x.dm4", data, 4, tilts(len(data)), SIZE)


def dm_folder(folder, data):
    inside = folder / "tilts"
    inside.mkdir()
    for i, (image, angle) in enumerate(zip(data, tilts(len(data)), strict=True)):
        dm_file(inside / f"x_{i + 1}.dm3", image[None], 3, [angle], SIZE)
    return inside


def ome_zarr(folder, data, version=3):
    """OME-Zarr 0.5 (Zarr 3) or 0.4 (Zarr 2), by zarr-python."""
    path = folder / "x.ome.zarr"
    group = zarr.create_group(path, zarr_format=version)
    named = {"dimension_names": ("z", "y", "x")} if version == 3 else {}
    group.create_array("0", data=data, chunks=(1, *data.shape[1:]), **named)
    units = [("z", None), ("y", "nanometer"), ("x", "nanometer")]
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name, unit in units]
    scale = [{"type": "scale", "scale": [1.0, SIZE, SIZE]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}], "name": "series"}
    attributes = {"version": "0.5", "multiscales": [image]}
    group.attrs.update({"ome": attributes} if version == 3 else {"multiscales": [image | {"version": "0.4"}]})
    return path


def ome_zarr_04(folder, data):
    return ome_zarr(folder, data, 2)


def npy(folder, data):
    np.save(folder / "x.npy", data)
    return folder / "x.npy"


def npz(folder, data):
    np.savez_compressed(folder / "x.npz", images=data, angles_deg=tilts(len(data)), pixel_size_nm=SIZE)
    return folder / "x.npz"


def tiff_folder(folder, data):
    inside = folder / "tilts"
    inside.mkdir()
    for i, image in enumerate(data):
        tifffile.imwrite(
            inside / f"x{i + 1}.tif", image, imagej=True, resolution=(1 / SIZE,) * 2, metadata={"unit": "nm"}
        )
    return inside


def mrc_folder(folder, data):
    inside = folder / "tilts"
    inside.mkdir()
    for i, (image, angle) in enumerate(zip(data, tilts(len(data)), strict=True)):
        mrc_serialem(inside, image[None], f"x{i + 1}.mrc", [angle])
    return inside


RSCIIO = "rsciio"
SAMPLES = {
    "MRC by mrcfile": Sample("MRC", mrc),
    "MRC by mrcfile, int16": Sample("MRC", mrc, "i2"),
    "MRC of SerialEM": Sample("MRC", mrc_serialem, "i2", True, SIZE, -AXIS),
    "MRC of FEI": Sample("MRC", mrc_fei, "i2", True),
    "mdoc of SerialEM": Sample(".mdoc", mdoc, "i2", True, SIZE, -AXIS),
    "MRC and .rawtlt": Sample(".rawtlt, .tlt", tlt, "f4", True),
    "MRC and .xf": Sample(".xf, .prexg, .prexf", xf),
    "TIFF of ImageJ by tifffile": Sample("TIFF", tiff_imagej, "u2"),
    "OME-TIFF by tifffile": Sample("TIFF", tiff_ome),
    "compressed OME-TIFF": Sample("TIFF", tiff_packed, "u2"),
    "DM3": Sample("DigitalMicrograph", dm3, "f4", True),
    "DM4": Sample("DigitalMicrograph", dm4, "u2", True),
    "folder of DM3": Sample("DigitalMicrograph", dm_folder, "i2", True),
    "Velox EMD": Sample("Velox EMD", emd_velox, "u2", True),
    "EMD by RosettaSciIO": Sample("EMD of Berkeley", emd_berkeley, "f4", True, needs=RSCIIO),
    "EMD of tomviz": Sample("EMD of Berkeley", emd_tomviz, "f4", True),
    "hspy by RosettaSciIO": Sample("HyperSpy", hspy, "f4", True, needs=RSCIIO),
    "zspy by RosettaSciIO": Sample("HyperSpy", zspy, "f4", True, needs=RSCIIO),
    "OME-Zarr 0.5 by zarr": Sample("OME-Zarr", ome_zarr),
    "OME-Zarr 0.4 by zarr": Sample("OME-Zarr", ome_zarr_04, "u2"),
    "npy": Sample("NumPy .npy", npy, size=None),
    "npz": Sample("NumPy .npz", npz, "i2", True),
    "folder of TIFF": Sample("folder of images", tiff_folder, "u1"),
    "folder of MRC": Sample("folder of images", mrc_folder, "i2", True, SIZE, -AXIS),
}
