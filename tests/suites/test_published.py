"""The published numbers beside the leaderboards, and the targets of the low-data suite."""

from __future__ import annotations

import csv

import pytest

from dtbench.resources import resource
from dtbench.suites.suites import load_suite

FILES = sorted(resource("baselines").glob("*/reference.csv"))


@pytest.mark.parametrize("file", FILES, ids=[file.parent.name for file in FILES])
def test_every_published_number_names_a_task(file):
    """A leaderboard shows the rows of its own tasks only, so that any other row is never shown."""
    with file.open(encoding="utf-8", newline="") as content:
        rows = list(csv.DictReader(content))
    assert rows
    for row in rows:
        assert load_suite(row["suite"]).task(row["task"])
        assert row["score"]
        assert row["source"]


def test_low_data_tasks_have_the_targets_of_the_whole_datasets():
    """The best target of LaMo's ratio (its author, LaMo's issue 1) was chosen by score, so it is a diagnostic."""
    suite, whole = load_suite("lamo-lowdata"), load_suite("d4rl-short")
    best = {
        "hopper": {1: 3600, 0.1: 3600, 0.01: 2200, 0.005: 3600},
        "walker2d": {1: 5000, 0.1: 4000, 0.01: 2500, 0.005: 2500},
    }
    for name in ("hopper", "halfcheetah", "walker2d"):
        published = whole.task(f"{name}-medium").score_target
        for ratio in (1, 0.1, 0.01, 0.005):
            task = suite.task(f"{name}-medium-ratio-{ratio}")
            assert task.trajectory_ratio == ratio
            assert task.score_target == published
            chosen = best.get(name, {}).get(ratio, published)
            assert task.targets == (() if chosen == published else (chosen,))
