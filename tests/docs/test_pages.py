"""The pages can be built, nothing in them reaches for another host, and what is generated is complete."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.main import get_command

import dtbench
from dtbench.cli.app import app
from tests.docs.blocks import PAGES, ROOT, page_name

#: Names of constants, not of environment variables.
NO_VARIABLES = {"SC_PAGE_SIZE", "SC_PHYS_PAGES", "MADV_DONTNEED", "RLIMIT_NOFILE", "MODEL_A", "MODEL_B"}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder


class Requests(HTMLParser):
    """What a browser fetches by itself: everything but links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.found += [values[name] or "" for name in ("src", "srcset", "data-src") if name in values]
        if tag == "link" and values.get("rel") != "canonical":
            self.found.append(values.get("href") or "")


@pytest.mark.slow
def test_no_request_leaves_the_pages(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        parser = Requests()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found
        assert [url for url in parser.found if re.match(r"(https?:)?//", url)] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", style.read_text(encoding="utf-8")) == []


@pytest.mark.slow
def test_every_command_and_every_name_has_its_place(site):
    commands = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():
        for words in [f"{name} {below}" for below in getattr(command, "commands", {})] or [name]:
            assert f"<code>dtbench {words}</code>" in commands
    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in set(dtbench.__all__) - {"__version__"}:
        thing = getattr(dtbench, name)
        assert f'id="{thing.__module__}.{thing.__qualname__}"' in python


@pytest.mark.slow
def test_figures_are_there(site):
    for page in site.rglob("*.html"):
        for image in re.findall(r'<img[^>]+src="([^"]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / image).resolve().is_file(), f"{page}: {image}"


def read_variables() -> set[str]:
    """Return the names that files which read the environment spell out like environment variables."""
    found = set()
    for file in (ROOT / "dtbench").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "environ" not in text:
            continue
        constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        found |= {
            str(value) for value in constants if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|CXX|RANK", str(value))
        }
    return found - NO_VARIABLES


def test_every_environment_variable_is_described():
    assert {"DTBENCH_HOME", "DTBENCH_OFFLINE", "RANK"} <= read_variables()
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert sorted(name for name in read_variables() if f"`{name}`" not in page) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_files_lead_somewhere(page):
    """In the repository, where README.md and the pages are read as they are."""
    generated = {ROOT / "docs" / "reference" / name for name in ("commands.md", "python.md")}
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if "://" not in target and "figures/" not in target and path not in generated:
            assert path.exists(), f"{page_name(page)}: {target}"
