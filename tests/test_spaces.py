"""What an agent sees and does, as data."""

import json

import pytest

from dtbench.errors import ConfigError
from dtbench.spaces import Continuous, Discrete, Frames, Spaces, Vector, unit_box

VECTORS = Spaces(Vector(5), Continuous((-1.0, -2.0), (1.0, 2.0)), max_timesteps=30)
IMAGES = Spaces(Frames(4, 84, 84), Discrete(6), max_timesteps=27_000, longest_episode=900)


@pytest.mark.parametrize("spaces", [VECTORS, IMAGES])
def test_spaces_survive_json(spaces):
    assert Spaces.of(json.loads(json.dumps(spaces.to_dict()))) == spaces


def test_spaces_pass_through():
    assert Spaces.of(VECTORS) is VECTORS


def test_old_records_are_read():
    """Checkpoints and run records written before 26 November 2026 hold three sizes."""
    assert Spaces.of({"observation_dim": 5, "action_dim": 2, "max_timesteps": 30}) == Spaces(Vector(5), unit_box(2), 30)


def test_models_of_before_read_the_three_sizes():
    assert dict(VECTORS) == {"observation_dim": 5, "action_dim": 2, "max_timesteps": 30}
    assert "gamma" not in VECTORS


@pytest.mark.parametrize(("key", "message"), [("observation_dim", "takes vectors"), ("action_dim", "takes continuous")])
def test_models_of_before_are_refused_elsewhere(key, message):
    with pytest.raises(ConfigError, match=message):
        IMAGES[key]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"observation_dim": 5, "action_dim": True, "max_timesteps": 30},
        {**IMAGES.to_dict(), "observation": {"size": 0}},
        {**IMAGES.to_dict(), "action": {"count": 2, "low": [0.0]}},
        {**IMAGES.to_dict(), "max_timesteps": "many"},
    ],
)
def test_damaged_records_are_refused(content):
    with pytest.raises(ConfigError, match="not the spaces of a task"):
        Spaces.of(content)
