"""The demonstration: fair to its rivals, complete, and careful with what is there already."""

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from tiltfield import demo
from tiltfield.errors import InputError
from tiltfield.observe import Observer
from tiltfield.reconstruct import Reconstruction
from tiltfield.series import Volume

SIZE = 16


@pytest.fixture
def calls(monkeypatch):
    """Stand-in for the reconstruction: the truth under noise, least for the default method and for SIRT at 30."""
    seen = []

    def fake(series, config=None, *, observer=None, resume=None, **settings):
        seen.append(config)
        level = {"wbp": 1.0, "sirt": 0.3 + abs(config.sirt_iterations - 30) / 100, "neural": 0.05}[config.method]
        truth = demo.simulate(demo.SimulateConfig(size=SIZE, snr=demo.SNR, seed=demo.SEED)).truth
        noise = np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
        return Reconstruction(Volume(truth + level * noise, 1.0), series.images.copy(), {}, config)

    for module in ("tiltfield.demo", "tiltfield.reconstruct"):
        monkeypatch.setattr(sys.modules[module], "reconstruct", fake)
    return seen


def run(out, overwrite=False):
    return demo.run_demo(out, Observer(), size=SIZE, max_time=5.0, overwrite=overwrite)


def test_three_methods_are_compared_and_sirt_at_its_best(calls, tmp_path):
    entries = run(tmp_path / "demo")
    assert [e.name for e in entries] == ["WBP", "SIRT, best of 3 (30 iterations)", "tiltfield"]
    assert [c.sirt_iterations for c in calls if c.method == "sirt"] == [10, 30, 100]
    assert entries[2].psnr_db > entries[1].psnr_db > entries[0].psnr_db
    assert all(e.inside_db > 0 and e.seconds > 0 for e in entries)


def test_the_default_method_gets_its_time_and_nothing_else(calls, tmp_path):
    run(tmp_path / "demo")
    config = calls[-1]
    assert config.model_dump(exclude_defaults=True).keys() == {"angles", "max_time"}
    assert config.max_time == 5.0


def test_data_run_and_picture_are_written(calls, tmp_path):
    run(tmp_path / "demo")
    for name in ("data/noisy.mrc", "run/volume.mrc", "run/preview.png", "comparison.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0


def test_the_table_shows_every_figure(calls, tmp_path):
    entries = run(tmp_path / "demo")
    text = io.StringIO()
    Console(file=text, width=80).print(demo.demo_table(entries))
    for entry in entries:
        assert entry.name in text.getvalue()
        assert f"{entry.psnr_db:.2f}" in text.getvalue()
        assert f"{entry.inside_db:.2f}" in text.getvalue()


def test_another_demo_is_replaced_only_when_asked(calls, tmp_path):
    run(tmp_path / "demo")
    made = len(calls)
    with pytest.raises(InputError, match="overwrite"):
        run(tmp_path / "demo")
    assert len(calls) == made
    run(tmp_path / "demo", overwrite=True)
    assert len(calls) == 2 * made
