"""Results that are kept: each once, whole lines only, volumes beside them."""

import numpy as np
import pytest

from tiltfield.paper.store import Store, hash_sources, key_name


def test_work_is_done_once_and_found_again_by_another_run(tmp_path):
    volume = np.arange(8.0).reshape(2, 2, 2)
    key = {"b": 1, "a": [2, 3]}
    assert Store(tmp_path).once(key, lambda: ({"psnr": 3.0}, volume), keep=True) == {"psnr": 3.0}
    again = Store(tmp_path)
    assert again.once({"a": [2, 3], "b": 1}, pytest.fail, keep=True) == {"psnr": 3.0}
    assert np.array_equal(again.volume(key), volume)
    assert not again.has({"a": [2, 3], "b": 2})


def test_a_volume_that_was_not_kept_is_made_when_it_is_wanted(tmp_path):
    store = Store(tmp_path)
    store.once({"a": 1}, lambda: ({}, np.zeros(1)))
    assert store.has({"a": 1})
    assert not store.has({"a": 1}, keep=True)
    store.once({"a": 1}, lambda: ({}, np.ones(1)), keep=True)
    assert store.has({"a": 1}, keep=True)


def test_a_torn_line_costs_only_itself(tmp_path):
    store = Store(tmp_path)
    store.add({"a": 1}, {"x": 1})
    with store.path.open("a") as file:
        file.write('{"name": "torn')
    Store(tmp_path).add({"a": 2}, {"x": 2})
    found = Store(tmp_path)
    assert [found.figures({"a": n}) for n in (1, 2)] == [{"x": 1}, {"x": 2}]


def test_names_do_not_depend_on_order():
    assert key_name({"a": 1, "b": 2}) == key_name({"b": 2, "a": 1}) != key_name({"a": 2, "b": 1})


def test_sources_outside_do_not_count(tmp_path):
    for name in ("in.py", "out.py"):
        (tmp_path / name).write_text("1")
    before = hash_sources(tmp_path, outside=[tmp_path / "out.py"])
    (tmp_path / "out.py").write_text("2")
    assert hash_sources(tmp_path, outside=[tmp_path / "out.py"]) == before != hash_sources(tmp_path)
