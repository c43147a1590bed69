"""The report as a file: whole, safe, in words; and the command that makes it."""

import json
import re

import numpy as np
import pytest

from tiltfield.errors import InputError
from tiltfield.io import write_stack
from tiltfield.report import make_report
from tiltfield.report.payload import IMAGES_BYTES, RENDERED_BYTES, UNCERTAINTY_BYTES, VOLUME_BYTES
from tiltfield.series import Volume

LIMIT = 15e6


def text_of(folder, **options):
    return make_report(folder, **options).read_text()


def data_of(text):
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_it_is_one_file_that_refers_to_no_other(made):
    folder = made()
    text = text_of(folder)
    assert [p.name for p in folder.iterdir() if p.suffix == ".html"] == ["report.html"]
    code = re.sub(r"http://www\.w3\.org/2000/svg", "", text)  # a name, not an address
    assert not re.search(r"https?://|url\((?!#)|@import|<link(?! rel=\"icon\" href=\"data:,\")|src=", code)
    assert "default-src 'none'; img-src data:" in text


def test_it_says_what_was_done_and_what_to_know_first(made):
    text = text_of(made(preset="fine"))
    assert "<h1>needle</h1>" in text
    assert "HAADF · neural field (hashgrid) under a noise model (flow)" in text
    assert "exclude it with <code>--exclude 5</code>" in text
    assert "Tilts reach from −60° to 60°" in text
    assert re.search(r'class="changed"[^>]*><dt>preset</dt><dd>fine</dd>', text)
    assert "thickness 10 pixels" in text
    assert "are added by" in text
    assert "tiltfield evaluate" in text


def test_tilts_are_in_order_of_angle_with_the_numbers_of_the_file(made):
    folder = made()
    stack = folder.parent / "needle.mrc"
    angles = stack.with_suffix(".rawtlt")
    angles.write_text("\n".join(reversed(angles.read_text().split())))
    images = data_of(text_of(folder))["images"]
    assert images["number"] == list(range(13, 0, -1))
    assert images["angle"] == sorted(images["angle"])


def test_names_cannot_break_the_page(made):
    text = text_of(made(stem="<b onload=1>&"))
    assert "<b onload" not in text
    assert "<h1>&lt;b onload=1&gt;&amp;</h1>" in text
    assert text.count("</script>") == 2


def test_an_evaluation_is_shown(made, evaluated):
    folder = made()
    evaluated(folder)
    text = text_of(folder)
    assert "4.8 nm" in text
    assert "Residuals are noise." in text
    assert "are added by" not in text
    data = data_of(text)
    assert data["evaluation"]["fsc"]["resolution_nm"] == 4.8
    assert data["volume"]["uncertainty"]["n"] == 10


def test_an_evaluation_of_another_volume_is_not(made, evaluated):
    folder = made()
    evaluated(folder, digest="another")
    text = text_of(folder)
    assert "Residuals are noise." not in text
    assert "uncertainty" not in data_of(text)["volume"]


def test_a_series_that_has_moved_is_asked_for_and_may_be_named(made, tmp_path):
    folder = made()
    for suffix in (".mrc", ".rawtlt"):
        (tmp_path / f"needle{suffix}").rename(tmp_path / f"moved{suffix}")
    text = text_of(folder)
    assert "The tilt series is not shown" in text
    assert data_of(text)["images"] is None
    assert data_of(text_of(folder, series=tmp_path / "moved.mrc"))["images"]["number"] == list(range(1, 14))


def test_another_series_is_refused(made, tmp_path):
    folder = made()
    write_stack(np.random.default_rng(0).random((13, 9, 9), np.float32), tmp_path / "other.mrc", 2.0)
    (tmp_path / "other.rawtlt").write_text((tmp_path / "needle.rawtlt").read_text())
    with pytest.raises(InputError, match=r"is not what the run in .* was made from"):
        make_report(folder, series=tmp_path / "other.mrc")


def test_older_runs_without_rendered_images_and_figures_have_a_report(made):
    folder = made()
    (folder / "rendered.mrc").unlink()
    kept = json.loads((folder / "metrics.json").read_text())
    for name in ("tilts", "residuals"):
        del kept[name]
    (folder / "metrics.json").write_text(json.dumps(kept))
    (folder / "history.jsonl").write_text('{"stage": "fit", "heldo')
    text = text_of(folder)
    assert "Rendered from the volume" not in text
    assert "observed" in data_of(text)["images"]


def test_what_is_larger_is_binned_and_says_so(made):
    text = text_of(made(shape=(9, 530, 40), images=(13, 270, 40)))
    assert "Shown binned by 3; the file holds every voxel." in text
    assert "Images are shown binned by 2." in text
    density = data_of(text)["volume"]["density"]
    assert (density["n"], density["rows"], density["cols"]) == (3, 176, 13)


def test_budgets_leave_room_for_the_rest_of_the_page():
    pictures = VOLUME_BYTES + UNCERTAINTY_BYTES + 2 * IMAGES_BYTES + RENDERED_BYTES
    assert pictures * 4 / 3 < LIMIT - 5e5


def test_noise_of_256_voxels_an_edge_is_under_15_megabytes(made):
    """White noise is the hardest to compress; the pages of a specimen are far smaller."""
    folder = made()
    Volume(np.random.default_rng(0).random((256, 256, 256), np.float32), 2.0).save(folder / "volume.mrc")
    assert make_report(folder).stat().st_size < 0.5 * LIMIT  # the volume's share


def test_a_folder_without_a_result_is_refused(made, tmp_path):
    with pytest.raises(InputError, match="holds no result of tiltfield reconstruct"):
        make_report(tmp_path)
    folder = made()
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation\.json.*tiltfield evaluate"):
        make_report(folder)


def test_the_command(made, tmp_path, tiltfield):
    folder = made()
    code, out, _ = tiltfield("report", folder, "--out", tmp_path / "page.html")
    assert code == 0
    assert "page.html" in out
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()
    assert not (folder / "report.html").exists()
    code, _, err = tiltfield("report", tmp_path / "nothing")
    assert code == 2
    assert "holds no result" in err


def test_a_run_makes_it_and_its_failure_costs_nothing(made, tmp_path, tiltfield, monkeypatch):
    made()
    settings = ("--method", "sirt", "--mode", "haadf", "--sirt-iterations", "2")
    run = ("reconstruct", tmp_path / "needle.mrc", *settings, "--out")
    assert tiltfield(*run, tmp_path / "whole")[0] == 0
    text = (tmp_path / "whole" / "report.html").read_text()
    assert "SIRT, 2 iterations" in text
    assert "Noise model" not in text
    assert len(data_of(text)["tilts"]["chi2"]) == 13

    def fail(record, path):
        raise RuntimeError("the printer is on fire")

    monkeypatch.setattr("tiltfield.report.save_report", fail)
    code, _, err = tiltfield(*run, tmp_path / "without")
    assert code == 0
    assert "no report was made (RuntimeError: the printer is on fire); try: tiltfield report" in err
    assert json.loads((tmp_path / "without" / "metrics.json").read_text())["interrupted"] is False
