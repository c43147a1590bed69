"""A batch on SLURM, of which there are only commands of that name: jobs run on this machine."""

import importlib.util
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tiltfield.batch.board import Board
from tiltfield.batch.many import BatchRequest, run_batch
from tiltfield.io import write_stack

SBATCH = """#!/bin/sh
cp "$1" "$0.$$"
setsid sh "$0.$$" > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- -$1
"""


def workers():
    return [p for p in psutil.process_iter(["cmdline"]) if "distributed.cli.dask_worker" in (p.info["cmdline"] or [])]


@pytest.mark.slow
def test_series_finish_in_jobs_which_are_gone_in_the_end(cell, tmp_path, monkeypatch):
    if importlib.util.find_spec("dask_jobqueue") is None:  # whose import would change what Ctrl-C does
        pytest.skip("needs the extra cluster: pip install 'tiltfield[cluster]'")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    series = cell(size=16, tilts="-60:60:10").series()
    for name in "abc":
        write_stack(series.images, tmp_path / f"{name}.mrc", 1.0)
        (tmp_path / f"{name}.rawtlt").write_text("\n".join(map(str, series.angles_deg)))
    config = tmp_path / "slurm.yaml"
    config.write_text(yaml.safe_dump({"cores": 1, "memory": "1GB", "jobs": 2, "interface": "lo"}))
    before = {p.pid for p in workers()}
    paths = [Path(tmp_path / f"{name}.mrc") for name in "abc"]
    request = BatchRequest(tmp_path / "out", paths, {"method": "wbp", "mode": "bf"}, scheduler=f"slurm:{config}")
    assert [row.outcome for row in run_batch(request, Board(quiet=True)).rows] == ["finished"] * 3
    assert len(list(tmp_path.glob("sbatch.*"))) == 2
    end = time.monotonic() + 60
    while {p.pid for p in workers()} - before and time.monotonic() < end:
        time.sleep(0.5)
    assert {p.pid for p in workers()} <= before
