"""Markov heads: a closed form, a plain loop, and the figures measured on the real GPT-2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dtbench.analysis.markov_heads import (
    LayerWeights,
    analyze_layers,
    figures,
    head_matrices,
    load_layers,
    module_layers,
)
from dtbench.cli import app as cli
from dtbench.errors import ConfigError
from dtbench.testing import build_model, model_config

REAL = Path(__file__).resolve().parents[3] / "shared" / "gpt2" / "gpt2-small-attention.fp16.safetensors"
#: (positive, ratio) of the heads 0 … 11 of GPT-2's layer 0, computed from its weights with NumPy.
LAYER_0 = [
    (0.225, 1.8), (0.982, 8.2), (0.289, 1.7), (0.997, 4.9), (0.990, 3.7), (0.978, 9.8),
    (0.251, 1.8), (0.128, 3.3), (0.227, 1.9), (0.090, 7.4), (0.992, 9.3), (0.559, 1.3),
]  # fmt: skip


def analyze(*words: object, expect: int = 0) -> dict:
    done = CliRunner().invoke(cli.app, ["analyze", "markov-heads", *map(str, words), "--json"])
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout)


@pytest.mark.skipif(not REAL.is_file(), reason="needs GPT-2's attention weights, which are not part of the repository")
def test_real_gpt2_has_the_five_markov_heads_of_the_paper():
    layers = analyze(REAL)["layers"]
    heads = layers[0]["heads"]
    assert [head["head"] for head in heads if head["markov"]] == [1, 3, 4, 5, 10]
    for head, (positive, ratio) in zip(heads, LAYER_0, strict=True):
        assert head["positive"] == pytest.approx(positive, abs=0.0006)  # the table's rounding, and fp16's
        assert head["ratio"] == pytest.approx(ratio, abs=0.06)
    others = {(5, 0): (0.986, 3.3), (5, 1): (0.986, 5.0), (1, 11): (0.975, 6.8), (7, 2): (0.992, 4.0)}
    for (layer, head), (positive, ratio) in others.items():
        found = layers[layer]["heads"][head]
        assert found["positive"] == pytest.approx(positive, abs=0.0006)
        assert found["ratio"] == pytest.approx(ratio, abs=0.06)
        assert found["markov"]


def test_head_matrix_is_the_papers_product():
    query, key = torch.randn(6, 6), torch.randn(6, 6)
    matrices = head_matrices(query, key, heads=3)
    for head in range(3):
        for i in range(6):
            for j in range(6):
                expected = sum(query[i, c] * key[j, c] for c in (2 * head, 2 * head + 1))
                assert matrices[head, i, j] == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


def test_figures_of_a_known_matrix():
    found = figures(torch.tensor([[3.0, -1.0, 1.0], [1.0, -3.0, 1.0], [-1.0, 1.0, 3.0]]))
    assert found.positive == pytest.approx(2 / 3)
    assert found.ratio == pytest.approx(3.0)


def test_both_thresholds_decide_and_the_gain_is_folded_in():
    torch.manual_seed(0)
    query = torch.eye(8)  # one head of width 8: A = identity plus a little
    layer = LayerWeights(query, torch.eye(8) + 0.1, torch.linspace(1, 2, 8))
    content = analyze_layers([layer], heads=1, positive=0.9, ratio=5.0)
    head = content["layers"][0]["heads"][0]
    assert head["markov"]
    assert head["ratio"] == pytest.approx(1.1 / 0.1)
    gain = layer.gain[:, None] * (torch.eye(8) + 0.1).T * layer.gain
    diagonal = gain.diagonal()
    off = (gain.sum() - diagonal.sum()) / 56
    assert head["folded"]["ratio"] == pytest.approx(float(diagonal.mean() / off), abs=1e-3)
    assert not analyze_layers([layer], 1, positive=0.9, ratio=12.0)["layers"][0]["heads"][0]["markov"]
    flipped = LayerWeights(-query, layer.key, None)
    assert not analyze_layers([flipped], 1)["layers"][0]["heads"][0]["markov"]


def test_run_of_lamo_counts_its_low_rank_updates():
    module = build_model("lamo")
    before, heads = module_layers(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "query.lora_B" in name:
                parameter.fill_(0.5)
    after, _ = module_layers(module)
    assert heads == 2
    assert torch.equal(before[0].key, after[0].key)
    lora = module.trunk.blocks[0].mixer.query
    update = lora.lora_B["default"].weight @ lora.lora_A["default"].weight * 32 / 16
    assert torch.allclose(after[0].query, before[0].query + update.T)


def test_what_is_not_there_or_no_gpt2_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no backbone folder"):
        load_layers("./nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"lacks model\.safetensors"):
        load_layers(str(tmp_path))
    (tmp_path / "weights.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_layers(str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("tensors", "heads", "message"),
    [
        ({"h.0.attn.c_attn.weight": torch.ones(64)}, None, "layer 0 does not have the shapes of a GPT-2"),
        ({"h.0.attn.c_attn.weight": torch.ones(64, 100)}, None, "layer 0 does not have the shapes of a GPT-2"),
        ({"h.0.attn.c_attn.weight": torch.ones(24, 72)}, None, "add --heads"),
        ({"h.0.attn.c_attn.weight": torch.ones(24, 72)}, 5, "a width of 24 cannot be split into 5 heads"),
        ({f"h.{i}.attn.c_attn.weight": torch.ones(64 * (i + 1), 192 * (i + 1)) for i in range(2)}, 1, "widths"),
        ({"h.0.attn.c_attn.weight": torch.ones(64, 192), "h.0.ln_1.weight": torch.ones(3)}, 1, "shapes"),
        ({"h.0.attn.c_attn.weight": torch.zeros(64, 192)}, 1, "0 off the diagonal"),
        ({"h.0.attn.c_attn.weight": torch.full((64, 192), float("nan"))}, 1, "not finite"),
        ({"words": torch.ones(3)}, None, "not attention weights of a GPT-2"),
    ],
)
def test_foreign_tensors_are_one_sentence(tmp_path, tensors, heads, message):
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=message) as caught:
        analyze_layers(*load_layers(str(tmp_path / "weights.safetensors"), heads))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{", '{"model_type": "gpt2"}', '{"model_type": "gpt2", "n_embd": []}'])
def test_a_damaged_config_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    save_file({"h.0.attn.c_attn.weight": torch.ones(64, 192)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="json"):
        load_layers(str(tmp_path))


def test_heat_map_is_written(tmp_path):
    from dtbench.analysis.heat_maps import markov_heat_map

    layers, heads = module_layers(build_model("gpt2_dtma"))
    markov_heat_map(analyze_layers(layers, heads), "tiny", tmp_path / "heads.png")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert model_config("gpt2_dtma").model.heads == heads
