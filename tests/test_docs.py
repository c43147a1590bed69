"""The documentation: no page without a place, no link into the void, no option or public name left out."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import tiltfield
from tiltfield.cli import app
from tiltfield.config import ReconstructConfig, SimulateConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages(nav):
    """Return the pages of a navigation, whose entries are {title: page or entries}."""
    entries = [target for entry in nav for target in entry.values()]
    return [page for target in entries for page in (pages(target) if isinstance(target, list) else [target])]


def prose(path):
    """Return the text of a page without its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "code", text)


def anchors(path):
    """Return the anchors of a page's headings, as Python-Markdown and GitHub both make them of plain words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def broken(path, text):
    """Return the relative links of a text that lead nowhere, from the folder of a path."""
    missing = []
    for target in LINK.findall(text):
        name, _, anchor = unquote(target).partition("#")
        there = path.parent / name if name else path
        if ":" in name:
            continue
        if not there.exists() or (anchor and anchor not in anchors(there)):
            missing.append(target)
    return missing


def test_every_page_has_its_place():
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert all((DOCS / page).is_file() for page in listed)
    assert len(listed) == len(set(listed))
    assert {path.name for path in DOCS.glob("*.md")} <= set(listed)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path, prose(path)) == []


def test_a_broken_link_is_seen():
    text = (
        "[a](usage.md#reconstruct) [b](nowhere.md) ![c](demo.png) [d](usage.md#no-such-heading) [e](https://x.org/#f)"
    )
    assert broken(DOCS / "index.md", text) == ["nowhere.md", "usage.md#no-such-heading"]


def test_every_command_and_setting_is_among_the_options():
    blocks = re.findall(r"^    commands: (\[.*\])$", (DOCS / "options.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for block in blocks for name in yaml.safe_load(block)]
    commands = {name for name in app.resolved_commands() if not name.startswith("-")}
    assert sorted(listed) == sorted(commands)
    for command, settings in (("reconstruct", ReconstructConfig), ("simulate", SimulateConfig)):
        text = app[command].generate_docs(output_format="markdown")
        flags = {"--" + name.replace("_", "-") for name in settings.model_fields}
        assert flags <= set(re.findall(r"^\* `(--[a-z0-9-]+)", text, re.MULTILINE))


def test_every_public_name_is_on_the_page_of_the_api():
    shown = re.findall(r"^::: tiltfield\.(?:\w+\.)+(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(set(tiltfield.__all__) - {"__version__"})


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tiltfield.__version__
    assert f"version = {{{tiltfield.__version__}}}" in (DOCS / "cite.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocstrings_handlers", reason="needs the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r'<(?:script|img|iframe|link[^>]*stylesheet)[^>]*\s(?:src|href)="?(?:https?:)?//')
    found = [page.name for page in tmp_path.rglob("*.html") if fetched.search(page.read_text(encoding="utf-8"))]
    assert found == []
    assert "--tv-weight" in (tmp_path / "options.html").read_text(encoding="utf-8")
