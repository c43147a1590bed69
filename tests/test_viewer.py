"""What napari is given of a run, without napari."""

import sys
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import tiltfield as tf
from tiltfield import viewer
from tiltfield.errors import InputError
from tiltfield.io import write_stack, write_volume
from tiltfield.series import Volume
from tiltfield.viewer import get_reader, layers

NM = 0.5


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    write_stack(rng.random((5, 8, 12), np.float32), tmp_path / "data.mrc", NM)
    (tmp_path / "data.rawtlt").write_text("-40\n-20\n0\n20\n40\n")
    folder = tmp_path / "run"
    folder.mkdir()
    write_volume(Volume(rng.random((4, 8, 12), np.float32), NM), folder / "volume.mrc")
    (folder / "config.yaml").write_text(f"series: {tmp_path / 'data.mrc'}\n")
    return folder


def test_layers_lie_on_each_other(run):
    write_volume(Volume(np.ones((4, 8, 12), np.float32), NM), run / "uncertainty.mrc")
    found = {keywords["name"]: (data, keywords, kind) for data, keywords, kind in layers(run)}
    series, density, uncertainty = found.values()
    assert list(found) == ["series (tilts along z)", "density", "uncertainty"]
    assert [kind for _, _, kind in found.values()] == ["image"] * 3
    assert [keywords["visible"] for keywords in (series[1], uncertainty[1])] == [False, False]
    assert "visible" not in density[1]
    for data, keywords, _ in found.values():
        assert keywords["scale"] == pytest.approx((NM,) * 3)
        assert keywords["units"] == ("nm",) * 3
        assert keywords["axis_labels"] == ("z", "y", "x")
        middle = np.array(keywords["translate"]) + np.array(keywords["scale"]) * (np.array(data.shape) - 1) / 2
        assert middle[0] == pytest.approx(0, abs=1e-6)  # the tilt axis
        assert keywords["translate"][1:] == (0.0, 0.0)
        low, high = keywords["contrast_limits"]
        assert low < high
    assert series[1]["metadata"]["angles_deg"] == [-40, -20, 0, 20, 40]


def test_volumes_stay_in_their_files(run):
    density = layers(run)[-1][0]
    assert not density.flags.owndata


def test_a_series_that_has_gone_is_left_out(run):
    (run.parent / "data.mrc").unlink()
    assert [keywords["name"] for _, keywords, _ in layers(run)] == ["density"]


def test_a_volume_alone_and_one_of_unknown_scale(tmp_path):
    write_volume(Volume(np.random.default_rng(0).random((3, 4, 5))), tmp_path / "x.mrc")
    ((_, keywords, _),) = layers(tmp_path / "x.mrc")
    assert (keywords["name"], keywords["scale"], keywords["units"]) == ("x", (1.0,) * 3, ("pixel",) * 3)


def test_the_reader_takes_runs_alone(run, tmp_path):
    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(run / "volume.mrc")) is None
    assert get_reader([str(run)]) is None
    reader = get_reader(str(run))
    assert [keywords["name"] for _, keywords, _ in reader(str(run))] == ["series (tilts along z)", "density"]


def test_the_manifest_names_the_reader():
    manifest = yaml.safe_load((files(tf) / "napari.yaml").read_text())
    command, reader = manifest["contributions"]["commands"][0], manifest["contributions"]["readers"][0]
    assert manifest["name"] == "tiltfield"
    assert command["python_name"] == f"{viewer.__name__}:{get_reader.__name__}"
    assert reader == {
        "command": command["id"],
        "accepts_directories": True,
        "filename_patterns": [],
    }  # "*" has napari ask for every file


def test_nothing_to_show_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no volume\.mrc"):
        layers(tmp_path)


def test_without_napari_the_command_says_what_installs_it(tiltfield, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    code, out, error = tiltfield("view", run)
    assert (code, out) == (2, "")
    assert "pip install 'tiltfield[view]'" in error


def test_napari_is_given_the_layers_and_the_density_is_selected(run, monkeypatch):
    shown = []
    selection = SimpleNamespace(active=None)

    def add_layer(layer):
        selection.active = layer  # as napari does
        shown.append((layer.data.shape, layer.name, layer.kind))
        return layer

    def create(data, keywords, kind):
        return SimpleNamespace(data=data, name=keywords["name"], kind=kind, visible=keywords.get("visible", True))

    write_volume(Volume(np.ones((4, 8, 12), np.float32), NM), run / "uncertainty.mrc")
    window = SimpleNamespace(
        add_layer=add_layer,
        layers=SimpleNamespace(selection=selection),
        scale_bar=SimpleNamespace(visible=False),
    )
    napari = SimpleNamespace(
        Viewer=lambda title: window,
        layers=SimpleNamespace(Layer=SimpleNamespace(create=create)),
        run=lambda: shown.append("run"),
    )
    monkeypatch.setattr(viewer, "package", lambda *_: napari)
    viewer.show(run)
    names = ["series (tilts along z)", "density", "uncertainty"]
    assert shown == [*zip([(5, 8, 12), (4, 8, 12), (4, 8, 12)], names, ["image"] * 3, strict=True), "run"]
    assert selection.active.name == "density"
