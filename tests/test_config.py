"""The settings: one default each, round trips through YAML, and refusals that name the nearest."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from tiltfield.config import ReconstructConfig, SimulateConfig, read_yaml
from tiltfield.errors import InputError, nearest
from tiltfield.parse import numbers_in_ranges, parse_numbers, parse_tilts


@pytest.mark.parametrize("model", [ReconstructConfig, SimulateConfig])
def test_settings_survive_yaml(tmp_path, model):
    changed = model(seed=5, mode="haadf", pixel_size_nm=0.25)
    (tmp_path / "c.yaml").write_text(changed.to_yaml())
    assert model.from_yaml(tmp_path / "c.yaml") == changed


def test_paths_survive_yaml(tmp_path):
    config = ReconstructConfig(angles=tmp_path / "a.tlt", tilt_axis="-3.5", thickness="120")
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert ReconstructConfig.from_yaml(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("thickness", 100.0, "100"),
        ("thickness", np.float32(62.5), "62.5"),
        ("thickness", "auto", "auto"),
        ("tilt_axis", -3.5, "-3.5"),
        ("tilt_axis", 90, "90"),
        ("noise", Path("a/fitted.json"), str(Path("a/fitted.json"))),
    ],
)
def test_numbers_and_paths_stand_for_their_text(name, value, text):
    config = ReconstructConfig(**{name: value})
    assert getattr(config, name) == text
    assert config == ReconstructConfig(**{name: text})


def test_copies_and_pickles_are_the_settings():
    config = ReconstructConfig(bin=2, thickness=80)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config.model_copy() == config


@pytest.mark.parametrize("model", [ReconstructConfig, SimulateConfig])
def test_every_setting_has_a_description_and_a_default(model):
    assert all(info.description and not info.is_required() for info in model.model_fields.values())


@pytest.mark.parametrize(
    ("name", "meant"), [("methud", "method"), ("tv_wieght", "tv_weight"), ("pixel_size", "pixel_size_nm")]
)
def test_an_unknown_setting_names_the_nearest(name, meant):
    with pytest.raises(InputError, match=f"unknown setting '{name}'; did you mean '{meant}'"):
        ReconstructConfig.parse({name: 1}, "file.yaml")


def test_an_unknown_setting_far_from_all_names_none():
    with pytest.raises(InputError, match=r"unknown setting 'qqqqqq'$"):
        ReconstructConfig.parse({"qqqqqq": 1}, "file.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bin", 0),
        ("bin", "two"),
        ("mode", "dark"),
        ("max_time", -1),
        ("pixel_size_nm", 0),
        ("tilt_axis", "z"),
        ("thickness", "thin"),
        ("thickness", "-5"),
        ("thickness", -5),
        ("thickness", "inf"),
        ("thickness", True),
        ("threads", 0),
        ("seed", -1),
        ("tv_weight", -0.1),
    ],
)
def test_a_bad_value_names_file_setting_and_value(name, value):
    with pytest.raises(InputError, match=rf"file\.yaml: {name}: .*, got {value!r}"):
        ReconstructConfig.parse({name: value}, "file.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a: [1", "not readable YAML"), ("- 1\n- 2\n", "expected lines of"), ("1: 2\n", "expected lines of")],
)
def test_a_file_that_is_not_settings_is_refused(tmp_path, text, reason):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_yaml(tmp_path / "c.yaml")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not readable YAML"):
        read_yaml(tmp_path / "c.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the settings file"):
        read_yaml(tmp_path / "c.yaml")


def test_an_empty_file_means_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert ReconstructConfig.from_yaml(tmp_path / "c.yaml") == ReconstructConfig()


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ReconstructConfig().bin = 2


def test_yaml_holds_plain_values_only():
    assert set(yaml.safe_load(ReconstructConfig().to_yaml())) == set(ReconstructConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "tilts"),
    [
        ("-2:2:2", [-2, 0, 2]),
        ("-50:50:1.5", [-50 + 1.5 * i for i in range(67)]),
        ("60:-60:-60", [60, 0, -60]),
        ("-0.3:0.3:0.1", [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
    ],
)
def test_tilts_run_from_first_to_last(text, tilts):
    assert parse_tilts(text) == pytest.approx(tilts)


@pytest.mark.parametrize(
    "text",
    ["", "1:2", "a:b:c", "0:10:0", "0:10:-1", "10:0:1", "0:95:1", "0:1:2", "nan:1:1", "0:inf:1", "0:80:1e-9"],
)
def test_bad_tilts_are_refused(text):
    with pytest.raises(ValueError, match=r"tilt|step|expected"):
        parse_tilts(text)


def test_the_nearest_name_is_offered_only_if_it_is_near():
    assert nearest("neurl", ["neural", "wbp"]) == "; did you mean 'neural'?"
    assert nearest("HAADF", ["bf", "haadf"]) == "; did you mean 'haadf'?"
    assert nearest("x", ["neural", "wbp"]) == ""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([3, 4], "3,4"), ([1, 2, 3], "1-3"), ([3, 17, 40, 41, 42, 43, 44], "3,17,40-44")],
)
def test_numbers_are_listed_as_they_are_read(numbers, text):
    assert numbers_in_ranges(numbers) == text
    assert list(parse_numbers(text or "none")) == numbers


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({"method": "sirt", "tv_weight": 1.0, "preset": "draft", "sirt_iterations": 5}, ["preset", "tv_weight"]),
        ({"method": "wbp", "sirt_iterations": 5, "wbp_filter": "ram-lak"}, ["sirt_iterations"]),
        ({"wbp_filter": "ram-lak", "tv_weight": 1.0}, ["wbp_filter"]),
        ({"method": "sirt"}, []),
    ],
)
def test_what_means_nothing_to_a_method_is_told(settings, ignored):
    assert ReconstructConfig(**settings).ignored == ignored
