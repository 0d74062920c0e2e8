"""Decision S4: which weights decay, and how far its policy remembers."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.ds4 import DecisionS4
from dtbench.testing import DIMS, model_config
from tests.models.recurrent import episode, steps_that_count


def build(**model) -> DecisionS4:
    return DecisionS4(model_config("ds4", **model), DIMS).eval()


def test_dynamics_are_trained_without_weight_decay_and_all_else_with_it():
    module = build()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizer = module.configure_optimizers()["optimizer"]
    grouped = [
        (names[id(weight)], group["weight_decay"]) for group in optimizer.param_groups for weight in group["params"]
    ]
    assert sorted(name for name, _ in grouped) == sorted(names.values())
    free = {name for name, decay in grouped if decay == 0}
    assert free == {
        f"trunk.blocks.{layer}.mixer.{name}" for layer in (0, 1) for name in ("log_delta", "log_damping", "frequency")
    }


def test_minigpts_decay_leaves_the_dynamics_out_as_well():
    config = model_config("ds4")
    config.optimizer.decayed = "maps"
    groups = DecisionS4(config, DIMS).parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(build().parameters()))
    assert [group.get("weight_decay") for group in groups] == [None, 0.0, 0.0]


def test_a_state_remembers_the_whole_episode_and_a_window_its_last_steps():
    steps = 12  # of which a window shows 5
    assert steps_that_count(build(memory="episode"), steps) == list(range(steps))
    assert steps_that_count(build(memory="window"), steps) == list(range(steps - 5, steps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": 7}, "model.states must be positive and even, not 7"),
        ({"states": 0}, "model.states must be positive and even, not 0"),
        ({"heads": 2}, "model.heads must be 1, because recurrent mixers have no heads, not 2"),
        ({"memory": "all"}, "model.memory must be one of episode, window"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        model_config("ds4", **options)


def test_times_after_those_of_a_window_are_the_steps_own():
    """The state form reads the same time vectors as a window that ends at this step."""
    module = build(memory="episode")
    steps = module.context_length + 3
    seen = episode(steps)
    with torch.no_grad():
        last = {name: value[:, -2:] for name, value in seen.items()}
        tokens, _ = module.embedding(last)
        window, _ = module.embedding({name: value[:, -module.context_length :] for name, value in seen.items()})
    assert torch.allclose(tokens, window[:, -6:], atol=1e-6)


def test_seeds_are_trained_one_by_one():
    assert not build().stackable
