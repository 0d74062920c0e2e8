"""GPT-2 weights from a folder and from the hub, and what is said when they cannot be had."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from dtbench.errors import ConfigError, SourceError
from dtbench.models.backbone.load import load_backbone
from dtbench.models.parts.mixers import Attention, HeadGatedAttention
from dtbench.models.parts.trunk import Trunk, TrunkConfig

SCRATCH = TrunkConfig(width=16, layers=2, heads=2)


@pytest.fixture
def gpt2_folder(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=32, vocab_size=11, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    model.save_pretrained(tmp_path / "tiny-gpt2")
    return tmp_path / "tiny-gpt2", model


def test_folder_written_by_transformers_gives_the_same_outputs(gpt2_folder):
    folder, model = gpt2_folder
    backbone = load_backbone(str(folder), SCRATCH, dropout=0.2)
    trunk = Trunk(backbone.config, lambda trunk, layer: Attention(trunk)).eval()
    backbone.load_into(trunk)
    tokens = torch.randn(2, 20, 24)
    expected = model.transformer(inputs_embeds=tokens).last_hidden_state
    # The bound in fp32; about 1e-7 is seen.
    assert (trunk(tokens, torch.ones(2, 20, dtype=torch.bool)) - expected).abs().max() < 1e-5
    assert backbone.config.residual_dropout == 0.2
    assert backbone.description.startswith("tiny-gpt2 (sha256 ")


def test_weights_in_several_files_are_those_of_one(gpt2_folder, tmp_path):
    folder, model = gpt2_folder
    whole = load_backbone(str(folder), SCRATCH, dropout=0.1)
    model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    parts = load_backbone(str(tmp_path / "parts"), SCRATCH, dropout=0.1)
    assert all(torch.equal(whole.weights[name], parts.weights[name]) for name in whole.weights)


def test_gpt2s_position_table_is_unused(gpt2_folder):
    """Footgun 8: timesteps are embedded, so GPT-2's own positions are left out whatever they hold."""
    folder, model = gpt2_folder
    weights = load_backbone(str(folder), SCRATCH, dropout=0.1).weights
    with torch.no_grad():
        model.transformer.wpe.weight.normal_()
    model.save_pretrained(folder)
    again = load_backbone(str(folder), SCRATCH, dropout=0.1).weights
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_gate_keeps_its_own_initial_weights(gpt2_folder):
    backbone = load_backbone(str(gpt2_folder[0]), SCRATCH, dropout=0.1)
    trunk = Trunk(backbone.config, lambda trunk, layer: HeadGatedAttention(trunk))
    before = trunk.blocks[0].mixer.gate.weight.clone()
    backbone.load_into(trunk)
    assert torch.equal(trunk.blocks[0].mixer.gate.weight, before)


@pytest.mark.parametrize(("model_type", "message"), [("no-such-model", "not a model"), ("t5", "causal")])
def test_what_is_no_causal_language_model_is_refused(gpt2_folder, model_type, message):
    folder, _ = gpt2_folder
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ConfigError, match=message):
        load_backbone(str(folder), SCRATCH, dropout=0.1)


def test_pickled_weights_are_read_without_running_them(gpt2_folder):
    folder, model = gpt2_folder
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    weights = load_backbone(str(folder), SCRATCH, dropout=0.1).weights
    assert torch.equal(weights["final_norm.weight"], model.transformer.ln_f.weight)

    class Evil:
        def __reduce__(self):
            return (folder.joinpath("was-run").write_text, ("",))

    torch.save({"transformer.ln_f.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    assert not (folder / "was-run").exists()


def test_incomplete_and_broken_folders_are_refused(gpt2_folder):
    folder, _ = gpt2_folder
    save_file({"ln_f.weight": torch.ones(24)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"wte\.weight is missing"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks model\.safetensors"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    with pytest.raises(ConfigError, match="no backbone folder"):
        load_backbone("./nowhere", SCRATCH, dropout=0.1)


def test_hub_id_without_network_fails_within_seconds_and_names_the_ways_out(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"HF_HOME.*model\.backbone=FOLDER.*model\.backbone=bundled"):
        load_backbone("gpt2", SCRATCH, dropout=0.1)
    assert time.monotonic() - started < 5  # the bound


def test_scratch_says_its_size():
    backbone = load_backbone("scratch", SCRATCH, dropout=0.1)
    assert backbone.weights is None
    assert backbone.description == "random (2 × 16, 2 heads)"
