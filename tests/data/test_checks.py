"""Bad data are refused, naming dataset, episode and field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dtbench.errors import DataError
from tests.data import factory


def put(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


GOOD = factory.episode(4)
BAD = {
    "NaN": (replace(GOOD, rewards=put(GOOD.rewards, 2, np.nan)), "rewards has nan at step 2"),
    "infinite": (replace(GOOD, observations=put(GOOD.observations, (1, 0), np.inf)), "observations has inf at step 1"),
    "empty": (factory.episode(0), "has no steps"),
    "wide": (replace(GOOD, observations=np.zeros((5, 4))), "observations has 4 dimensions"),
    "short": (replace(GOOD, observations=GOOD.observations[:-1]), "keep the last observation"),
    "ragged": (replace(GOOD, actions=GOOD.actions[:3]), r"actions has shape \(3, 2\)"),
    "outside": (replace(GOOD, actions=put(GOOD.actions, (3, 1), 1.5)), r"at step 3, outside \[-1, 1\]"),
    "endless": (factory.episode(4, terminated=False), "do not end it"),
    "two in one": (replace(GOOD, terminations=put(GOOD.terminations, 1, True)), "end it at step 1 of 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_naming_dataset_episode_and_field(tmp_path, name):
    bad, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        factory.build(tmp_path / "s", [GOOD, bad])
    assert str(caught.value).startswith("random, episode 1: ")
    assert not (tmp_path / "s").exists()


def test_totals_that_differ_from_the_sources_metadata(tmp_path):
    with pytest.raises(DataError, match="4 steps were read, its metadata claims 5"):
        factory.build(tmp_path / "s", [GOOD], expected={"episodes": 1, "steps": 5})
    with pytest.raises(DataError, match="no episodes"):
        factory.build(tmp_path / "s", [])


def test_actions_on_the_bound_are_inside(tmp_path):
    edge = replace(GOOD, actions=np.ones_like(GOOD.actions))
    assert factory.build(tmp_path / "s", [edge]).num_steps == 4
