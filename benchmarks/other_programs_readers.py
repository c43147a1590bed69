"""How other programs are asked what they read of a file, for other_programs.py.

Each gives the voxels back in a form that needs no reader of MRC: SPIDER, text, OME-TIFF, NumPy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

PATIENCE = 180  # seconds for one file
MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16}  # of MRC
UNITS_NM = {"nm": 1.0, "Å": 0.1, "µm": 1000.0, "um": 1000.0, "micron": 1000.0}

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a program says of a file.

    Attributes:
        values: shape (z, y, x), as the program has them.
        voxel_nm: edges of a voxel (x, y, z), nm; None if the program tells none.
        origin_nm: place of the first voxel (x, y, z), nm; None if the program tells none.
    """

    values: np.ndarray
    voxel_nm: Triple | None = None
    origin_nm: Triple | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A file, and what it holds."""

    kind: str
    dtype: str
    orient: str
    path: Path
    truth: Seen


@dataclass(frozen=True)
class Program:
    """A program that reads files.

    Attributes:
        name: as its makers write it.
        kinds: what it is given, of `NAMES`.
        version: asks it; raises OSError if it is not there.
        read: opens a file; has a folder for what it writes.
    """

    name: str
    kinds: tuple[str, ...]
    version: Callable[[], str]
    read: Callable[[Case, Path], Seen]


def run(*command: str | Path, whatever: bool = False) -> str:
    """Run a command and return what it prints.

    Args:
        *command: program and arguments.
        whatever: do not ask for its exit status; that of Debian's ImageJ is 1 when all is well.

    Raises:
        RuntimeError: if it fails or takes too long; with the last line that says why.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {PATIENCE} s") from error
    if done.returncode and not whatever:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if re.search("[A-Za-z]", line)]
        raise RuntimeError(lines[-1][:100] if lines else f"exit status {done.returncode}")
    return done.stdout


def relion(case: Case, folder: Path) -> Seen:
    """Have RELION write SPIDER: a header of 4-byte floats, then the voxels, x fastest."""
    out = folder / "out.spi"
    said = run("relion_image_handler", "--i", case.path, "--stats")
    run("relion_image_handler", "--i", case.path, "--o", out)
    header = np.fromfile(out, np.float32, 22)
    shape = tuple(abs(int(header[k])) for k in (0, 1, 11))
    values = np.fromfile(out, np.float32, offset=int(header[21])).reshape(shape)
    size = float(said.split("angpix =")[1].split()[0]) / 10
    return Seen(values, (size, size, size))


def gemmi(case: Case, folder: Path) -> Seen:
    """Have gemmi write its voxels, in their type, behind a header of 1024 bytes and the length of an extended one."""
    out = folder / "out.ccp4"
    said = run("gemmi", "map", case.path)
    run("gemmi", "map", f"--write-xyz={out}", case.path)
    header = np.fromfile(out, np.int32, 256)
    values = np.fromfile(out, MODES[int(header[3])], offset=1024 + int(header[23])).reshape(header[[2, 1, 0]])
    cell, origin = _numbers(said, "Cell dimensions:"), _numbers(said, "Non-zero origin:") or [0.0] * 3
    grid = _numbers(said, "Grid sampling on x, y, z:")
    return Seen(values, _triple(np.divide(cell[:3], grid[:3]) / 10), _triple(np.array(origin) / 10))


PYMOL = """
import json
from pymol import cmd
cmd.set("normalize_ccp4_maps", 0)
cmd.load({path!r}, "m")
field = cmd.get_volume_field("m")
print("JSON" + json.dumps([field.transpose(2, 1, 0).tolist(), cmd.get_extent("m"), cmd.get_symmetry("m")[:3]]))
"""


def pymol(case: Case, folder: Path) -> Seen:
    """Have PyMOL print its field, where it lies, and its cell."""
    script = folder / "script.py"
    script.write_text(PYMOL.format(path=str(case.path)))
    said = run("pymol", "-cqk", script)
    found = re.search(r"^JSON(.*)$", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(next((line.strip() for line in said.splitlines() if re.search("ERR|Error", line)), "no map"))
    field, extent, cell = json.loads(found[1])
    values = np.array(field)
    return Seen(values, _triple(np.divide(cell, values.shape[::-1]) / 10), _triple(np.array(extent[0]) / 10))


IMAGEJ = """
setBatchMode(true);
open(getArgument());
Stack.getDimensions(w, h, c, s, t);
getVoxelSize(x, y, z, unit);
print("SIZE", w, h, c * t, s);
print("VOXEL", x, y, z, unit);
for (k = 1; k <= s; k++) {
  setSlice(k);
  for (j = 0; j < h; j++) {
    line = "ROW";
    for (i = 0; i < w; i++) line = line + " " + d2s(calibrate(getPixel(i, j)), 9);
    print(line);
  }
}
"""


def imagej(case: Case, folder: Path) -> Seen:
    """Have ImageJ print every voxel, calibrated."""
    macro = folder / "macro.ijm"
    macro.write_text(IMAGEJ)
    said = run(*_screen(), "imagej", "-b", macro, case.path, whatever=True)
    if "SIZE" not in said:
        raise RuntimeError(said.strip().splitlines()[-1][:100] if said.strip() else "nothing")
    width, height, others, slices = (int(n) for n in _numbers(said, "SIZE"))
    if others != 1:
        raise RuntimeError(f"taken for {others} channels or times")
    values = np.array([row.split()[1:] for row in said.splitlines() if row.startswith("ROW")], float)
    unit = re.search(r"VOXEL .* (\S+)", said)
    size = np.array(_numbers(said, "VOXEL")) * UNITS_NM.get(unit[1] if unit else "", np.nan)
    return Seen(values.reshape(slices, height, width), _triple(size))


def bioformats(jar: Path, case: Case, folder: Path) -> Seen:
    """Have Bio-Formats write plain OME-TIFF, which says the size of voxels in XML."""
    out = folder / "out.ome.tiff"
    run("java", "-cp", jar, "loci.formats.tools.ImageConverter", "-no-upgrade", "-overwrite", case.path, out)
    with tifffile.TiffFile(out) as file:
        about, values = file.ome_metadata or "", file.asarray()
    found = [re.search(rf'PhysicalSize{axis}="([^"]*)"', about) for axis in "XYZ"]
    units = [re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', about) for axis in "XYZ"]
    if not all(found):
        return Seen(values)
    size = [float(n[1]) * UNITS_NM[u[1] if u else "µm"] for n, u in zip(found, units, strict=True) if n]
    return Seen(values, _triple(size))


NAPARI = """
from napari.components import ViewerModel
from npe2 import PluginManager
PluginManager.instance().discover()
plugin = {"run": "tiltfield", "ome-zarr": "napari-ome-zarr", "tiff": "napari"}[kind]
layer = next(layer for layer in ViewerModel().open(path, plugin=plugin) if layer.visible)
values = np.asarray(layer.data[0] if layer.multiscale else layer.data)
if str(layer.units[0]) != "pixel":
    voxel = [float(s * u.to("nm").magnitude) for s, u in zip(layer.scale, map(pint, layer.units))][::-1]
    origin = [float(s) for s in layer.data_to_world((0, 0, 0))][::-1]
"""
VTK = """
import vtk
from vtk.util.numpy_support import vtk_to_numpy
reader = vtk.vtkMRCReader()
reader.SetFileName(path)
reader.Update()
image = reader.GetOutput()
values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
voxel, origin = [s / 10 for s in image.GetSpacing()], [s / 10 for s in image.GetOrigin()]
"""
ITK = """
import SimpleITK
image = SimpleITK.ReadImage(path)
values = SimpleITK.GetArrayFromImage(image)
if kind != "tiff":
    voxel, origin = [s / 10 for s in image.GetSpacing()], [s / 10 for s in image.GetOrigin()]
"""
AROUND = """
import sys, json
import numpy as np
pint = lambda unit: 1 * unit
kind, path, out = sys.argv[1:]
voxel = origin = None
{code}
np.save(out, values)
print("JSON" + json.dumps([voxel, origin]))
"""


def package(python: str, code: str, case: Case, folder: Path) -> Seen:
    """Have a package of another interpreter read the file, and NumPy save it."""
    out = folder / "out.npy"
    said = run(python, "-c", AROUND.format(code=code), case.kind, case.path, out)
    voxel, origin = json.loads(said.split("JSON")[1])
    return Seen(np.load(out), voxel and _triple(voxel), origin and _triple(origin))


def programs(python: str, jar: Path) -> list[Program]:
    """Return the programs, there or not.

    Args:
        python: interpreter that may have napari, vtk and SimpleITK.
        jar: Bio-Formats, there or not.
    """

    def installed(name: str) -> Callable[[], str]:
        return lambda: run(python, "-c", f"from importlib.metadata import version; print(version({name!r}))").strip()

    def reads(code: str) -> Callable[[Case, Path], Seen]:
        return lambda case, folder: package(python, code, case, folder)

    mrc = ("mrc", "rec")
    return [
        Program("RELION", mrc, lambda: _version("relion_image_handler", "--version"), relion),
        Program("gemmi", mrc, lambda: _version("gemmi", "--version"), gemmi),
        Program("PyMOL", mrc, lambda: _version("pymol", "-cq", "-d", "print(cmd.get_version()[0])"), pymol),
        Program("ParaView's reader, VTK", mrc, installed("vtk"), reads(VTK)),
        Program("3D Slicer's reader, SimpleITK", (*mrc, "tiff"), installed("SimpleITK"), reads(ITK)),
        Program("ImageJ", ("tiff",), _imagej_version, imagej),
        Program("napari", ("tiff", "ome-zarr", "run"), installed("napari"), reads(NAPARI)),
        Program("Bio-Formats", (*mrc, "tiff"), partial(_bioformats_version, jar), partial(bioformats, jar)),
    ]


def _bioformats_version(jar: Path) -> str:
    if not jar.is_file():
        raise FileNotFoundError("no jar given by --bioformats")
    said = run("java", "-cp", jar, "loci.formats.tools.ImageInfo", "-version")
    return _number(said.split("Version:")[-1].splitlines()[0])


def _imagej_version() -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".ijm") as macro:
        macro.write("print(getVersion());")
        macro.flush()
        _found("imagej")
        return _number(run(*_screen(), "imagej", "-b", macro.name, whatever=True))


def _version(*command: str) -> str:
    _found(command[0])
    return _number(run(*command))


def _found(program: str) -> None:
    if shutil.which(program) is None:
        raise FileNotFoundError(f"no {program} on the PATH")


def _number(text: str) -> str:
    """Return the last version in a text."""
    found = re.findall(r"\d+\.\d+[\w.]*", text)
    return found[-1] if found else "of unknown version"


def _screen() -> tuple[str, ...]:
    """Return what gives a program a screen where there is none."""
    return () if os.environ.get("DISPLAY") else ("xvfb-run", "-a")


def _numbers(text: str, after: str) -> list[float]:
    """Return the numbers that follow a word on its line."""
    found = re.search(rf"^{re.escape(after)}(.*)$", text, re.MULTILINE)
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:[eE][+-]?\d+)?", found[1])] if found else []


def _triple(numbers: Sequence[float] | np.ndarray) -> Triple:
    x, y, z = (float(n) for n in numbers)
    return x, y, z
