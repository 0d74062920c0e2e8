"""Environments by id; ids that were recorded before they lost the name of a module."""

from __future__ import annotations

import json

import pytest

from dtbench.environments.make import canonical_id, make_environment
from dtbench.results.files import read_result
from tests.results import samples

RECORDED = sorted(samples.RECORDED.rglob("seed-*.json"))
OLD = [file for file in RECORDED if ":" in json.loads(file.read_text())["task"]["env_id"]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dtbench.mazes:dtbench/PointMaze-large-v0", "dtbench/PointMaze-large-v0"),
        ("dtbench.toys:dtbench/KeyToDoor-v0", "dtbench/KeyToDoor-v0"),
        ("dtbench.reacher:dtbench/Reacher2d-v0", "dtbench/Reacher2d-v0"),
        ("dtbench.kitchen:dtbench/Kitchen-mixed-v0", "dtbench/Kitchen-mixed-v0"),
        ("dtbench/KeyToDoor-v0", "dtbench/KeyToDoor-v0"),
        ("Hopper-v5", "Hopper-v5"),
        ("somewhere.else:Own-v0", "somewhere.else:Own-v0"),
    ],
)
def test_ids_of_our_own_lose_the_module(old, new):
    assert canonical_id(old) == new


def test_an_environment_of_our_own_is_made_by_its_old_and_its_new_id():
    for env_id in ("dtbench.toys:dtbench/KeyToDoor-v0", "dtbench/KeyToDoor-v0"):
        env = make_environment(env_id)
        assert env.spec is not None
        assert env.spec.id == "dtbench/KeyToDoor-v0"
        env.close()


def test_recorded_results_with_old_ids_are_read():
    assert len(OLD) == 4
    for file in OLD:
        assert read_result(file).task.env_id.startswith("dtbench/")
