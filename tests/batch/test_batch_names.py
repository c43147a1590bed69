"""Which series a batch is of, and what their folders are called."""

from pathlib import Path

import pytest

from tiltfield.batch.names import find_series, folder_names, shared_names
from tiltfield.errors import InputError


def named(*paths):
    return folder_names([Path(p) for p in paths])


def test_series_are_given_by_path_pattern_or_list(tmp_path):
    for name in ("a.st", "b.st", "c.mrc"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# of Monday\nc.mrc\n\n*.st\n")
    a, b, c = (tmp_path / name for name in ("a.st", "b.st", "c.mrc"))
    assert find_series([b, a]) == [b, a]
    assert find_series([tmp_path / "*.st"]) == [a, b]
    assert find_series([tmp_path / "list.txt"]) == [c, a, b]


def test_each_series_counts_once(tmp_path, monkeypatch):
    (tmp_path / "a.st").touch()
    monkeypatch.chdir(tmp_path)
    assert find_series([Path("a.st"), Path("*.st"), tmp_path / "a.st"]) == [tmp_path / "a.st"]


def test_a_file_that_is_not_there_is_a_series_of_its_own_to_be_refused(tmp_path):
    assert find_series([tmp_path / "gone.st"]) == [tmp_path / "gone.st"]


@pytest.mark.parametrize(("word", "message"), [("*.st", "no file fits"), ("gone.txt", "cannot read the list")])
def test_patterns_and_lists_that_name_nothing_are_refused(tmp_path, word, message):
    with pytest.raises(InputError, match=message):
        find_series([tmp_path / word])


def test_no_series_is_refused():
    with pytest.raises(InputError, match="no tilt series given"):
        find_series([])


def test_a_folder_has_the_name_of_its_series():
    assert named("/d/a.st", "/d/b.v2.mrc", "/d/tiffs") == ["a", "b.v2", "tiffs"]


def test_names_are_told_apart_by_suffix_then_by_folder():
    assert named("/d/a.st", "/d/a.mrc", "/d/b.st") == ["a.st", "a.mrc", "b"]
    assert named("/d/1/stack.mrc", "/d/2/stack.mrc") == ["1-stack.mrc", "2-stack.mrc"]
    assert named("/p/1/stack.mrc", "/q/1/stack.mrc") == ["p-1-stack.mrc", "q-1-stack.mrc"]
    assert named("/stack.mrc", "/a/stack.mrc") == ["root-stack.mrc", "a-stack.mrc"]


def test_case_alone_does_not_tell_names_apart():
    assert named("/d/A.st", "/e/a.st") == ["d-A.st", "e-a.st"]


def test_a_name_made_up_never_meets_another():
    names = named("/x/a/s.st", "/x/b/s.st", "/x/a-s.st.mrc")
    assert len(set(names)) == 3


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="different names"):
        named("/a-b/c.st", "/a/b-c.st", "/x/b-c.st", "/x-b/c.st", "/root-x/b-c.st", "/root/x-b-c.st")


def test_what_could_not_be_called_by_its_own_name_is_told():
    paths = [Path("/d/1/s.mrc"), Path("/d/2/s.mrc"), Path("/d/t.mrc")]
    told = shared_names(paths, folder_names(paths))
    assert len(told) == 2
    assert "/d/1/s.mrc" in told[0]
    assert "1-s.mrc" in told[0]
