"""What a model's weights are before its first step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import Trunk, TrunkConfig
from dtbench.registry import model_entry
from dtbench.testing import DIMS, model_config

SEQUENCE_MODELS = ("dt", "dc", "gpt2_dt", "lamo", "gpt2_dtma", "edt", "reinformer", "ds4", "dmamba", "dlstm")
RESIDUAL = ("mixer.output.weight", "mlp_out.weight")


def build(name, **options):
    return model_entry(name).load()(model_config(name, **options), DIMS)


def std(weight):
    return weight.std().item()


@pytest.mark.parametrize("scaled", [True, False])
def test_residual_maps_start_as_their_source_has_them(scaled):
    """GPT-2 and the repositories built on later versions of transformers scale them; those of DT and DC do not."""
    trunk = Trunk(TrunkConfig(128, 2, 2, scaled_residuals=scaled), lambda config, layer: Attention(config))
    for name, weight in trunk.named_parameters():
        if name.endswith(RESIDUAL):
            assert std(weight) == pytest.approx(0.02 / 2 if scaled else 0.02, rel=0.05)


@pytest.mark.parametrize(("name", "scaled"), [("dt", False), ("dc", False), ("gpt2_dt", True), ("gpt2_dtma", True)])
def test_each_model_has_its_papers_own(name, scaled):
    assert build(name).trunk.config.scaled_residuals is scaled


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_small_weights_are_small_everywhere_outside_the_trunk(name):
    published, small = build(name), build(name, init="small")
    assert "small" in small.initial_weights
    assert "small" not in published.initial_weights
    for ours, theirs in zip(small.trunk.parameters(), published.trunk.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for module in (*small.embedding.modules(), *small.head.modules()):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            assert std(module.weight) == pytest.approx(0.02, rel=0.35)  # the smallest has 32 numbers
            assert getattr(module, "bias", None) is None or not module.bias.any()
    if name != "gpt2_dt":  # whose table is GPT-2's
        assert std(published.embedding.embed_timestep.weight) == pytest.approx(1.0, rel=0.1)


def test_the_same_layers_as_minigpts_are_drawn():
    module = nn.Sequential(nn.Linear(300, 300), nn.LayerNorm(300), nn.Embedding(300, 300))
    before = module[1].weight.clone()
    shrink(module)
    assert std(module[0].weight) == pytest.approx(0.02, rel=0.02)
    assert std(module[2].weight) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(before, module[1].weight)
