"""GPT-2 weights from a folder and from the hub, and the messages where they are missing or damaged."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dtbench.errors import ConfigError, SourceError
from dtbench.models.backbone.load import load_backbone
from dtbench.models.backbone.text import open_text, train_tokenizer
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
    # float32, summed in another order: about 1e-7 is measured.
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
    """Time steps have their own embedding, so GPT-2's positions are left out."""
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
    with pytest.raises(ConfigError, match="is not a readable checkpoint") as caught:
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice is to run the file's code
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


def test_a_hub_that_cannot_be_reached_is_not_asked_and_alternatives_are_named(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr("dtbench.models.backbone.hub._HUB_TIMEOUT_S", 0.5)
    downloads = []

    def download(repo, filename, *, local_files_only=False, **options):
        downloads.append(local_files_only)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(SourceError, match=r"HF_HOME.*model\.backbone=FOLDER.*model\.backbone=bundled"):
        load_backbone("gpt2", SCRATCH, dropout=0.1)
    assert all(downloads)  # the hub's own client, which retries for minutes, was asked for its cache only


def test_scratch_says_its_size():
    backbone = load_backbone("scratch", SCRATCH, dropout=0.1)
    assert backbone.weights is None
    assert backbone.description == "random (2 × 16, 2 heads)"


def damage_config(folder, content):
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


SIZE = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "must hold a JSON object, not a list"),
        ({"model_type": "gpt2"}, "needs n_embd as int, not None"),
        ({**SIZE, "n_embd": "24"}, "needs n_embd as int, not '24'"),
        ({**SIZE, "n_layer": True}, "needs n_layer as int, not True"),
        ({**SIZE, "n_layer": 0}, "layers must be at least 1"),
        ({**SIZE, "n_layer": 10**12}, r"h\.2\.ln_1\.weight is missing"),
        ({**SIZE, "n_head": 7}, "7 heads"),
        ({**SIZE, "n_embd": 24_000_000}, "different sizes"),
        ({**SIZE, "n_inner": 10**12}, "different sizes"),
        ({**SIZE, "embd_pdrop": 2.0}, r"embedding_dropout must lie in \[0, 1\)"),
        ({**SIZE, "activation_function": "relo"}, "relo"),
        ({"model_type": "llama", "hidden_size": "many"}, "not a model that transformers knows"),
        ({"model_type": "llama", "auto_map": {"AutoConfig": "evil.Config"}, "num_hidden_layers": []}, "transformers"),
    ],
)
def test_a_damaged_config_is_one_sentence(gpt2_folder, content, message):
    folder, _ = gpt2_folder
    damage_config(folder, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_one_sentence(gpt2_folder, kind, share):
    folder, model = gpt2_folder
    if kind == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / kind)
    whole = (folder / kind).read_bytes()
    (folder / kind).write_bytes(whole[: int(share * len(whole))])
    for on_meta in (False, True):
        with pytest.raises(ConfigError, match=kind) as caught, torch.device("meta" if on_meta else "cpu"):
            load_backbone(str(folder), SCRATCH, dropout=0.1)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)


def test_tensors_of_another_shape_or_kind_are_one_sentence(gpt2_folder):
    folder, model = gpt2_folder
    whole = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    for name, value in {
        "h.0.attn.c_attn.weight": torch.ones(24),
        "h.1.attn.c_attn.weight": torch.ones(24, 71),
        "h.0.attn.c_attn.bias": torch.ones(71),
        "h.0.ln_1.weight": torch.ones(24, 24),
        "wte.weight": torch.ones(11),
        "wpe.weight": torch.ones(32, 25),
    }.items():
        save_file({**whole, name: value}, folder / "model.safetensors")
        with pytest.raises(ConfigError, match=r"not the weights of a GPT-2|different sizes"):
            load_backbone(str(folder), SCRATCH, dropout=0.1)
    (folder / "model.safetensors").unlink()
    torch.save({**whole, "wte.weight": "words"}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds 'wte\.weight', which is not a tensor"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)
    torch.save([torch.ones(3)], folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="it holds a list"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../../secret"}}]
)
def test_a_damaged_index_is_one_sentence(gpt2_folder, content):
    folder, _ = gpt2_folder
    (folder / "model.safetensors").unlink()
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"index\.json"):
        load_backbone(str(folder), SCRATCH, dropout=0.1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Evil"}}'])
def test_a_damaged_tokenizer_is_one_sentence(gpt2_folder, content):
    folder, _ = gpt2_folder
    backbone = load_backbone(str(folder), SCRATCH, dropout=0.1)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="The tokenizer of backbone tiny-gpt2") as caught:
        backbone.tokenizer()
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(gpt2_folder, tmp_path):
    folder, _ = gpt2_folder
    train_tokenizer("a fox " * 100, 300).save(str(folder / "tokenizer.json"))  # 11 words only in the table
    (tmp_path / "text.txt").write_text("a fox " * 100, encoding="utf-8")
    backbone = load_backbone(str(folder), SCRATCH, dropout=0.1)
    with pytest.raises(ConfigError, match="its word table 11: they belong to different models"):
        open_text(str(tmp_path / "text.txt"), backbone, 8)


def test_damaged_weights_of_another_language_model_are_one_sentence(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=20)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    backbone = load_backbone(str(tmp_path), SCRATCH, dropout=0.1)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        backbone.build()
    assert "\n" not in str(caught.value)
