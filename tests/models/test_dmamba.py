"""Decision Mamba: published defaults, and the actions of its two memories."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.dmamba import DecisionMamba
from dtbench.models.parts.recurrent import SelectiveStateSpace
from dtbench.testing import DIMS, model_config
from tests.models.recurrent import episode, last_action, steps_that_count


def build(**model) -> DecisionMamba:
    return DecisionMamba(model_config("dmamba", **model), DIMS).eval()


def test_it_acts_on_windows_as_its_code_does_unless_told_otherwise():
    steps = 12  # of which a window shows 5
    assert build().initial_state(1) is None
    assert steps_that_count(build(), steps) == list(range(steps - 5, steps))
    assert steps_that_count(build(memory="episode"), steps) == list(range(steps))


def test_both_memories_are_one_network():
    window, whole = build(), build(memory="episode")
    whole.load_state_dict(window.state_dict())
    seen = episode(window.context_length)
    with torch.no_grad():
        assert torch.allclose(last_action(window, seen), last_action(whole, seen), atol=1e-6)


def test_options_reach_every_mixer():
    for block in build(states=3, expand=3, convolution=2).trunk.blocks:
        assert isinstance(block.mixer, SelectiveStateSpace)
        assert block.mixer.log_decay.shape == (96, 3)
        assert block.mixer.convolution.weight.shape == (96, 1, 2)
        assert block.mixer.initial_state(2).shape == (2, 4, 96)


@pytest.mark.parametrize("option", ["states", "expand", "convolution"])
def test_impossible_sizes_are_refused(option):
    with pytest.raises(ConfigError, match=f"model.{option} must be positive, not 0"):
        model_config("dmamba", **{option: 0})
