"""A module in a process of its own: what it is told and prints, how it ends, that it does not outlive its parent."""

import os
import signal
import sys

import psutil
import pytest

from tiltfield.apart import apart, failure

ECHO = """
import sys
from tiltfield.apart import live_no_longer_than_the_parent
word = sys.stdin.buffer.readline().decode().strip()
live_no_longer_than_the_parent()
print(word, flush=True)
if word == "fail":
    raise ValueError("no")
if word == "wait":
    import time
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "echo_apart.py").write_text(ECHO)
    return lambda: apart("echo_apart", environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})


def test_it_is_told_and_tells(run):
    with run() as echo:
        echo.tell("hello")
        assert list(echo.lines()) == ["hello\n"]
        assert not echo.killed


def test_a_crash_is_told_in_words(run):
    with run() as echo:
        echo.tell("fail")
        assert list(echo.lines()) == ["fail\n"]
        assert echo.reason == "failed: ValueError: no"
        assert "Traceback" in echo.errors


def test_an_interrupt_is_a_ctrl_c(run):
    with run() as echo:
        echo.tell("wait")
        lines = echo.lines()
        next(lines)
        echo.interrupt()
        assert list(lines) == []
        assert echo.killed
        assert "KeyboardInterrupt" in echo.errors


def test_it_is_gone_when_the_context_ends(run):
    with run() as echo:
        echo.tell("wait")
        next(echo.lines())
    assert echo.process.returncode == -signal.SIGKILL


def test_it_does_not_outlive_its_parent(run):
    with run() as echo:
        echo.tell("wait")
        next(echo.lines())
        echo.process.stdin.close()  # as the system does for a process that is killed
        psutil.Process(echo.process.pid).wait(timeout=60)


@pytest.mark.parametrize(
    ("code", "errors", "words"),
    [
        (-9, "", "killed by SIGKILL, out of memory as it seems"),
        (1, "Traceback\nMemoryError: no\n\n", "failed: MemoryError: no"),
        (3, "", "failed with exit code 3"),
    ],
)
def test_an_end_is_told_in_words(code, errors, words):
    assert failure(code, errors) == words
