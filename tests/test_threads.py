"""How many threads torch takes, and images of a stack several at a time."""

import os
import threading
import time

import pytest
import torch

from tiltfield.threads import MOST, as_many_as, by_image


def test_what_comes_back_is_in_the_order_of_the_images():
    def slow_first(number, name):
        time.sleep(0.05 * (number == 0))
        return f"{name}{number}"

    assert by_image(slow_first, range(4), "abcd") == ["a0", "b1", "c2", "d3"]


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("3", 3), ("64", MOST)])
def test_there_are_as_many_threads_as_are_asked_for_but_few(monkeypatch, asked, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    together = threading.Barrier(threads)  # passes once so many threads wait at it
    assert by_image(lambda _: together.wait(10) >= 0, range(threads)) == [True] * threads
    names = set(by_image(lambda _: threading.current_thread().name, range(50)))
    assert len(names) <= threads


@pytest.mark.parametrize("asked", ["", "0", "4,2"])
def test_what_is_no_number_of_threads_is_passed_over(monkeypatch, asked):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert len(set(by_image(lambda _: (time.sleep(0.01), threading.get_ident())[1], range(20)))) <= cores


def test_what_is_raised_comes_through():
    with pytest.raises(ZeroDivisionError):
        by_image(lambda k: 1 / k, [1, 0, 2])


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_are_as_many_as_before_afterwards(threads):
    before = torch.get_num_threads()
    with as_many_as(threads):
        assert torch.get_num_threads() == (threads or before)
    assert torch.get_num_threads() == before
