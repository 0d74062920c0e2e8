"""Attention figures against transformers' own attention weights, and the command on a trained run."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from dtbench.analysis.attention import attention_figures
from dtbench.errors import ConfigError
from dtbench.models.gpt2_dt import Gpt2Dt
from dtbench.testing import DIMS, build_model, model_config, windows


@pytest.fixture
def policy(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=24, n_layer=2, n_head=3, n_positions=64, vocab_size=11, bos_token_id=0, eos_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    model = GPT2Model(config).eval()
    with torch.no_grad():
        for block in model.h:  # fresh weights attend almost uniformly, which would hide a wrong scale
            block.attn.c_attn.weight.normal_(std=0.3)
        model.wpe.weight.zero_()
    model.save_pretrained(tmp_path / "gpt2")
    settings = model_config("gpt2_dt", backbone=tmp_path / "gpt2", alignment="none")
    return Gpt2Dt(settings, DIMS).eval(), model


def test_figures_are_those_of_transformers_attention(policy):
    module, model = policy
    batch = windows(module)
    whole = {name: value[batch["padding_mask"].all(dim=1)] for name, value in batch.items()}
    tokens, _ = module.embedding(whole)
    attentions = model(inputs_embeds=tokens, output_attentions=True).attentions
    for layer, expected in zip(attention_figures(module, [whole]), attentions, strict=True):
        acting = expected[:, :, -2]  # (B, heads, T): the last state token
        for head, found in enumerate(layer["heads"]):
            rows = acting[:, head]
            assert found["last_token_mass"] == pytest.approx(rows[:, -2].mean().item(), abs=1e-4)
            entropy = -(rows[:, :-1] * rows[:, :-1].log()).sum(-1).mean().item()
            assert found["entropy"] == pytest.approx(entropy, abs=1e-3)
            assert found["by_kind"]["state"] == pytest.approx(rows[:, 1::3].sum(-1).mean().item(), abs=1e-4)
            assert sum(found["by_distance"]) == pytest.approx(1.0, abs=2e-3)


def test_padding_gets_no_attention(policy):
    module, _ = policy
    short = {name: value[1:2] for name, value in windows(module).items()}  # two pads
    real = 3 * int(short["padding_mask"].sum()) - 1  # the acting token and what came before it
    for layer in attention_figures(module, [short]):
        for head in layer["heads"]:
            assert sum(head["by_distance"][real:]) == 0


@pytest.mark.parametrize("name", ["edt", "reinformer", "tt"])
def test_models_that_act_in_several_passes_are_refused(name):
    module = build_model(name).eval()
    with pytest.raises(ConfigError, match="does not act in one pass"):
        attention_figures(module, [windows(module)])
