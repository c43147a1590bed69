"""`tiltfield batch` on the command line: what it asks for, what it says in the end, and its exit code."""

import pytest

from tiltfield.batch import many
from tiltfield.batch.many import BatchResult
from tiltfield.batch.table import Row


@pytest.fixture
def asked(monkeypatch):
    """Stand-in for the batch: gives what it was asked for, and returns the outcomes it was told to."""
    seen, outcomes = [], ["finished", "finished"]

    def fake(request, board):
        seen.append(request)
        if isinstance(outcomes[0], BaseException):
            raise outcomes[0]
        rows = [Row(series=f"/d/{k}.st", outcome=outcome, folder=f"/o/{k}") for k, outcome in enumerate(outcomes)]
        return BatchResult(rows, stopped="stopped" in outcomes)

    monkeypatch.setattr(many, "run_batch", fake)
    return seen, outcomes


def test_settings_are_those_of_reconstruct(tiltfield, asked, tmp_path):
    (tmp_path / "c.yaml").write_text("series: old.st\nseed: 5\nmode: bf\n")
    words = ["--config", tmp_path / "c.yaml", "--seed", 7, "--workers", 2]
    code, out, _ = tiltfield("batch", "a.st", "b.st", "--out", tmp_path / "out", *words)
    request = asked[0][0]
    assert code == 0
    assert [str(path) for path in request.series] == ["a.st", "b.st"]
    assert request.settings == {"seed": 7, "mode": "bf"}
    assert (request.scheduler, request.workers) == ("local", 2)
    assert "all 2 series are finished" in out
    assert "summary.csv" in out


@pytest.mark.parametrize(
    ("outcomes", "code", "words"),
    [
        (["finished", "refused"], 1, "1 of 2 series are not finished: 1.st refused; see"),
        (["stopped", "waiting"], 130, "go on with the same command"),
        ([OSError("lost the scheduler")], 1, "lost the scheduler"),
        ([KeyboardInterrupt()], 130, "go on with the same command"),
    ],
)
def test_what_is_not_finished_is_told(tiltfield, asked, tmp_path, outcomes, code, words):
    asked[1][:] = outcomes
    found, out, error = tiltfield("batch", "a.st", "b.st", "--out", tmp_path)
    assert (found, out) == (code, "")
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no tilt series given"),
        (["a.st", "--mode", "hadf"], "did you mean 'haadf'"),
        (["a.st", "--scheduler", "slurm:gone.yaml", "--workers", "2"], "--workers is for --scheduler local"),
        (["a.st", "--scheduler", "slurm:gone.yaml"], "cannot read the settings file gone.yaml"),
        (["a.st", "--workers", "0"], "--workers"),
    ],
)
def test_a_bad_request_is_refused_and_nothing_written(tiltfield, tmp_path, words, message):
    code, _, error = tiltfield("batch", *words, "--out", tmp_path / "out", "--quiet")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
