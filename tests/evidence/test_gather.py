"""`tiltfield evaluate DIR`: evidence of a run, kept part by part."""

import json
import shutil

import numpy as np
import pytest
import torch

from tiltfield import schedule
from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.evidence import gather as gathering
from tiltfield.evidence.rerun import _same_blur, _steepest, fit_part, reopen
from tiltfield.evidence.tilts import left_out
from tiltfield.evidence.uncertainty import LAW
from tiltfield.io import read_volume
from tiltfield.neural import blur_of
from tiltfield.observe import Observer
from tiltfield.series import TiltSeries


@pytest.fixture(scope="module")
def cells(tmp_path_factory, cell):
    """Folder of a small cell with a run by SIRT and one by a voxel grid under a given noise model and weight."""
    from tiltfield.run import Request, run

    folder = tmp_path_factory.mktemp("cells")
    cell(size=16, tilts="-60:60:8").save(folder)
    common = {"angles": folder / "series.rawtlt", "threads": 1, "device": "cpu"}
    quick = {"field": "voxels", "noise": "poisson-gaussian", "tv_weight": 0.4, "preset": "draft"}
    for name, settings in {"sirt": {"method": "sirt"}, "neural": quick}.items():
        run(Request(folder / name, folder / "noisy.mrc", common | settings), Observer())
    return folder


@pytest.fixture(scope="module")
def evaluated(cells):
    """The neural run with everything that can be asked."""
    wanted = gathering.Wanted(uncertainty=True, halves=True, every=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LEAST_STEPS", 3)  # seven fits: short ones
        patch.setattr(schedule, "FEWEST_STEPS", 0)
        return gathering.gather(cells / "neural", wanted, Observer())


def test_everything_is_written(cells, evaluated):
    kept = json.loads((cells / "neural" / "evaluation.json").read_text())
    assert {"fsc", "heldout", "heldout_per_tilt", "whiteness", "uncertainty"} <= set(kept)
    assert len(kept["fsc"]["frequency"]) == len(kept["fsc"]["correlation"]) == 8
    assert kept["fsc"]["threshold"] == 0.143
    assert kept["fsc"]["resolution_nm"] == pytest.approx(kept["fsc"]["resolution_pixels"])  # 1 nm pixels
    for name in ("fsc.png", "residuals.png", "uncertainty.mrc", "half-even.mrc", "half-odd.mrc"):
        assert (cells / "neural" / name).exists()
    assert not list((cells / "neural").glob(".*part*"))


def test_the_uncertainty_has_the_shape_of_the_volume_and_says_how_to_use_it(cells, evaluated):
    volume, doubt = (read_volume(cells / "neural" / f"{name}.mrc") for name in ("volume", "uncertainty"))
    assert doubt.data.shape == volume.data.shape
    assert doubt.voxel_size_nm == volume.voxel_size_nm
    assert doubt.data.min() > 0
    told = evaluated["uncertainty"]
    assert told["intervals"] == {"0.9": LAW.widths[0.9], "0.95": LAW.widths[0.95]}
    assert told["on_average"] == {"0.5": LAW.widths[0.5], "0.68": 1.0}
    assert "68%" in evaluated["uncertainty"]["rule"]


def test_left_out_tilts_are_predicted_from_the_others(cells, evaluated):
    assert [row["tilt"] for row in evaluated["heldout_per_tilt"]] == [3, 7, 11, 15]
    assert [row["angle_deg"] for row in evaluated["heldout_per_tilt"]] == [-44, -12, 20, 52]
    held = evaluated["heldout"]
    assert held["chi2"] == pytest.approx(np.mean([row["chi2"] for row in evaluated["heldout_per_tilt"]]))
    assert 0.7 < held["chi2"] < 2.5
    assert held["fitted_chi2"] < held["chi2"]
    assert held["fitted_log_likelihood"] > held["log_likelihood"]
    assert held["frc"]["correlation"][0] > 0.8
    assert 0 < held["frc"]["predicted_up_to"] <= 0.5


@pytest.mark.parametrize(("n", "every"), [(6, 5), (9, 5), (41, 5), (67, 5), (41, 2), (7, 100)])
def test_enough_tilts_are_left_out_and_never_the_first(n, every):
    out = left_out(n, every)
    assert len(out) >= 3
    assert n - len(out) >= 3
    assert out[0] > 0
    assert len(out) >= n // every


def test_too_few_tilts_to_leave_some_out_are_refused():
    with pytest.raises(InputError, match="six or more, got 5"):
        left_out(5, 2)


def test_what_is_done_is_not_done_again(cells, evaluated, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("fitted again")

    for name in ("_fsc", "_whiteness", "held_out_tilts", "uncertainty"):
        monkeypatch.setattr(gathering, name, refuse)
    again = gathering.gather(cells / "neural", gathering.Wanted(uncertainty=True, halves=True, every=4), Observer())
    assert again["heldout"] == json.loads(json.dumps(evaluated["heldout"]))


def test_the_run_is_read_back_as_it_was_written(cells):
    run = reopen(cells / "neural")
    np.testing.assert_array_equal(run.fit.volume, run.volume.data)
    shown = run.fit.show(run.series)
    assert shown.white.shape == shown.log_prob.shape == shown.valid.shape == run.series.images.shape
    assert shown.white[shown.valid].std() == pytest.approx(1, abs=0.25)
    np.testing.assert_allclose(shown.observed.std(), shown.clean.std(), rtol=0.5)


def test_halves_share_the_box_and_nothing_else(cells, evaluated):
    halves = [read_volume(cells / "neural" / f"half-{name}.mrc").data for name in ("even", "odd")]
    assert halves[0].shape == halves[1].shape == read_volume(cells / "neural" / "volume.mrc").data.shape
    assert not np.array_equal(*halves)


@pytest.mark.parametrize("law", ["linear", "paper"])
def test_a_part_of_a_series_has_the_blur_of_the_whole(law):
    images = np.random.default_rng(0).random((9, 6, 20), np.float32)
    whole = TiltSeries(images, np.linspace(-60, 60, 9))
    config, part = ReconstructConfig(defocus=f"{law}:2.4"), whole.select([3, 4, 5])
    wide = blur_of(config, whole, torch.device("cpu")).widths
    scaled = _same_blur(config, _steepest(whole), _steepest(part))
    torch.testing.assert_close(blur_of(scaled, part, torch.device("cpu")).widths, wide[3:6])
    back = _same_blur(scaled, _steepest(part), _steepest(whole))
    torch.testing.assert_close(blur_of(back, whole, torch.device("cpu")).widths, wide)
    assert _same_blur(ReconstructConfig(), 1.0, 0.5) == ReconstructConfig()


def test_ctrl_c_leaves_what_is_done(cells, tiltfield, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gathering, "held_out_tilts", stop)
    code, _, _ = tiltfield("evaluate", cells / "sirt", "--quiet")
    assert code == 130
    kept = json.loads((cells / "sirt" / "evaluation.json").read_text())
    assert "fsc" in kept
    assert "heldout" not in kept


def test_a_classical_run_is_judged_alike_but_has_no_uncertainty(cells, tiltfield):
    truth = cells / "truth.mrc"
    code, out, _ = tiltfield("evaluate", cells / "sirt", "--quiet", "--json", "--truth", truth)
    figures = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert {"fsc", "heldout", "whiteness", "truth"} <= set(figures)
    assert figures["truth"]["psnr_affine_db"] > 10
    code, out, err = tiltfield("evaluate", cells / "sirt", "--quiet", "--uncertainty")
    assert code == 2
    assert "method neural" in err


def test_figures_of_another_volume_are_dropped(cells):
    run = reopen(cells / "sirt")
    kept = gathering._Kept(run, overwrite=False)
    kept.add(whiteness={"verdict": "noise"})
    assert not gathering._Kept(run, overwrite=False).lacks("whiteness")
    assert gathering._Kept(run, overwrite=True).lacks("whiteness")
    text = kept.path.read_text().replace(run.digest, "another")
    kept.path.write_text(text)
    assert gathering._Kept(run, overwrite=False).lacks("whiteness")


def test_a_part_refuses_too_few_tilts(cells):
    with pytest.raises(InputError, match="at least 3 tilts"):
        fit_part(reopen(cells / "sirt"), np.array([0, 5]), 0, Observer())


@pytest.mark.parametrize(
    ("words", "message"), [(("--every", 1), "--every"), (("--series", "nowhere.mrc"), "nowhere.mrc")]
)
def test_bad_requests_are_refused(cells, tiltfield, words, message):
    code, out, err = tiltfield("evaluate", cells / "sirt", "--quiet", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_folder_without_a_run_and_a_volume_without_a_truth_are_refused(tiltfield, cells, tmp_path):
    code, _, err = tiltfield("evaluate", tmp_path)
    assert code == 2
    assert "holds no run" in err
    code, _, err = tiltfield("evaluate", cells / "truth.mrc")
    assert code == 2
    assert "--truth" in err


def test_a_checkpoint_of_another_layout_is_refused_in_words(cells, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(cells / "neural", folder)
    kept = torch.load(folder / "checkpoint.pt", weights_only=True)
    field = kept["state"]["fit"]["field"]
    name = next(iter(field))
    field[name] = field[name][:1]
    torch.save(kept, folder / "checkpoint.pt")
    with pytest.raises(InputError, match="does not fit this version"):
        reopen(folder)
