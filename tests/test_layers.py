"""Each module imports only from the layers below its own; read from the syntax, so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

import tiltfield

ROOT = Path(tiltfield.__file__).parent
LAYERS = """
    errors extras sharedmemory ranks halo apart parse settings config observe threads replacing jsontext blank screening
    volume series result geometry axis io
    export kernels projector fields contrast defocus noise regularise problem rendering schedule fitstate fit plan
    coarse rehearsal rays published forecast neural classical denoise pace
    metrics views traits judge residuals simulate reconstruct evaluate runfolder report run batch viewer evidence
    demo paper cli_paths cli_flags cli_batch cli_convert cli_view cli_noise cli_denoise cli_evaluate cli_report
    cli_paper cli __main__
"""
ORDER = LAYERS.split()
# Conveniences that look upwards when called, never when imported: series and volumes are read, written, fitted and
# shown, results are shown; and reconstruct hands to run what is to be kept in a folder.
UPWARD = {
    *(("volume", name) for name in ("io", "export", "metrics", "report")),
    *(("series", name) for name in ("io", "report")),
    *(("result", "report"), ("reconstruct", "run")),
}

FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_layers(tree: ast.Module) -> set[str]:
    """The layers named by any import statement, inside functions too. The package itself is no layer."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"relative import in line {node.lineno}: name the module in full")
    parts = [name.split(".") for name in names if name.startswith("tiltfield.")]
    return {p[1] for p in parts if p[1] not in ("__version__",)}


def violations(source: str, layer: str) -> list[str]:
    allowed = ORDER[: ORDER.index(layer) + 1]
    wrong = imported_layers(ast.parse(source)) - set(allowed)
    return sorted(w for w in wrong if (layer, w) not in UPWARD)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path):
    assert layer_of(path) in ORDER, f"say in ORDER where {layer_of(path)} belongs"
    assert violations(path.read_text(), layer_of(path)) == []


def test_upward_imports_are_lazy():
    for layer, target in UPWARD:
        top = ast.Module([n for n in ast.parse((ROOT / f"{layer}.py").read_text()).body if not _is_definition(n)], [])
        assert target not in imported_layers(top)


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef)


@pytest.mark.parametrize(
    "source", ["import tiltfield.cli", "from tiltfield import run", "def f():\n    from tiltfield.run import run"]
)
def test_the_check_sees_a_violation(source):
    assert violations(source, "fit") != []
