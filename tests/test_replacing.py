"""Files that are whole or absent."""

import os
import re

import pytest

from tiltfield.errors import InputError
from tiltfield.replacing import atomic, clear_parts, replacing


def test_two_processes_write_the_same_file_under_names_of_their_own(tmp_path, monkeypatch):
    target = tmp_path / "file.txt"
    with atomic(target) as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with atomic(target) as theirs:
            theirs.write_text("theirs")
        assert target.read_text() == "theirs"
    assert target.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("name", ["volume.mrc", "volume.ome.zarr", "log"])
def test_the_temporary_name_keeps_the_suffix_and_can_be_cleared(tmp_path, name):
    with atomic(tmp_path / name) as part:
        part.write_text("")
        assert part.name.endswith((tmp_path / name).suffix)
        clear_parts(tmp_path)
        assert not part.exists()
        part.mkdir()
        clear_parts(tmp_path)
        part.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_takes_the_place_of_a_folder_and_a_file_does_not(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "inside").write_text("old")
    with pytest.raises(InputError, match="cannot write"), replacing(old) as part:
        part.write_text("")
    assert (old / "inside").read_text() == "old"
    with replacing(old) as part:
        part.mkdir()
        (part / "other").write_text("new")
    assert [p.name for p in old.iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_what_this_process_left_is_no_obstacle(tmp_path):
    with atomic(tmp_path / "x") as part:
        pass_on = part
        part.mkdir()
    pass_on.mkdir()
    (pass_on / "left").write_text("")
    with atomic(tmp_path / "x") as part:
        part.mkdir()
    assert list((tmp_path / "x").iterdir()) == []


def test_only_the_user_s_files_are_refused_in_words(tmp_path):
    gone = tmp_path / "gone" / "file.txt"
    with pytest.raises(InputError, match=re.escape(f"cannot write {gone}: No such file")), replacing(gone) as part:
        part.write_text("")
    with pytest.raises(FileNotFoundError), atomic(gone) as part:
        part.write_text("")
