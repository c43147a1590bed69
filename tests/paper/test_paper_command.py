"""`tiltfield paper`, and fits in processes of their own."""

import json
from functools import partial

import numpy as np
import pytest

from tiltfield.noise.learn import learn
from tiltfield.observe import Observer
from tiltfield.paper import apart, comparison
from tiltfield.paper import rows as rows_module
from tiltfield.paper.apart import NotRunError, fit_apart
from tiltfield.paper.cells import array, cell_folder
from tiltfield.paper.noise_study import MODELS, NoiseRunner
from tiltfield.paper.options import Options, cell
from tiltfield.paper.rows import Row, Study
from tiltfield.paper.table import VOLUME_COLUMNS
from tiltfield.paper.worker import main, most_memory, score


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return cell_folder(cell(Options(16, 1), 0), tmp_path_factory.mktemp("cells"))


def test_a_tiny_study_runs_from_end_to_end(tiltfield, tmp_path, monkeypatch):
    study = {"losses": Study("Tiny", "nowhere", (Row("WBP", ({"method": "wbp"},)), Row("tiltfield", ({},))))}
    monkeypatch.setattr(comparison, "STUDIES", study)
    monkeypatch.setattr("tiltfield.paper.study.STUDIES", study)
    out = tmp_path / "paper"
    words = ("paper", "losses", "--out", out, "--size", 16, "--seeds", 1, "--budget", 1, "--device", "cpu")
    code, table, shown = tiltfield(*words)
    assert code == 0
    assert table.startswith((out / "losses.md").read_text())
    assert "WBP, seed 0" in shown
    found = json.loads((out / "losses.json").read_text())["rows"]
    assert [row["title"] for row in found] == ["WBP", "tiltfield"]
    for row in found:
        assert {c.name for c in VOLUME_COLUMNS} <= set(row["mean"])
        assert 5 < row["mean"]["psnr_affine_db"] < 40
        assert 50e6 < row["mean"]["peak_memory_bytes"] < 4e9
    assert (out / "losses.png").stat().st_size > 1000
    assert not list(out.glob(".fit-*"))
    assert tiltfield(*words, "--quiet")[1:] == ((out / "losses.md").read_text() + "\n", "")


def test_an_unknown_study_and_a_bad_folder_are_refused(tiltfield, tmp_path):
    code, _, err = tiltfield("paper", "denoiser-l2", "--out", tmp_path)
    assert code == 2
    assert "did you mean 'denoisers-l2'" in err
    (tmp_path / "file").touch()
    code, _, err = tiltfield("paper", "losses", "--out", tmp_path / "file")
    assert code == 2
    assert "cannot write to the folder" in err


def test_a_stopped_command_says_how_to_go_on(tiltfield, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tiltfield.paper.study.fit_apart", stopped)
    code, out, _ = tiltfield("paper", "losses", "--out", tmp_path / "p", "--size", 16, "--seeds", 1)
    assert code == 130
    assert "go on with the same command" in out
    assert (tmp_path / "p" / "losses.md").exists()


def test_a_crash_is_told_in_words(tmp_path):
    with pytest.raises(NotRunError, match="failed: FileNotFoundError") as crashed:
        fit_apart(tmp_path / "absent", "noisy", {"method": "wbp"}, tmp_path, lambda done: None)
    assert not crashed.value.refused


@pytest.fixture
def worker_here(monkeypatch):
    """The worker in this process, for what needs no other."""
    monkeypatch.setattr(apart, "_wait", lambda work, tell: main(work) or "")


def test_a_refusal_is_told_in_words(kept, tmp_path, worker_here):
    with pytest.raises(NotRunError, match="did you mean 'method'") as refused:
        fit_apart(kept, "noisy", {"metod": "wbp"}, tmp_path, lambda done: None)
    assert refused.value.refused


def test_a_fit_gives_figures_and_a_volume_that_agree(kept, tmp_path, worker_here):
    figures, volume = fit_apart(kept, "clean", {"method": "wbp", "mode": "bf"}, tmp_path, lambda done: None)
    again = score(volume.astype(np.float32), array(kept, "truth"), array(kept, "inside"))
    assert {name: figures[name] for name in again} == pytest.approx(again, rel=1e-2)
    assert not list(tmp_path.iterdir())


def test_the_score_of_the_truth_is_perfect_in_every_column(kept):
    truth = array(kept, "truth")
    figures = score(2 * truth + 1, truth, array(kept, "inside"))
    assert figures["mse_minmax"] < 1e-12
    assert figures["mse_views"] < 1e-12
    assert figures["dssim_views"] == pytest.approx(0, abs=1e-6)
    assert min(figures["psnr_affine_db"], figures["psnr_inside_db"]) > 100


def test_a_cell_is_made_once(kept):
    before = (kept / "truth.npy").stat().st_mtime_ns
    assert cell_folder(cell(Options(16, 1), 0), kept.parent) == kept
    assert (kept / "truth.npy").stat().st_mtime_ns == before
    clean, noisy = array(kept, "clean"), array(kept, "noisy")
    assert noisy.min() >= clean.min()
    assert noisy.max() <= clean.max()
    assert not np.array_equal(clean, noisy)


def test_memory_is_that_of_this_program():
    assert 20e6 < most_memory() < 1e12


def test_noise_models_are_judged_by_another_cell(tmp_path, monkeypatch):
    quick = {title: name for title, name in MODELS.items() if name in ("poisson", "gaussian")}
    monkeypatch.setattr("tiltfield.paper.noise_study.MODELS", quick)
    monkeypatch.setattr("tiltfield.paper.noise_study.learn", partial(learn, steps=5))
    runner = NoiseRunner(tmp_path, Options(32, 1), Observer())
    assert runner.missing() == [0]
    assert runner._cells(0) == (0, 1)
    assert NoiseRunner(tmp_path, Options(32, 3), Observer())._cells(2) == (2, 0)
    shares = []
    runner.run(0, shares.append)
    assert shares == sorted(shares)
    assert NoiseRunner(tmp_path, Options(32, 1), Observer()).missing() == []
    rows = runner.report()["rows"]
    assert [row["title"] for row in rows] == [*quick, "floor (even against odd rows)"]
    assert all(0 < row["mean"]["jsd"] < 1 for row in rows)
    assert (tmp_path / "noise.png").exists()
    assert rows[0]["published"] == {"jsd": 0.96, "bc": 0.99, "bd": 0.15}
    (tmp_path / "noise.png").unlink()
    assert runner.missing() == [0]


def test_names_in_the_help_are_all_there(tiltfield):
    out = " ".join(tiltfield("paper", "--help")[1].replace("│", " ").split())
    assert all(name in out for name in (*rows_module.NAMES, rows_module.ALL))
