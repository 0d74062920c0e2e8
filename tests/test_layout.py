"""The rooms of the house: arrows point one way, and nobody walks in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dtbench.registry import MODELS

PACKAGE = Path(__file__).parents[1] / "dtbench"
#: From the ground up: a room imports from rooms before it, and from rooms beside it on its own floor only as listed.
FLOORS = (
    {"_version", "errors", "resources", "determinism", "processes", "signals", "atomic", "hardware"},
    {"console", "spaces", "figures"},
    {"locks"},
    {"suites", "environments", "config"},
    {"data", "models", "registry", "evaluation", "analysis", "results"},
    {"runs"},
    {"api"},
    {"testing", "cli", "__main__", "__init__"},
)
BESIDE = {
    ("config", "suites"),
    ("registry", "models"),
    ("results", "registry"),
    ("analysis", "models"),
    ("analysis", "evaluation"),
    ("evaluation", "models"),
    ("__main__", "cli"),
    ("cli", "testing"),
}
MODULES = {
    ".".join(("dtbench", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imports(file: Path) -> set[str]:
    """Return the modules of ours that a file imports anywhere, lazily too; those only for types are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES}


GRAPH = {name: imports(file) for name, file in MODULES.items()}


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def floor(name: str) -> int:
    (index,) = (index for index, names in enumerate(FLOORS) if name in names)
    return index


def test_the_listing_of_models_is_the_list_of_models():
    """Beside the base and what all share, there is one file per model."""
    files = {entry.target.partition(":")[0].rpartition(".")[2] for entry in MODELS.values()}
    found = {entry.name.removesuffix(".py") for entry in (PACKAGE / "models").iterdir() if entry.name[0] != "_"}
    assert found == files | {"base", "checkpoint", "parts", "backbone"}


def test_every_room_stands_on_a_floor():
    assert {room(module) for module in MODULES} <= set().union(*FLOORS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down(module):
    here = room(module)
    for other in GRAPH[module]:
        there = room(other)
        if there != here and (here, there) not in BESIDE:
            assert floor(there) < floor(here), f"{module} imports {other}"


def test_nothing_imports_the_front_door():
    assert [module for module, others in GRAPH.items() if "dtbench" in others] == []


def test_there_is_no_circle():
    left = {module: set(others) - {module} for module, others in GRAPH.items()}
    while ground := [module for module, others in left.items() if not others & set(left)]:
        for module in ground:
            del left[module]
    assert left == {}
