"""The public names: all there, imported only when used."""

import subprocess
import sys
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

import tiltfield as tf
from tiltfield.runfolder import FILES

HEAVY = ("torch", "scipy", "matplotlib", "h5py", "skimage")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_about_fifteen_names():
    assert 12 <= len(tf.__all__) <= 16


@pytest.mark.parametrize("name", tf.__all__)
def test_every_name_is_there(name):
    assert name in dir(tf)
    assert not isinstance(getattr(tf, name), types.ModuleType)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'reconstrct'"):
        _ = tf.reconstrct


@pytest.mark.parametrize("code", ["import tiltfield", "import tiltfield.cli", "import tiltfield as t; t.InputError"])
def test_importing_is_cheap(code):
    assert python(f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


@pytest.mark.parametrize("name", ["reconstruct", "simulate", "evaluate"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(name):
    code = f"import tiltfield as t; import tiltfield.{name}; from tiltfield import {name} as f; t.{name}; "
    assert python(code + f"print(callable(t.{name}), t.{name} is f)") == "True True"


@pytest.fixture(scope="module")
def series(cell):
    return cell(size=16, tilts="-60:60:10").series()


@pytest.fixture(scope="module")
def result(series):
    return tf.reconstruct(series, method="sirt", sirt_iterations=3)


def test_settings_are_taken_by_name_over_a_config():
    config = tf.SimulateConfig(size=16, tilts="-20:20:20")
    by_name, by_config = tf.simulate(config, seed=3), tf.simulate(config.model_copy(update={"seed": 3}))
    np.testing.assert_array_equal(by_name.noisy, by_config.noisy)
    with pytest.raises(tf.InputError, match="unknown setting 'sized'; did you mean 'size'"):
        tf.simulate(sized=16)


@pytest.mark.parametrize("model", [tf.ReconstructConfig, tf.SimulateConfig])
def test_a_bad_setting_is_an_input_error_with_the_nearest(model):
    with pytest.raises(tf.InputError, match=f"{model.__name__}: mode: .*, got 'haadff'; did you mean 'haadf'"):
        model(mode="haadff")
    with pytest.raises(tf.InputError, match=f"{model.__name__}: unknown setting 'sed'; did you mean 'seed'"):
        model(sed=1)


def test_a_path_is_read_by_the_settings(series, tmp_path):
    path = series.save(tmp_path / "s.npz")
    read = tf.reconstruct(path, method="wbp", bin=2, exclude="2")
    held = tf.reconstruct(tf.load(path, bin=2, exclude=[2]), method="wbp")
    np.testing.assert_array_equal(read.volume.data, held.volume.data)
    assert len(read.rendered) == len(series) - 1


def test_what_is_no_series_is_refused(series):
    with pytest.raises(tf.InputError, match=r"got ndarray: .*tiltfield.load"):
        tf.reconstruct(series.images)
    with pytest.raises(tf.InputError, match=r"bin: how a file is read, .*tiltfield.load"):
        tf.reconstruct(series, bin=2)


def test_a_series_in_memory_is_kept_as_a_run_that_the_command_line_knows(series, tmp_path, tiltfield):
    masked = np.ones(series.images.shape, bool)
    masked[3, :, :4] = False  # more than screening would replace
    given = tf.TiltSeries(series.images, series.angles_deg, 2.0, masked).select(slice(1, None))
    settings = {"method": "sirt", "sirt_iterations": 3, "threads": 1}
    result = tf.reconstruct(given, **settings, out=tmp_path / "run")
    run = tf.open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.volume.data, result.volume.data)
    np.testing.assert_array_equal(run.rendered, result.rendered)
    np.testing.assert_array_equal(run.series.images, given.images)
    np.testing.assert_array_equal(run.series.valid, given.valid)
    assert run.metrics["tilts"]["number"] == list(range(1, len(given) + 1))
    command = ["reconstruct", run.source, "--method", "sirt", "--sirt-iterations", 3, "--threads", 1, "--quiet"]
    assert tiltfield(*command, "--out", tmp_path / "again")[0] == 0
    again = tf.open_run(tmp_path / "again")
    np.testing.assert_array_equal(again.volume.data, run.volume.data)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("run", "again")]
    assert names[0] == names[1] | {"series.npz"}
    assert names[1] <= set(FILES)


def test_a_path_is_kept_as_a_run_and_replaced_only_when_asked(series, tmp_path):
    path = series.save(tmp_path / "s.npz")
    for overwrite in (False, True):
        tf.reconstruct(path, method="wbp", out=tmp_path / "run", overwrite=overwrite)
    assert tf.open_run(tmp_path / "run").source == path
    assert not (tmp_path / "run/series.npz").exists()
    with pytest.raises(tf.InputError, match="holds another run"):
        tf.reconstruct(path, method="wbp", out=tmp_path / "run")
    with pytest.raises(tf.InputError, match="--resume"):
        tf.reconstruct(path, method="wbp", out=tmp_path / "new", resume={})


def test_the_series_in_a_folder_outlives_the_run_that_it_replaces(series, tmp_path):
    tf.reconstruct(series, method="wbp", out=tmp_path / "run")
    tf.reconstruct(tmp_path / "run/series.npz", method="sirt", sirt_iterations=2, out=tmp_path / "run", overwrite=True)
    run = tf.open_run(tmp_path / "run")
    assert run.config.method == "sirt"
    np.testing.assert_array_equal(run.series.images, series.images)


def test_a_refused_run_leaves_no_folder(series, tmp_path):
    with pytest.raises(tf.InputError):
        tf.reconstruct(series, thickness="thin", out=tmp_path / "run")
    with pytest.raises(tf.InputError, match="no result"):
        tf.open_run(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_may_be_gone_on_with_by_the_command_line(series, tmp_path, tiltfield):
    class Stop(tf.Observer):
        def progress(self, stage, done, seconds_left, figures):
            if stage == "fit" and done > 0.2:
                raise KeyboardInterrupt

    settings = {"preset": "draft", "max_time": 3, "threads": 1}
    assert tf.reconstruct(series, **settings, out=tmp_path / "run", observer=Stop()).interrupted
    assert tf.open_run(tmp_path / "run").metrics["interrupted"]
    assert tiltfield("reconstruct", "--out", tmp_path / "run", "--resume", "--quiet")[0] == 0
    assert tf.open_run(tmp_path / "run").metrics["interrupted"] is False


def test_reprs_are_a_few_lines(series, result, cell, tmp_path):
    tf.reconstruct(series, method="wbp", out=tmp_path / "run")
    shown = [series, result.volume, result, cell(size=16, tilts="-60:60:10"), tf.open_run(tmp_path / "run")]
    for thing in shown:
        assert repr(thing).startswith(type(thing).__name__)
        assert "16 x 16" in repr(thing)
        assert len(repr(thing)) < 1200
        assert "array" not in repr(thing)


def test_pictures_are_figures_that_a_notebook_shows(series, result):
    volume = result.volume
    figures = [series.show(), series.show((0, -1)), volume.show(), volume.show((1, 2, 3), low=0, high=1)]
    figures += [volume.compare({"a": volume, "b": volume}, (1, 2, 3)), volume.compare(volume), result.show(series)]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figures[1].axes if axes.images]
    assert titles[:2] == ["tilt 1, -60°", "tilt 13, 60°"]
    np.testing.assert_array_equal(figures[3].axes[1].images[0].get_array(), volume.data[:, 2])
    assert figures[3].axes[0].images[0].get_clim() == (0, 1)


def test_a_picture_of_what_is_not_there(series, result):
    with pytest.raises(tf.InputError, match="tilts from 0 to 12, got 13"):
        series.show(13)
    with pytest.raises(tf.InputError, match="within"):
        result.volume.show((0, 16, 0))
