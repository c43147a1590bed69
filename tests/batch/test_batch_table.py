"""The table of a batch: figures of the runs, empty where unknown, whole whenever it is looked at."""

import csv
import json
import os

from tiltfield.batch.table import COLUMNS, Row, write_summary


def test_a_row_takes_the_figures_of_its_run(tmp_path):
    metrics = {"method": "neural", "seconds": 12.5, "heldout_nll": -0.25, "thickness_pixels": 40, "interrupted": False}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    row = Row(series="a.st", outcome="finished", folder=str(tmp_path)).with_figures()
    assert (row.method, row.seconds, row.heldout_nll, row.thickness_pixels) == ("neural", 12.5, -0.25, 40)


def test_a_resolution_is_that_of_the_volume_that_is_there(tmp_path):
    (tmp_path / "volume.mrc").touch()
    (tmp_path / "evaluation.json").write_text(json.dumps({"fsc": {"resolution_nm": 3.5}}))
    row = Row(series="a.st", outcome="finished", folder=str(tmp_path))
    os.utime(tmp_path / "volume.mrc", (1000, 1000))
    assert row.with_figures().resolution_nm == 3.5
    os.utime(tmp_path / "evaluation.json", (999, 999))  # of an earlier volume
    assert row.with_figures().resolution_nm is None


def test_a_row_without_a_run_has_no_figures(tmp_path):
    row = Row(series="a.st", outcome="refused", folder=str(tmp_path / "none"), message="why")
    assert row.with_figures() == row


def test_the_table_is_read_by_any_program(tmp_path):
    rows = [
        Row(series="a,b.st", outcome="refused", folder="out/a,b", message='no "angles" found,\nlook'),
        Row(series="c.st", outcome="finished", folder="out/c", method="sirt", seconds=1 / 3, thickness_pixels=12),
    ]
    write_summary(tmp_path / "summary.csv", rows)
    with (tmp_path / "summary.csv").open(newline="") as file:
        header, first, second = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert dict(zip(header, first, strict=True))["message"] == rows[0].message
    found = dict(zip(header, second, strict=True))
    assert (found["seconds"], found["heldout_nll"], found["thickness_pixels"]) == ("0.333333", "", "12")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.csv"]
