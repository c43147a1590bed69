"""Workers for a batch: settings of SLURM and the script of its jobs, and what is refused."""

import os
import signal
import sys

import pytest
import yaml

from tiltfield.batch.clusters import opened, slurm_cluster, slurm_options
from tiltfield.batch.shares import Share
from tiltfield.errors import InputError

GOOD = {"cores": 4, "memory": "16GB", "jobs": 3, "queue": "gpu", "walltime": "02:00:00", "interface": "lo"}


@pytest.fixture
def config(tmp_path):
    def write(**changes):
        values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
        (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "slurm.yaml"

    return write


@pytest.fixture
def jobqueue():
    before = signal.getsignal(signal.SIGINT)
    yield pytest.importorskip("dask_jobqueue", reason="needs the extra cluster: pip install 'tiltfield[cluster]'")
    signal.signal(signal.SIGINT, before)  # which that import changes


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A command of that name, which refuses every job."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_script_of_a_job_says_what_the_file_says(jobqueue, config):
    jobs, options = slurm_options(config(job_extra_directives=["--gres=gpu:1"], worker_extra_args=["--lifetime", "1h"]))
    assert jobs == 3
    with slurm_cluster(options, "slurm.yaml") as cluster:
        script = cluster.job_script()
        assert cluster.workers == {}  # nothing was submitted
    for line in ("-p gpu", "-t 02:00:00", "--cpus-per-task=4", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in script
    for words in ("--nthreads 4", "--memory-limit 0", "--lifetime 1h"):
        assert words in script
    assert "--nworkers" not in script  # one worker a job, so that it has the GPU to itself


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wall_time": "1h"}, "unknown setting 'wall_time'; did you mean 'walltime'"),
        ({"cores": None}, "cores not given"),
        ({"jobs": None}, "jobs not given"),
        ({"jobs": 0}, "how many jobs"),
        ({"jobs": "two"}, "how many jobs"),
        ({"worker_extra_args": "--lifetime 1h"}, "expected a list"),
    ],
)
def test_settings_that_are_no_good_are_refused(jobqueue, config, changes, message):
    with pytest.raises(InputError, match=message):
        slurm_options(config(**changes))


def test_values_that_slurm_cannot_take_are_refused(jobqueue, config):
    with pytest.raises(InputError, match=r"slurm\.yaml"):
        slurm_cluster(slurm_options(config(memory="much"))[1], "slurm.yaml")


def test_without_sbatch_it_says_where_to_run(jobqueue, config, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="login node"), opened(f"slurm:{config()}", [], 1):
        pass


def test_what_sbatch_says_against_a_job_is_told(jobqueue, config, sbatch):
    with pytest.raises(InputError, match="invalid partition"), opened(f"slurm:{config()}", [], 1):
        pass


def test_a_scheduler_that_is_not_there_is_told(jobqueue, monkeypatch):
    monkeypatch.setattr("tiltfield.batch.clusters.CONNECT_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at 127\.0"), opened("127.0.0.1:1", [], 1):
        pass


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'tiltfield\[cluster\]'"), opened("local", [Share(1)], 1):
        pass


def test_ctrl_c_stays_what_it_is(jobqueue, config, monkeypatch):
    """The import of dask_jobqueue lets it end the program; a batch is to stop in good order."""
    before = signal.getsignal(signal.SIGINT)
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)
    slurm_options(config())
    assert signal.getsignal(signal.SIGINT) is before
