"""What a run writes for other programs, beside its own files."""

import shlex
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
import yaml

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.export import outputs
from tiltfield.io import read_volume, write_stack
from tiltfield.observe import Observer
from tiltfield.run import HARMLESS, Request, command_of, run
from tiltfield.runfolder import ASKED_FOR, LOG, REPLACED

EVERY = ("mrc", "ome-zarr", "tiff")


@pytest.fixture(scope="module")
def stack(tmp_path_factory, cell):
    folder = tmp_path_factory.mktemp("data")
    write_stack(cell().noisy, folder / "data.mrc", 2.0)
    (folder / "data.rawtlt").write_text("".join(f"{a}\n" for a in cell().angles_deg))
    return folder / "data.mrc"


@pytest.fixture
def go(monkeypatch, stack, tmp_path):
    monkeypatch.setattr("tiltfield.report.save_preview", lambda path, series, result: path.write_bytes(b"a picture"))

    def reconstruct(**settings):
        settings = {"method": "wbp", **settings}
        return run(Request(tmp_path / "run", stack, settings, overwrite=True), Observer())

    return reconstruct


def asked_for(folder):
    return sorted(p.name for p in folder.iterdir() if p.name in ASKED_FOR)


def test_names_are_those_that_overwriting_clears(tmp_path):
    files = outputs(tmp_path / "volume", ReconstructConfig(format=EVERY))
    assert {p.name for p in files.values()} | {LOG} <= set(ASKED_FOR)


def test_the_density_stays_and_other_formats_lie_beside(go, tmp_path):
    result = go(format=EVERY, dtype="int16", orient="xzy")
    assert asked_for(tmp_path / "run") == ["volume.ome.zarr", "volume.rec", "volume.tif"]
    np.testing.assert_array_equal(read_volume(tmp_path / "run/volume.mrc").data, result.volume.data)
    with mrcfile.open(tmp_path / "run/volume.rec") as mrc:
        assert mrc.data.dtype == np.int16
        assert mrc.data.shape == tuple(np.array(result.volume.data.shape)[[1, 0, 2]])
    go(format=["tiff"])
    assert asked_for(tmp_path / "run") == ["volume.tif"]
    assert not (tmp_path / "run" / REPLACED).exists()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "run/volume.tif"), result.volume.data)


def test_mrc_as_it_is_needs_no_second_file(go, tmp_path):
    go(format=["mrc"])
    assert asked_for(tmp_path / "run") == []


def test_headers_hold_version_and_command(go, tmp_path):
    go(format=["mrc"], invert=True, bin=2)
    command = "tiltfield reconstruct data.mrc --bin 2 --format mrc --invert --method wbp"
    for name, more in (("volume.mrc", []), ("volume.rec", ["density = -1 * value"])):
        with mrcfile.open(tmp_path / "run" / name) as mrc:
            labels = mrc.get_labels()
        assert labels[0].startswith("tiltfield ")
        assert labels[1:] == [command, *more]


def test_the_command_in_the_header_makes_the_same_settings(tmp_path):
    from tiltfield.cli import app

    config = ReconstructConfig(format=EVERY, invert=True, bin=2, tilt_axis="-3.5", angles=tmp_path / "a b.tlt", seed=4)
    words = shlex.split(command_of(tmp_path / "x.mrc", config))
    assert words[:3] == ["tiltfield", "reconstruct", "x.mrc"]
    _, bound, _ = app.parse_args([*words[1:], "--out", "d"], exit_on_error=False, print_error=False)
    given = bound.arguments["flags"].model_dump(exclude_unset=True)
    assert ReconstructConfig(**given) == config.model_copy(update={"angles": Path("a b.tlt")})


@pytest.mark.parametrize(
    ("fault", "said"),
    [(InputError("the disk is full"), "the disk is full"), (KeyboardInterrupt(), "tiltfield convert")],
)
def test_what_cannot_be_written_is_said_when_all_else_is_there(go, tmp_path, monkeypatch, fault, said):
    def refuse(image, path):
        raise fault

    from tiltfield import export

    monkeypatch.setitem(export.WRITERS, "tiff", export.Writer((".tif",), refuse, ""))
    with pytest.raises(InputError, match=f"complete, but was not written as asked: .*{said}"):
        go(format=["tiff"])
    assert {"volume.mrc", "metrics.json"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_settings_are_kept_and_may_change_when_a_run_is_resumed(go, tmp_path):
    go(format=["tiff"], dtype="uint8")
    values = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (values["format"], values["dtype"]) == (["tiff"], "uint8")
    assert {"format", "dtype", "orient", "invert", "mean_intensity", "log"} <= set(HARMLESS)
