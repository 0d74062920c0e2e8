"""Tokens of the Atari code: positions, the time of a window, what decays, and how the learning rate falls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtbench.config import OptimizerConfig
from dtbench.models.parts.optimizer import rate_share
from dtbench.models.parts.tokens import MinGptEmbedding
from dtbench.registry import model_entry
from dtbench.spaces import Discrete, Frames, Spaces, Vector
from dtbench.testing import model_config, windows

SPACES = Spaces(Frames(2, 36, 36), Discrete(4), max_timesteps=500, longest_episode=60)


def build(name: str, spaces: Spaces = SPACES, **options):
    config = model_config(name, **options)
    config.training.context_length = 5
    return model_entry(name).load()(config, spaces)


def test_tokens_are_bounded_contents_with_the_position_in_the_window_and_one_time():
    """A plain loop over steps; padding counts neither as a position nor as the first time."""
    torch.manual_seed(0)
    spaces = Spaces(Vector(3), Discrete(4), 500, 60)
    embedding = MinGptEmbedding(spaces, 16, context_length=5)
    nn.init.normal_(embedding.positions)
    nn.init.normal_(embedding.times)
    window = windows(build("dt", spaces, tokens="atari"))
    window["timesteps"] = (window["timesteps"] + 7) * window["padding_mask"]
    for acting in (False, True):
        tokens, mask = embedding.for_acting(window) if acting else embedding(window)
        assert torch.equal(mask, window["padding_mask"].repeat_interleave(3, dim=1))
        for row, real in enumerate(window["padding_mask"]):
            steps = [step for step in range(5) if real[step]]
            time = window["timesteps"][row, steps[-1] if acting else steps[0]]
            for place, step in enumerate(steps):
                contents = (
                    torch.tanh(embedding.embed_return[0](window["returns_to_go"][row, step, None])),
                    torch.tanh(embedding.embed_state[0](window["observations"][row, step])),
                    torch.tanh(embedding.embed_action[0].weight[window["actions"][row, step]]),
                )
                for kind, content in enumerate(contents):
                    expected = content + embedding.positions[3 * place + kind] + embedding.times[time]
                    assert torch.allclose(tokens[row, 3 * step + kind], expected, atol=1e-6)


def test_times_after_the_longest_episode_of_the_data_share_the_last_vector():
    module = build("dt", tokens="atari").eval()
    assert module.embedding.times.shape == (61, 32)
    nn.init.normal_(module.embedding.times)
    window = windows(module)
    late, later = ({**window, "timesteps": window["timesteps"] + shift} for shift in (100, 300))
    with torch.no_grad():
        assert torch.equal(module.act(late), module.act(later))
        assert not torch.equal(module.act(late), module.act(window))


@pytest.mark.parametrize("name", ["dt", "dc"])
def test_initial_weights_are_mingpts(name):
    """Head and table of actions N(0, 0.02), positions 0; convolutions and the return's map keep PyTorch's defaults."""
    module = build(name, tokens="atari", width=128, init="published")
    assert module.head.layers[-1].bias is None
    assert float(module.head.layers[-1].weight.std()) == pytest.approx(0.02, rel=0.15)  # 512 draws: ±3 %, 5 sigma
    assert float(module.embedding.embed_action[0].weight.std()) == pytest.approx(0.02, rel=0.15)
    assert not module.embedding.positions.any()
    assert not module.embedding.times.any()
    assert float(module.embedding.embed_return[0].weight.std()) == pytest.approx(1 / 3**0.5, rel=0.2)  # U(−1, 1)


def test_only_maps_decay():
    module = build("dc", tokens="atari", projection="true")
    module.optimizer_config.decayed = "maps"
    with_decay, without = module.parameter_groups()
    assert without["weight_decay"] == 0.0
    names = {id(weight): name for name, weight in module.named_parameters()}
    decayed = {names[id(weight)] for weight in with_decay["params"]}
    assert {name for name in names.values() if name.endswith("bias") or "norm" in name}.isdisjoint(decayed)
    for name in ("embedding.positions", "embedding.times", "embedding.embed_action.0.weight"):
        assert name not in decayed
    for name in ("trunk.blocks.0.mlp_in.weight", "trunk.blocks.0.mixer.filters.1.weight", "head.layers.0.weight"):
        assert name in decayed
    assert len(with_decay["params"]) + len(without["params"]) == len(list(module.parameters()))


def test_gate_and_rest_are_divided_too():
    module = build("gpt2_dtma")
    module.optimizer_config.decayed = "maps"
    groups = module.parameter_groups()
    assert [group.get("weight_decay") for group in groups] == [None, 0.0, None, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_the_rate_falls_as_in_the_papers_code():
    """Its multipliers after each of five epochs, by its own formula over tokens: 0.933, 0.75, 0.5, 0.25, 0.1."""
    published = {"decay": "cosine", "decay_length": 1.2, "decay_floor": 0.1, "warmup_steps": 3}
    options, steps = OptimizerConfig(**published), 19_530
    shares = [rate_share(epoch * 3906 - 1, steps, options) for epoch in range(1, 6)]
    assert shares == pytest.approx([0.933, 0.75, 0.5, 0.25, 0.1], abs=2e-3)
    assert [rate_share(step, steps, options) for step in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert rate_share(30_000, steps, options) == 0.1


def test_a_cosine_that_ends_before_the_training_stays_at_its_floor():
    options = OptimizerConfig(decay="cosine", decay_length=0.6, decay_floor=0.1, warmup_steps=0)
    assert rate_share(99, 100, options) == 0.1
    assert rate_share(29, 100, options) == pytest.approx(0.5)
