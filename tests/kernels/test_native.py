"""Kernels in C are made once, for this processor, and whatever is in the way is said in words."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from tiltfield.kernels import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache of its own, and nothing loaded yet; what is loaded now comes back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._library.cache_clear()
    yield tmp_path / "tiltfield"
    native._library.cache_clear()


@pytest.mark.usefixtures("compiler")
def test_the_library_is_made_once_and_kept(fresh):
    assert native.obstacle() == ""
    (made,) = fresh.iterdir()
    when = made.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.obstacle() == ""
    assert [(file, file.stat().st_mtime_ns) for file in fresh.iterdir()] == [(made, when)]


@pytest.mark.usefixtures("compiler")
def test_another_processor_or_other_sources_have_a_library_of_their_own(fresh, monkeypatch):
    native.obstacle()
    monkeypatch.setattr(native, "_processor", lambda: "another")
    native._library.cache_clear()
    native.obstacle()
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (native.SWITCH, "0", "TILTFIELD_NATIVE=0"),
        ("CC", "/nowhere/cc", "/nowhere/cc"),
        ("CC", f"{sys.executable} -c raise(SystemExit('no_room'))", "no_room"),
    ],
    ids=["switched off", "no such compiler", "compiler fails"],
)
def test_what_is_in_the_way_is_said_and_the_kernels_are_left_alone(fresh, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    assert words in native.obstacle()
    assert not native.usable(torch.zeros(1))
    with pytest.raises(ValueError, match="no kernels"):
        native.call("perceptron_forward")
    assert not fresh.exists() or not list(fresh.iterdir())


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """No cache that can be written, and a folder of temporary files of its own, which it returns."""
    (tmp_path / "tiltfield").write_text("a file where the folder would be")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)  # read again
    return tmp_path / "temporary"


SAYS = [sys.executable, "-c", "from tiltfield.kernels import native; print(native.obstacle() or 'made')"]


@pytest.mark.usefixtures("compiler")
def test_without_a_cache_the_library_is_made_once_for_all_processes(no_cache):
    found = []
    for _ in range(2):
        assert subprocess.run(SAYS, capture_output=True, text=True, check=True).stdout.strip() == "made"
        (folder,) = no_cache.iterdir()
        (made,) = folder.iterdir()
        found.append((made, made.stat().st_mtime_ns, folder.stat().st_mode & 0o777))
    assert found == [(made, found[0][1], 0o700)] * 2


@pytest.mark.parametrize("bad", ["link", "file", "open to all"])
def test_a_folder_that_others_may_have_made_is_left_alone(bad, no_cache, tmp_path):
    folder = no_cache / f"tiltfield-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if bad == "link":
        folder.symlink_to(elsewhere)
    elif bad == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    asked = "from tiltfield.kernels import native; folder = native._cache(); print(folder.is_dir(), folder)"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True"
    assert said[1] not in (str(folder), str(elsewhere))
    assert list(no_cache.iterdir()) == [folder]  # what it took instead is removed
    assert not list(elsewhere.iterdir())


def test_a_folder_of_another_user_is_not_private(tmp_path, monkeypatch):
    assert native._private(tmp_path / "new")
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert not native._private(tmp_path / "new")


def test_a_user_without_a_home_gets_a_folder_among_temporary_files(no_cache, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", none)
    assert native._cache().parent == no_cache


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("bad", [torch.zeros(3, 2).T, torch.zeros(2, dtype=torch.float64)], ids=["strided", "double"])
def test_tensors_that_no_kernel_takes_are_refused(bad):
    with pytest.raises(ValueError, match="expected a contiguous tensor on the CPU"):
        native.call("perceptron_forward", bad)


@pytest.mark.usefixtures("compiler")
def test_kernels_take_what_their_sources_declare():
    """A whole number for a float is one; a float for a whole number, or too few arguments, are refused."""
    values = torch.tensor([0.0, 1.0])
    of_float, of_whole = torch.empty(2), torch.empty(2)
    native.call("density_forward", values, of_float, 2.0, 1.0, 2)
    native.call("density_forward", values, of_whole, 2, 1, 2)
    assert torch.equal(of_float, of_whole)
    for wrong in ((values, of_float, 2.0, 1.0, 2.0), (values, of_float, 2.0)):
        with pytest.raises((TypeError, ctypes.ArgumentError)):
            native.call("density_forward", *wrong)


def test_only_float32_on_the_cpu_is_usable():
    assert not native.usable(torch.zeros(1, dtype=torch.float64))
    assert not native.usable(torch.zeros(1, device="meta"))


@pytest.mark.usefixtures("compiler")
def test_processes_that_make_it_at_the_same_time_all_get_it(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen(SAYS, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    assert [process.communicate(timeout=100)[0].strip() for process in both] == ["made", "made"]
    assert len(list((tmp_path / "tiltfield").iterdir())) == 1


@pytest.mark.parametrize(
    ("platform", "machine", "compiler", "wanted"),
    [
        ("linux", "x86_64", None, {"-fopenmp", "-march=native"}),
        ("linux", "aarch64", None, {"-fopenmp", "-mcpu=native"}),
        ("darwin", "arm64", None, {"-Xpreprocessor", "dynamic_lookup", "-mcpu=apple-m1"}),
        ("darwin", "arm64", "gcc-14", {"-fopenmp", "-mcpu=apple-m1"}),
    ],
)
def test_each_system_has_the_flags_its_compiler_knows(monkeypatch, platform, machine, compiler, wanted):
    monkeypatch.setattr(native.sys, "platform", platform)
    monkeypatch.setattr(native.platform, "machine", lambda: machine)
    monkeypatch.delenv("CC", raising=False)
    if compiler:
        monkeypatch.setenv("CC", compiler)
    flags = set(native._flags())
    assert wanted <= flags
    assert ("-undefined" in flags) == ("-Xpreprocessor" in wanted)
