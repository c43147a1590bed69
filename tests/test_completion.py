"""Shell completion: bash itself completes commands, flags and choices by the script that is installed."""

import shutil
import subprocess

import pytest

from tiltfield import cli

COMPLETE = """
. {script}
COMP_WORDS=({words} '') COMP_CWORD={count}
_tiltfield
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    words = ["--install-completion", "--shell", "bash", "--output", str(home / "script")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with pytest.raises(SystemExit, match="0"):
            cli.main(words)
    assert "tiltfield" in (home / ".bashrc").read_text()
    return home / "script"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tiltfield", ["reconstruct", "convert", "view"]),
        ("tiltfield noise", ["fit", "compare", "sample"]),
        ("tiltfield convert --format", ["mrc", "ome-zarr", "tiff"]),
        ("tiltfield reconstruct --preset", ["draft", "standard", "fine"]),
    ],
)
def test_bash_offers_what_there_is(script, words, offered):
    text = COMPLETE.format(script=script, words=words, count=len(words.split()))
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert set(offered) <= set(done.stdout.split())


def test_other_shells_are_served():
    assert "reconstruct" in cli.app.generate_completion(shell="fish")
