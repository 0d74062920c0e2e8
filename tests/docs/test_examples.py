"""The files of examples/ run, and are those that the pages show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

EXAMPLES = ROOT / "examples"
SHOWN = {
    "my_model.py": "own-model.md",
    "my_model.yaml": "own-model.md",
    "my_suite.yaml": "own-suite.md",
    "my_data.py": "own-data.md",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_pages_show_the_examples_as_they_are(name):
    (shown,) = [block.text for block in blocks(ROOT / "docs" / SHOWN[name]) if block.title == name]
    assert shown == (EXAMPLES / name).read_text(encoding="utf-8")


def test_every_example_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {file.name for file in EXAMPLES.iterdir() if file.is_file()} - {"README.md"}
    assert names == {*SHOWN, "results_to_figure.ipynb"}
    assert all(f"({name})" in listed for name in names)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """In a copy, so that what it writes does not stay; it finds the published results above its folder."""
    import nbclient
    import nbformat

    folder = tmp_path / "examples"
    folder.mkdir()
    (tmp_path / "leaderboards").mkdir()
    (tmp_path / "leaderboards" / "results").symlink_to(ROOT / "leaderboards" / "results")
    notebook = nbformat.read(shutil.copy(EXAMPLES / "results_to_figure.ipynb", folder), as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert Path(folder, "iqm.pdf").stat().st_size > 5_000
    assert "toprule" in Path(folder, "table.tex").read_text(encoding="utf-8")
    assert not any(output["output_type"] == "error" for cell in notebook.cells for output in cell.get("outputs", ()))
