"""The example notebooks: readable by anyone, without outputs, by public names alone, and they run."""

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest

import tiltfield
from tiltfield.cli import app

nbformat = pytest.importorskip("nbformat", reason="needs the extra examples")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("needle", "simulated_cell")
SECONDS = float(os.environ.get("TILTFIELD_EXAMPLE_SECONDS", "240"))  # a fit may take; a test's machine may be shared
SHELL = re.compile(r"^!(.+)$", re.MULTILINE)


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(EXAMPLES / f"{request.param}.ipynb", as_version=4)


def code(notebook):
    """Return the sources of the code cells, commands of the shell as comments."""
    return [SHELL.sub(r"# \1", cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def commands(notebook):
    """Return the commands of the shell, as lists of words."""
    return [line.split() for cell in notebook.cells if cell.cell_type == "code" for line in SHELL.findall(cell.source)]


def names_of_tiltfield(source):
    """Return what a source takes from tiltfield: names imported from it, attributes of ``tf``, modules beneath it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("tiltfield.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiltfield"):
            found |= {node.module} if "." in node.module else {a.name for a in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tf":
            found.add(node.attr)
    return found


def unknown(words):
    """Return the flags of a command of tiltfield that it does not have, or the command itself."""
    if words[0] != "tiltfield" or words[1] not in set(app.resolved_commands()):
        return words[:2]
    known = set(re.findall(r"--[a-z0-9-]+", app[words[1]].generate_docs(output_format="markdown")))
    return [word for word in words if word.startswith("--") and word not in known]


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == sorted(NAMES)


def test_notebooks_are_valid_and_without_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


def test_every_code_cell_follows_a_word_to_the_reader_and_is_short(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert not any(a == b == c == "code" for a, b, c in zip(kinds, kinds[1:], kinds[2:], strict=False))
    assert max(source.count("\n") for source in code(notebook)) < 30


def test_code_parses_and_takes_public_names_alone(notebook):
    taken = set().union(*(names_of_tiltfield(source) for source in code(notebook)))
    assert taken
    assert taken <= set(tiltfield.__all__)


def test_commands_and_their_flags_exist(notebook):
    assert commands(notebook)
    assert [unknown(words) for words in commands(notebook)] == [[] for _ in commands(notebook)]


def test_what_is_not_public_is_seen():
    assert names_of_tiltfield("from tiltfield.metrics import fsc\nimport tiltfield.io\ntf.load(1)") == {
        *("tiltfield.metrics", "tiltfield.io", "load")
    }
    assert unknown(["tiltfield", "convert", "a.mrc", "--no-such-flag"]) == ["--no-such-flag"]
    assert unknown(["tiltfield", "nothing"]) == ["tiltfield", "nothing"]


def run(name, folder, parameters, wanted):
    """Execute a notebook in a folder, with other parameters; returns what an expression is in the end."""
    client = pytest.importorskip("nbclient", reason="needs the extra examples")
    pytest.importorskip("ipykernel", reason="needs the extra examples")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    given = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    given.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({wanted}, default=float))"))
    resources = {"metadata": {"path": str(folder)}}
    client.NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=resources).execute()
    return json.loads(notebook.cells[-1].outputs[0]["text"])


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Let the kernel find the command, and keep its files to the test."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.slow
def test_the_needle_with_noise_is_better_than_by_sirt(kernel, shared_data):
    parameters = {"SERIES": str(shared_data("needle/HAADF_Aligned.hspy")), "LIMIT": SECONDS}
    psnr, learned, strength = run("needle", kernel, parameters, "[psnr, learned, strength]")
    assert psnr["tiltfield"] > max(value for name, value in psnr.items() if "SIRT" in name) + 2
    assert learned["deviation"] == pytest.approx([strength] * len(learned["deviation"]), rel=0.15)
    assert {"needle.mrc", "needle.ome.zarr", "needle.png"} <= {path.name for path in kernel.iterdir()}
    assert {"report.html", "volume.ome.zarr"} <= {path.name for path in (kernel / "low-dose").iterdir()}


@pytest.mark.slow
def test_the_cell_is_better_than_by_sirt_and_its_uncertainty_holds(kernel):
    shares = "{level: float((ratio < width).mean()) for level, width in intervals.items()}"
    scores, covered = run("simulated_cell", kernel, {"LIMIT": SECONDS}, f"[scores, {shares}]")
    sirt = next(score for name, score in scores.items() if "SIRT" in name)
    for figure, gain in (("psnr_affine_db", 2), ("psnr_inside_db", 1)):
        assert scores["tiltfield"][figure] > sirt[figure] + gain
    assert covered["0.95"] == pytest.approx(0.95, abs=0.05)
    assert (kernel / "cell.png").exists()
