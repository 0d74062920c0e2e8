"""`import dtbench`: what it offers is listed, typed, found lazily, and the same as the commands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import dtbench
from dtbench.errors import UnknownNameError
from tests.commands import dtbench as command
from tests.results import samples


def test_every_name_is_there_and_documented():
    for name in dtbench.__all__:
        found = getattr(dtbench, name)
        assert name == "__version__" or found.__doc__
        assert name in dir(dtbench)
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        dtbench.lead  # noqa: B018


def test_names_that_are_looked_up_lazily_are_those_that_type_checkers_see():
    """The list, the homes and the imports for types are written down thrice."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(dtbench))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body for alias in node.names}
    assert typed == set(dtbench._HOMES) == set(dtbench.__all__) - {"__version__"}


def test_nothing_heavy_is_imported():
    program = "import dtbench, sys; print([m for m in ('torch', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_are_the_commands(tmp_path):
    for model, base in (("dt", 0.3), ("lamo", 0.5)):
        for seed in range(3):
            samples.save(tmp_path, samples.result(model, seed=seed, score=base + 0.05 * seed))
    only = {"tasks": ["hopper-medium"]}
    for name in ("markdown", "csv", "json", "latex"):
        printed = command("leaderboard", tmp_path, "--format", name, "--task", "hopper-medium")
        assert printed.rstrip() == dtbench.leaderboard(tmp_path, format=name, **only).rstrip()
    found = json.loads(command("compare", tmp_path, "lamo", "dt", "--task", "hopper-medium", "--json"))
    compared = dtbench.compare(tmp_path, "lamo", "dt", **only)
    assert json.loads(json.dumps([one.to_dict() for one in compared])) == found
    assert len(dtbench.load_results(tmp_path)) == 2 * 3
    assert len(dtbench.aggregate(tmp_path, suite="d4rl-short", preset="quick", **only)) == 2 * 4
    out = tmp_path / "tables" / "board.csv"
    command("leaderboard", tmp_path, "--format", "csv", "--out", out)
    assert out.read_text() == dtbench.leaderboard(tmp_path, format="csv")


def test_mistakes_are_named(tmp_path):
    samples.save(tmp_path, samples.result())
    with pytest.raises(UnknownNameError, match="format 'html'"):
        dtbench.leaderboard(tmp_path, format="html")
    with pytest.raises(UnknownNameError, match="did you mean 'hopper-medium'"):
        dtbench.suite("d4rl-short").task("hoper-medium")
    with pytest.raises(UnknownNameError, match="did you mean 'lamo'"):
        dtbench.model("lam")
