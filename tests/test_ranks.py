"""Several processes fit as one does: the same steps and decisions, one volume; and they stop and fail together."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from test_fit import SCHEDULE, make_problem, make_state, parameters
from tiltfield import Volume, ranks
from tiltfield.defocus import Defocus
from tiltfield.fit import fit, step
from tiltfield.metrics import psnr_affine
from tiltfield.rendering import evaluate_field, render

PROCESSES = 2
POSSIBLE = platform.machine() in ("x86_64", "AMD64")  # memory that processes share
ROWS = 8
CASES = {
    "grid": {"field": "hashgrid"},
    "voxels": {"field": "voxels"},
    "flow": {"field": "hashgrid", "noise": "flow"},
    "blurred": {"field": "hashgrid", "blur": True},
    "fewer slices than processes": {"field": "hashgrid", "rows": 1},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fitted(field, noise="poisson-gaussian", blur=False, rows=ROWS):
    """A short fit whose last blocks are odd: parameters, curve, volume and images."""
    problem = make_problem(rows=rows)
    if blur:
        problem = replace(problem, blur=Defocus.of("linear", 1.0, np.arange(-60, 61, 10), 16))
    schedule = replace(SCHEDULE, passes=3, block=5, learning_rate=5e-3)
    state = make_state(problem, schedule, field=field, noise=noise)
    figures = []
    fit(problem, state, schedule, lambda _state, _done, found: figures.append(found))
    density = evaluate_field(problem, state.field, 3)
    images = render(problem, density, state.contrast, 3)
    return {
        "parameters": parameters(state),
        "curve": state.curve,
        "figures": figures,
        "volume": density,
        "images": images,
    }


def stopped(index):
    """The fit of the grid once more: the last gets Ctrl-C in the last step of a pass; then it is resumed."""
    problem = make_problem(rows=ROWS)
    schedule = replace(SCHEDULE, passes=3, block=5, learning_rate=5e-3)
    state, again = (make_state(problem, schedule, field="hashgrid") for _ in range(2))

    def pressed(problem, state, schedule, done):
        figures = step(problem, state, schedule, done)
        if index == PROCESSES - 1 and not state.queue and len(state.curve) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return figures

    outcome = fit(problem, state, schedule, step=pressed)
    again.load_state_dict(state.state_dict())
    fit(problem, again, schedule)
    return {"outcome": outcome.name, "passes": len(state.curve), "curve": again.curve, "parameters": parameters(again)}


def take_part(index, port, folder, machines):
    """Run in a process of its own: fit every case together with the others and save what came out."""
    torch.set_num_threads(1)
    told = {"RANK": index, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told["LOCAL_WORLD_SIZE"] = PROCESSES // machines
    os.environ |= {name: str(value) for name, value in told.items()}
    with ranks.joined():
        assert ranks.count() == PROCESSES
        assert (ranks._memory is None) == (machines > 1 or not POSSIBLE)
        found = {name: fitted(**case) for name, case in CASES.items()}
        found["stopped"] = stopped(index)
    assert ranks.count() == 1
    torch.save(found, f"{folder}/{index}.pt")


@pytest.fixture(scope="module", params=[1, 2], ids=["one machine", "two machines"])
def together(request, tmp_path_factory):
    """What two processes have found, each."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(take_part, (free_port(), str(folder), request.param), nprocs=PROCESSES)
    return [torch.load(folder / f"{index}.pt") for index in range(PROCESSES)]


@pytest.mark.parametrize("case", CASES)
def test_shared_steps_are_the_steps_of_one_process(together, case):
    alone, shared = fitted(**CASES[case]), together[0][case]
    for name, value in alone["parameters"].items():
        torch.testing.assert_close(shared["parameters"][name], value, rtol=2e-3, atol=2e-4, msg=name)
    for name in ("volume", "images"):
        torch.testing.assert_close(shared[name], alone[name], rtol=2e-3, atol=2e-4)
    assert shared["curve"] == pytest.approx(alone["curve"], rel=1e-4)
    for ours, theirs in zip(shared["figures"], alone["figures"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_all_processes_hold_the_very_same_parameters(together, case):
    first, second = (found[case] for found in together)
    assert all(torch.equal(first["parameters"][name], second["parameters"][name]) for name in first["parameters"])
    assert first["curve"] == second["curve"]
    assert torch.equal(first["volume"], second["volume"])


def test_after_ctrl_c_for_one_all_go_on_as_if_uninterrupted(together):
    for found in together:
        assert (found["stopped"]["outcome"], found["stopped"]["passes"]) == ("INTERRUPTED", 2)
        assert found["stopped"]["curve"] == found["grid"]["curve"]
        for name, value in found["grid"]["parameters"].items():
            assert torch.equal(found["stopped"]["parameters"][name], value)


def test_a_process_alone_has_all_the_shares():
    values = torch.ones(3)
    ranks.add([values])
    assert torch.equal(values, torch.ones(3))
    assert ranks.share(slice(2, 9)) == slice(2, 9)
    assert ranks.greatest([3, -1]) == [3, -1]
    assert ranks.first_says("word") == "word"
    assert ranks.clock(1.5) == 1.5
    assert (ranks.launched(), ranks.index(), ranks.local(), ranks.count()) == (1, 0, 0, 1)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_shares_tile_the_rows_and_the_first_are_the_smaller(monkeypatch, n):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    shares = []
    for index in range(3):
        monkeypatch.setattr(ranks, "index", lambda index=index: index)
        shares.append(ranks.share(slice(4, 4 + n)))
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(4, 4 + n))
    sizes = [s.stop - s.start for s in shares]
    assert sizes[-1] == max(sizes)
    assert max(sizes) - min(sizes) <= 1


# ---- the command line ----------------------------------------------------------------------------------------------


def command(*words, program=("-m", "tiltfield")):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)),
        *map(str, (*program, *words)),
    ]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def series(tmp_path_factory, cell):
    folder = tmp_path_factory.mktemp("series")
    made = cell()
    made.save(folder)
    return made, [folder / "noisy.mrc", "--angles", folder / "series.rawtlt"]


def psnr(folder, truth):
    volume = Volume.load(folder / "volume.mrc").data
    layers = (truth.shape[0] - volume.shape[0]) // 2
    return psnr_affine(np.pad(volume, ((layers, layers), (0, 0), (0, 0))), truth)


def test_torchrun_gives_one_run_as_good_as_that_of_one_process(series, tmp_path):
    made, words = series
    flags = ["--preset", "draft", "--noise", "poisson-gaussian", "--tv-weight", "0.5"]
    alone = [sys.executable, "-m", "tiltfield", "reconstruct", *words, "--out", tmp_path / "one", *flags]
    subprocess.run(list(map(str, alone)), check=True, capture_output=True, env=ONE_THREAD)
    shared = subprocess.run(
        command("reconstruct", *words, "--out", tmp_path / "two", *flags),
        check=True, capture_output=True, text=True, env=ONE_THREAD,
    )  # fmt: skip
    assert shared.stdout.count("wrote") == 1
    assert (tmp_path / "two" / "report.html").exists()
    assert psnr(tmp_path / "two", made.truth) == pytest.approx(psnr(tmp_path / "one", made.truth), abs=0.05)


@pytest.mark.slow
def test_ctrl_c_stops_all_with_a_result_and_the_run_goes_on(series, tmp_path):
    words = command("reconstruct", *series[1], "--out", tmp_path, "--preset", "fine", "--tv-weight", "0.5")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as process:
        end = time.monotonic() + 120
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert json.loads((tmp_path / "metrics.json").read_text())["interrupted"]
    assert (tmp_path / "volume.mrc").exists()
    steps = json.loads((tmp_path / "metrics.json").read_text())["steps"]
    again = command("reconstruct", "--out", tmp_path, "--resume")
    subprocess.run(again, check=True, capture_output=True, env=ONE_THREAD)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not metrics["interrupted"]
    assert metrics["steps"] > steps


FAILING = """
from tiltfield import cli, neural, ranks

whole = neural.checkpoint_of

def checkpoint(*of):
    if ranks.index() == 1:
        raise OSError("the disk is on fire")
    return whole(*of)

neural.checkpoint_of = checkpoint
cli.main()
"""


def test_the_process_that_fails_says_why(series, tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(FAILING)
    words = command("reconstruct", *series[1], "--out", tmp_path / "run", "--preset", "draft", program=[program])
    done = subprocess.run(words, capture_output=True, text=True, env=ONE_THREAD, timeout=100)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tiltfield:")]
    assert len(lines) == 1
    assert "OSError: the disk is on fire" in lines[0]
    assert "exitcode  : 1" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reconstruct", "nothing.mrc"], "nothing.mrc"),
        (["reconstruct", "SERIES", "--method", "wbp"], "one process"),
        (["demo"], "only reconstruct"),
    ],
)
def test_what_cannot_be_shared_is_refused_once(series, tmp_path, words, reason):
    words = [part for word in words for part in (series[1] if word == "SERIES" else [word])]
    done = subprocess.run(
        command(*words, "--out", tmp_path / "run"), capture_output=True, text=True, env=ONE_THREAD, timeout=100
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("tiltfield:")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()
