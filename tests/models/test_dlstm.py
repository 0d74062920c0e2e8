"""Decision LSTM: DT's network but for the mixer, and how far its policy remembers."""

from __future__ import annotations

from torch import nn

from dtbench.models.dlstm import DecisionLstm
from dtbench.models.dt import DecisionTransformer
from dtbench.testing import DIMS, model_config
from tests.models.recurrent import steps_that_count


def build(**model) -> DecisionLstm:
    return DecisionLstm(model_config("dlstm", **model), DIMS).eval()


def test_all_but_the_mixer_is_dts():
    sizes = {"layers": 2, "width": 32, "activation": "relu", "dropout": 0.1}
    ours, theirs = build(**sizes), DecisionTransformer(model_config("dt", **sizes), DIMS).eval()
    assert ours.trunk.config == theirs.trunk.config
    assert (str(ours.embedding), str(ours.head)) == (str(theirs.embedding), str(theirs.head))
    for module in (ours, theirs):
        for block in module.trunk.blocks:
            block.mixer = nn.Identity()
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes


def test_a_state_remembers_the_whole_episode_and_a_window_its_last_steps():
    steps = 12  # of which a window shows 5
    assert steps_that_count(build(), steps) == list(range(steps))
    assert steps_that_count(build(memory="window"), steps) == list(range(steps - 5, steps))


def test_seeds_are_trained_one_by_one():
    assert not build().stackable
