"""Memory of several processes: here threads stand for them, each with its own map of the file."""

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tiltfield import sharedmemory
from tiltfield.sharedmemory import LINE, LostError, SharedMemory, bytes_for, new_file

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not hasattr(os, "posix_fallocate"), reason="no such memory here"
)
N = 3


@pytest.fixture
def members():
    """What `opened(n, pids)` gives: the members of n processes, of which the file has been removed."""

    def opened(n, pids=None):
        path = new_file(n)
        members = [SharedMemory(path, index, pids or [os.getpid()] * n) for index in range(n)]
        path.unlink()
        return members

    return opened


def at_once(function, members, *more):
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(function, members, *more))


def combine(member, arrays):
    member.combining(arrays)()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("n", [2, N])
def test_all_get_the_same_sums_or_largest(members, n, kind, largest):
    rng = np.random.default_rng(n)
    rounds = [(rng.normal(size=(n, k)) * 100).astype(kind) for k in (1, 7, 1000, 0, 5)]

    def take_part(member, index):
        found = [values[index].copy() for values in rounds]
        for values in found:
            member.combining([values], largest=largest)()
        return found

    found = at_once(take_part, members(n), range(n))
    for k, values in enumerate(rounds):
        right = (values.max(axis=0) if largest else values.sum(axis=0)) if values.size else values[0]
        for mine in found:
            assert np.array_equal(mine[k], found[0][k])
            np.testing.assert_allclose(mine[k], right, rtol=1e-5, atol=1e-4)


def test_what_does_not_fit_at_once_comes_in_parts(members, monkeypatch):
    monkeypatch.setattr(sharedmemory, "ROOM", N * 2 * LINE)
    assert bytes_for(N) == N * LINE + 2 * N * 2 * LINE
    given = np.arange(N * 1001.0).reshape(N, 1001)
    found = [[values[:700].copy(), values[700:].copy()] for values in given]
    at_once(combine, members(N), found)
    assert all(np.array_equal(np.concatenate(arrays), given.sum(axis=0)) for arrays in found)


def test_what_does_not_lie_side_by_side_is_combined_in_place(members):
    found = [np.arange(24.0).reshape(4, 6).T for _ in range(N)]
    at_once(combine, members(N), [[values] for values in found])
    assert all(np.array_equal(values, N * np.arange(24.0).reshape(4, 6).T) for values in found)


def test_who_is_late_is_waited_for(members):
    def take_part(member, index):
        values = np.ones(2)
        for turn in range(6):
            time.sleep(0.05 * (turn % N == index))
            member.combining([values])()
        return values

    assert [values.tolist() for values in at_once(take_part, members(N), range(N))] == [[3.0**6] * 2] * N


def test_who_leaves_after_the_last_turn_is_not_missed(members):
    def take_part(member, index):
        values = np.ones(1)
        member.combining([values])()
        member.leave()
        return values[0]

    for _ in range(20):
        assert at_once(take_part, members(N), range(N)) == [N] * N


def test_who_has_left_is_not_waited_for(members):
    one, other = members(2)
    other.leave()
    with pytest.raises(LostError, match="process 1 has ended"):
        one.combining([np.ones(3)])()


def test_who_was_killed_is_not_waited_for(members, monkeypatch):
    monkeypatch.setattr(sharedmemory, "ALIVE_EVERY", 0.05)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    one, _ = members(2, [os.getpid(), gone.pid])
    with pytest.raises(LostError, match="process 1 has ended"):
        one.combining([np.ones(3)])()


def test_no_file_where_there_is_no_room_or_no_order_of_writes(monkeypatch):
    before = set(Path("/dev/shm").glob("tiltfield-*"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        assert new_file(2) is None
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert new_file(2) is None
    assert set(Path("/dev/shm").glob("tiltfield-*")) == before


def test_who_begins_does_not_wait_before_the_end(members):
    one, other = members(2)
    mine, theirs = np.ones(3), np.full(3, 2.0)
    end = one.combining([mine])
    combine(other, [theirs])
    end()
    assert np.array_equal(mine, np.full(3, 3.0))
    assert np.array_equal(theirs, mine)


def test_as_many_numbers_are_expected_of_each(members):
    def take_part(member, count):
        with pytest.raises(ValueError, match=r"as many numbers of each process, got \[3, 4\]"):
            combine(member, [np.ones(count)])
        return True

    assert all(at_once(take_part, members(2), [3, 4]))
