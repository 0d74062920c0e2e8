"""Language × Markov heads: the four backbones differ in what their names say, and in nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dtbench.analysis.markov_heads import analyze_layers, module_layers
from dtbench.config import compose, load_preset
from dtbench.errors import ConfigError
from dtbench.models.backbone.load import SHIPPED, load_backbone
from dtbench.models.parts.trunk import TrunkConfig
from dtbench.registry import model_entry
from dtbench.suites.suites import load_suite

DIMS = {"observation_dim": 11, "action_dim": 3, "max_timesteps": 50}
SYMMETRIC = "scratch(symmetric_heads=2)"
#: (language, heads)
CORNERS = {(True, True): "bundled", (True, False): "bundled-plain", (False, True): SYMMETRIC, (False, False): "scratch"}


def build(backbone: str, *overrides: str):
    entry, suite = model_entry("gpt2_dtma"), load_suite("d4rl-short")
    config = compose(
        entry.settings,
        preset=load_preset("quick"),
        suite=suite,
        task=suite.tasks[0],
        overrides=[f"model.backbone={backbone}", *overrides],
    )
    return entry.load()(config, DIMS, seed=3).eval()


@pytest.fixture(scope="module")
def models():
    return {corner: build(name) for corner, name in CORNERS.items()}


def test_networks_and_everything_outside_the_trunk_are_equal(models):
    first = models[False, False]
    for model in models.values():
        assert replace(model.trunk.config) == first.trunk.config
        assert [(n, p.shape) for n, p in model.named_parameters()] == [
            (n, p.shape) for n, p in first.named_parameters()
        ]
        expected = dict(first.named_parameters())
        for name, weights in model.named_parameters():
            if not name.startswith("trunk.") or ".gate." in name:
                assert torch.equal(weights, expected[name]), name


def test_without_language_only_queries_and_keys_of_the_two_heads_differ(models):
    plain, heads = models[False, False].trunk.state_dict(), models[False, True].trunk.state_dict()
    names = ["blocks.0.mixer.query.weight", "blocks.0.mixer.key.weight"]
    assert [name for name in plain if not torch.equal(plain[name], heads[name])] == sorted(names, reverse=True)
    query, key = (heads[name] for name in names)
    assert torch.equal(query[:64], key[:64])
    assert query[:64].std() == pytest.approx(0.3, rel=0.05)
    for name in names:
        assert torch.equal(heads[name][64:], plain[name][64:])


def test_with_language_only_the_symmetric_start_differs():
    cards = [json.loads((folder / "card.json").read_text()) for folder in SHIPPED.values()]
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in SHIPPED.values()]
    assert tokenizers[0] == tokenizers[1]
    for key in ("training_tokens", "tokens_seen", "kind"):
        assert cards[0][key] == cards[1][key]
    start = {"symmetric_heads", "symmetric_std"}
    settings = [{key: value for key, value in card["settings"].items() if key not in start} for card in cards]
    assert settings[0] == settings[1]
    assert [card["settings"]["symmetric_heads"] for card in cards] == [2, 0]
    assert cards[0]["settings"]["symmetric_std"] == 0.3


def test_the_two_heads_are_markov_heads_where_the_name_says_so(models):
    for (_, has_heads), model in models.items():
        layers, count = module_layers(model)
        first = analyze_layers(layers, count, 0.95, 3.0)["layers"][0]["heads"]
        assert [head["markov"] for head in first] == [has_heads, has_heads, False, False]


def test_a_symmetric_start_of_more_heads_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"layer 0 has 4 heads"):
        build("scratch(symmetric_heads=5)")
    with pytest.raises(ConfigError, match=r"form is scratch\(symmetric_heads=0,symmetric_std=0\.3\)"):
        load_backbone("scratch(heads=2)", TrunkConfig(16, 2, 2), 0.1)
