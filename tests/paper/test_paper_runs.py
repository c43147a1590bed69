"""Runs of studies with a fit that is made up: nothing twice, failures in the table, tables that say what JSON says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tiltfield
from tiltfield.errors import InputError
from tiltfield.observe import Observer
from tiltfield.paper import study as study_module
from tiltfield.paper.apart import NotRunError
from tiltfield.paper.comparison import run_studies
from tiltfield.paper.options import Options
from tiltfield.paper.rows import NAMES, STUDIES
from tiltfield.paper.store import hash_sources
from tiltfield.paper.table import NOISE_COLUMNS, VOLUME_COLUMNS, as_markdown, row_report

SIZE = 16


class Fits:
    """Stands for `fit_apart`: counts what it is asked for, and fails for methods it is told to."""

    def __init__(self):
        self.asked, self.failing, self.more = [], {}, {}

    def __call__(self, cell, images, settings, folder, tell):
        self.asked.append((cell.name, images, settings))
        tell(0.5)
        if settings.get("method") in self.failing:
            raise self.failing[settings["method"]]
        rng = np.random.default_rng(len(self.asked))
        figures = {c.name: float(rng.uniform(0.01, 1)) for c in VOLUME_COLUMNS} | {"device": "cpu"} | self.more
        return figures, rng.random((SIZE,) * 3).astype(np.float16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def fits(monkeypatch):
    made = Fits()
    monkeypatch.setattr(study_module, "fit_apart", made)
    return made


@pytest.fixture
def out(tmp_path, folder):
    """A folder for one test whose simulated cells are those of all tests."""
    (folder / "cells").mkdir(exist_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cells").symlink_to(folder / "cells")
    return tmp_path / "out"


def run(out, *names, seeds=2):
    return list(run_studies(names, out, Options(SIZE, seeds, 1.0), Observer()))


def report_of(out, name):
    return json.loads((out / f"{name}.json").read_text())


def test_studies_share_fits_and_nothing_runs_twice(fits, out):
    run(out, "losses")
    assert len(fits.asked) == 2 * 3
    run(out, "losses", "flow-capacity")
    assert len(fits.asked) == 2 * 3 + 2 * 3  # three other numbers of layers
    run(out, "losses", "flow-capacity")
    assert len(fits.asked) == 12
    assert all((out / f"{n}.{kind}").exists() for n in ("losses", "flow-capacity") for kind in ("md", "json", "png"))


def test_more_seeds_go_on_from_fewer(fits, out):
    run(out, "losses", seeds=1)
    run(out, "losses", seeds=2)
    assert len(fits.asked) == 6
    assert len({cell for cell, _, _ in fits.asked}) == 2


def test_an_interrupted_study_leaves_what_is_done_and_goes_on(fits, out):
    fits.failing["ours"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(out, "losses")
    rows = {row["title"]: row for row in report_of(out, "losses")["rows"]}
    assert len(rows["L2Noisy"]["seeds"]) == 1
    assert rows["Ours"]["remarks"] == ["not run: stopped before it"]
    assert "seed 1 not run: stopped before it" in rows["L2Noisy"]["remarks"]
    fits.failing.clear()
    run(out, "losses")
    assert len(fits.asked) == 7  # the one that was stopped, again
    assert all(len(row["seeds"]) == 2 for row in report_of(out, "losses")["rows"])


def test_a_row_that_fails_says_so_and_others_run(fits, out):
    fits.failing["ours"] = NotRunError("failed: RuntimeError: boom | bang")
    table = run(out, "losses")[0]
    line = next(line for line in table.splitlines() if line.startswith("| Ours"))
    assert "not run" in line
    assert "boom / bang" in line
    assert "±" in next(line for line in table.splitlines() if line.startswith("| L2Noisy"))
    assert sum(s["method"] == "ours" for _, _, s in fits.asked) == 2


def test_what_is_refused_is_not_tried_on_another_cell_but_in_another_run(fits, out):
    fits.failing["l2-den"] = NotRunError("the package bm3d is missing", refused=True)
    run(out, "denoisers-l2")
    titles = {row["title"]: row["remarks"] for row in report_of(out, "denoisers-l2")["rows"]}
    assert titles["BM3D"] == ["not run: the package bm3d is missing"]
    assert titles["none"] == []
    asked = [s.get("denoiser", "bm3d") for _, _, s in fits.asked if s["method"] == "l2-den"]
    assert sorted(asked) == ["bm3d", "dwk-g", "dwk-p", "noise2self", "topaz"]
    fits.failing.clear()
    run(out, "denoisers-l2")
    assert all(len(row["seeds"]) == 2 for row in report_of(out, "denoisers-l2")["rows"])


def test_the_truth_picks_the_best_of_the_variants(fits, out):
    run(out, "main", seeds=1)
    sirt = next(row for row in report_of(out, "main")["rows"] if row["title"] == "SIRT")
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    tried = [e["figures"]["psnr_minmax_db"] for e in lines if e["key"]["settings"].get("method") == "sirt"]
    assert len(tried) == 3
    assert sirt["seeds"][0]["psnr_minmax_db"] == max(tried)
    assert sirt["remarks"] == [f"best sirt_iterations: {sirt['seeds'][0]['settings']['sirt_iterations']}"]


def test_rows_get_their_images_and_limits(fits, out):
    run(out, "defocus", seeds=1)
    seen = [(images, s.get("method", "neural"), s.get("max_time")) for _, images, s in fits.asked]
    assert seen == [
        ("clean", "l2-clean", 1.0),
        ("clean", "l2-blur", 1.0),
        ("clean", "l2-blur+", 1.0),
        *[("noisy", "neural", 0.1)] * 3,
    ]
    cells = [cell for cell, _, _ in fits.asked]
    assert cells[0] == cells[3] != cells[1]
    assert len({cells[1], cells[2], cells[4], cells[5]}) == 1


def test_all_goes_through_every_study(fits, out):
    tables = run(out, *NAMES, seeds=1)
    assert [re.search("`(.*)`", table)[1] for table in tables] == list(NAMES)
    units = {(str(dict(s)), row.images) for study in STUDIES.values() for row in study.rows for s in row.variants}
    assert len(fits.asked) == len(units)
    for row in report_of(out, "noise")["rows"]:  # of images so small, noise is not learned
        assert "at least 32 pixels" in row["remarks"][0]


def test_markdown_says_what_json_says(fits, out):
    text = run(out, "main")[0]
    report = report_of(out, "main")
    assert (out / "main.md").read_text() == text == as_markdown(report)
    lines = [[c.strip() for c in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    header, rows = lines[0], lines[2:]
    assert len(rows) == len(report["rows"])
    for cells, row in zip(rows, report["rows"], strict=True):
        assert cells[0] == row["title"]
        for column in VOLUME_COLUMNS:
            found = [float(v) for v in re.findall(r"[\d.]+", cells[header.index(column.heading)])]
            figures = [s[column.name] * column.factor for s in row["seeds"]]
            shown = [np.mean(figures), np.std(figures, ddof=1)] if column.best else [np.mean(figures)]
            assert found == pytest.approx(shown, abs=0.6 * 10**-column.digits)


def test_the_best_of_a_column_is_bold():
    def row(title, psnr, mse, rival=True):
        return row_report(title, [{"seed": 0, "jsd": mse, "bc": psnr}], rival=rival)

    rows = [row("a", 0.9, 0.2), row("b", 0.8, 0.1), row("floor", 1.0, 0.0, rival=False)]
    report = {"study": "noise", "title": "t", "origin": "o", "options": Options().plain(), "images": "i", "note": "",
              "picture": "", "sources": [], "devices": [], "rows": rows}  # fmt: skip
    lines = as_markdown(report).splitlines()
    bold = {line.split("|")[1].strip(): re.findall(r"\*\*([\d.]+)\*\*", line) for line in lines if "|" in line}
    assert bold["a"] == ["0.90000"]
    assert bold["b"] == ["10.000"]
    assert bold["floor"] == []
    assert {c.name for c in NOISE_COLUMNS} >= {"jsd", "bc", "bd"}


def test_published_figures_stand_beside(fits, out):
    table = run(out, "defocus", seeds=1)[0]
    line = next(line for line in table.splitlines() if line.startswith("| L2Blur+"))
    assert "20.89 / 0.819 / 0.412" in line
    assert "20.42 / 0.909" in line


def test_results_say_which_source_made_them(fits, out):
    run(out, "losses", seeds=1)
    source = hash_sources(Path(tiltfield.__file__).parent)
    assert report_of(out, "losses")["sources"] == [source]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert all(source not in json.dumps(line["key"]) for line in lines)


def test_only_the_rows_asked_for_are_run_and_the_table_has_what_else_is_there(out, fits):
    list(run_studies(["main"], out, Options(SIZE, 1, 1.0), Observer(), "tiltfield"))
    assert [settings.get("method") for _, _, settings in fits.asked] == [None]
    (text,) = run_studies(["main"], out, Options(SIZE, 1, 1.0), Observer(), "sirt")
    assert [settings.get("method") for _, _, settings in fits.asked] == [None, "sirt", "sirt", "sirt"]
    assert "not run" not in next(line for line in text.splitlines() if line.startswith("| tiltfield"))
    with pytest.raises(InputError, match="has 'nothing' in its title"):
        list(run_studies(["main"], out, Options(SIZE, 1, 1.0), Observer(), "nothing"))


def test_rows_that_are_told_what_others_have_to_find_are_not_marked_as_the_best(out, fits):
    (text,) = run_studies(["main"], out, Options(SIZE, 1, 1.0), Observer())
    lines = [line for line in text.splitlines() if line.startswith(("| OursSup", "| L2Clean"))]
    assert len(lines) == 2
    assert not any("**" in line for line in lines)


def test_a_fit_that_diverged_says_so_in_the_table(out, fits):
    fits.more = {"outcome": "diverged", "steps": 12}
    (text,) = run_studies(["losses"], out, Options(SIZE, 1, 1.0), Observer())
    assert text.count("seed 0 diverged after 12 steps") == 3


def test_the_table_says_how_long_fits_may_take(out, fits):
    (by_time,) = run_studies(["losses"], out, Options(SIZE, 1, 7.0), Observer())
    (by_steps,) = run_studies(["losses"], out, Options(SIZE, 1, None, 30), Observer())
    assert "at most 7 s a fit" in by_time
    assert "30 steps" in by_steps
    assert "at most" not in by_steps
