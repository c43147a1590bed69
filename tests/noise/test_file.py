"""Noise models in files: the same law to the bit, readable JSON, and an error with a way out for anything else."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from tiltfield.errors import InputError
from tiltfield.noise.base import Recording
from tiltfield.noise.file import FORMAT, NoiseFile, load_noise, save_noise
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.gaussian import L1, L2, Gaussian, PoissonGaussian
from tiltfield.noise.paper import PaperFlow
from tiltfield.noise.poisson import Poisson
from tiltfield.noise.scan import Scan

ABOUT = {"source": "measured.mrc", "pixels": 1234, "gain": [0.5, 1e-300]}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def bent(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(1)))
    return model


def line(recording=None):
    return PoissonGaussian(0.05, 4e-4, 0.1, recording, misfit=0.01)


def flow(recording=None, n_layers=4):
    return RadialFlow(line(recording), low=-0.1, high=1.1, n_layers=n_layers, recording=recording, generator=seeded(0))


BOTH = Recording(low=0.0, high=1.0, quantum=1 / 64)
MODELS = {
    "gaussian": lambda: Gaussian(0.1),
    "gaussian recorded": lambda: Gaussian(0.1, BOTH),
    "poisson-gaussian": lambda: line(Recording(high=0.9)),
    "flow": flow,
    "flow recorded": lambda: flow(BOTH, 8),
    "flow-paper": lambda: PaperFlow(0.1, low=-0.5, high=2.0, n_layers=6, generator=seeded(0)),
    "poisson": lambda: Poisson(0.013, -0.07),
    "scan flow": lambda: Scan(flow(BOTH, 8), axis=0, order=3),
    "scan poisson-gaussian": lambda: Scan(line()),
    "scan gaussian": lambda: Scan(Gaussian(0.1), axis=-1),
}
every_kind = pytest.mark.parametrize("kind", MODELS)


def saved(tmp_path, kind="scan flow", units=(2.7, -0.3)):
    noise = NoiseFile(bent(MODELS[kind]()).rescaled(*units), -0.3, 2.4, ABOUT)
    return save_noise(tmp_path / "noise.json", noise), noise


@every_kind
@pytest.mark.parametrize("units", [(1.0, 0.0), (2.7, -0.3), (65535.0, 100.0)], ids=["same", "near", "grey values"])
def test_what_is_read_is_what_was_written_to_the_bit(tmp_path, kind, units):
    path, noise = saved(tmp_path, kind, units)
    found = load_noise(path)
    assert (found.low, found.high, found.about) == (-0.3, 2.4, ABOUT)
    assert type(found.model) is type(noise.model)
    assert (found.model.recording, found.model.axis) == (noise.model.recording, noise.model.axis)
    factor, shift = units
    clean = factor * torch.linspace(0.05, 0.95, 60).reshape(5, 12) + shift
    observed = noise.model.sample(clean, seeded(2))
    assert torch.equal(found.model.sample(clean, seeded(2)), observed)
    assert torch.isfinite(noise.model.log_prob(observed, clean)).all()
    assert torch.equal(found.model.log_prob(observed, clean), noise.model.log_prob(observed, clean))


@every_kind
def test_written_again_the_file_is_the_same(tmp_path, kind):
    path, _ = saved(tmp_path, kind)
    again = save_noise(tmp_path / "again.json", load_noise(path))
    assert again.read_bytes() == path.read_bytes()


def refuse(*args, **kwargs):
    raise AssertionError("a file from a stranger must not run code")


@every_kind
def test_the_file_is_plain_json_that_says_what_it_holds(tmp_path, kind, monkeypatch):
    path, noise = saved(tmp_path, kind)
    content = json.loads(path.read_text(), parse_constant=refuse)  # no NaN, no infinity
    assert content["format"] == FORMAT
    assert content["model"] == kind.removesuffix(" recorded")
    assert content["clean_range"] == [-0.3, 2.4]
    assert content["about"] == ABOUT
    assert set(content["parameters"]) == set(noise.model.state_dict())
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load_noise(path)


@pytest.mark.parametrize("model", [L2(0.1), L1(0.1), Scan(L2(0.1))])
def test_plain_losses_are_not_kept(tmp_path, model):
    with pytest.raises(InputError, match=r"of the kind L[12] is not kept in files"):
        save_noise(tmp_path / "noise.json", NoiseFile(model, 0.0, 1.0))
    assert list(tmp_path.iterdir()) == []


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(path, text):
    with open(path, "w") as file:
        file.write(text[: len(text) // 2])
    full()


@pytest.mark.parametrize(("target", "name", "failure"), [(os, "replace", full), (Path, "write_text", half)])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, target, name, failure):
    path, noise = saved(tmp_path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(target, name, failure)
        with pytest.raises(InputError, match=r"cannot write the noise model .*noise\.json: No space left"):
            save_noise(path, NoiseFile(Gaussian(1.0), 0.0, 1.0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    save_noise(path, noise)
    assert list(tmp_path.iterdir()) == [path]


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path, noise = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_noise(path, NoiseFile(noise.model, 0.0, 1.0, {"path": tmp_path}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("missing/noise.json", "No such file or directory"),
        ("file/noise.json", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_where_nothing_can_be_written_or_read_the_reason_is_told(tmp_path, where, why):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"cannot write the noise model .*: {why}"):
        save_noise(tmp_path / where, NoiseFile(Gaussian(1.0), 0.0, 1.0))
    with pytest.raises(InputError, match=f"cannot read the noise model .*: {why}"):
        load_noise(tmp_path / where)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"null", b'"text"', b"{}", b'{"format": "tiltfield noise 2"}', b"\x93NUMPY\x01\x00\xff"],
)
def test_a_foreign_file_is_refused_with_the_command_that_makes_one(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"foreign\.json is not a noise model of tiltfield; make one with"):
        load_noise(path)


def changed(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def dropped(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


DAMAGE = {
    "no model": (dropped("model"), "model"),
    "unknown model": (changed("model", value="scan flour"), "unknown kind 'flour'"),
    "model is a number": (changed("model", value=5), ""),
    "no options": (dropped("options"), "options"),
    "options are a list": (changed("options", value=[1]), ""),
    "unknown option": (changed("options", "speed", value=1), "speed"),
    "no marginal": (dropped("options", "marginal"), "marginal"),
    "marginal is a list": (changed("options", "marginal", value=[]), ""),
    "order is a word": (changed("options", "order", value="four"), ""),
    "another order": (changed("options", "order", value=7), "size mismatch"),
    "no layers": (changed("options", "marginal", "n_layers", value=0), ""),
    "recording is a word": (changed("options", "marginal", "recording", value="8 bit"), ""),
    "unknown recording": (changed("options", "marginal", "recording", "bits", value=8), "bits"),
    "no parameters": (dropped("parameters"), "parameters"),
    "parameters are a list": (changed("parameters", value=[1.0]), ""),
    "a parameter too many": (changed("parameters", "extra", value=1.0), "extra"),
    "a parameter too few": (dropped("parameters", "marginal.free"), "marginal.free"),
    "a parameter of words": (changed("parameters", "partial", value=["a"]), ""),
    "a ragged parameter": (changed("parameters", "partial", value=[[1.0], [1.0, 2.0]]), ""),
    "a parameter that is no number": (changed("parameters", "partial", value=[float("nan"), 0, 0]), "partial"),
    "no range": (dropped("clean_range"), "clean_range"),
    "half a range": (changed("clean_range", value=[0.0]), ""),
    "range of words": (changed("clean_range", value=["low", "high"]), "low"),
    "range is a number": (changed("clean_range", value=1.0), ""),
    "range upside down": (changed("clean_range", value=[1.0, 0.0]), "range"),
    "range without end": (changed("clean_range", value=[0.0, float("inf")]), "range"),
}


@pytest.mark.parametrize(("damage", "named"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(tmp_path, damage, named):
    path, _ = saved(tmp_path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"(?s)noise\.json: the noise model is damaged \(.*{named}.*\); fit it anew"):
        load_noise(path)


def test_a_published_flow_without_a_range_is_damaged(tmp_path):
    path, _ = saved(tmp_path, "flow-paper")
    for options in ({"low": 2.0, "high": 2.0}, {"n_layers": 0}, {"n_layers": -2}):
        content = json.loads(path.read_text())
        content["options"].update(options)
        (tmp_path / "bad.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="damaged"):
            load_noise(tmp_path / "bad.json")
