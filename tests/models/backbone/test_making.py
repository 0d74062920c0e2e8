"""Making backbones: text, Markov chain, perplexities; and any other causal language model through the adapter."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dtbench.analysis.backbone_card import backbone_card
from dtbench.analysis.markov_heads import LayerWeights, analyze_layers
from dtbench.errors import ConfigError, DataError, SourceError
from dtbench.models.backbone import pretrain as pretraining
from dtbench.models.backbone import recipes
from dtbench.models.backbone.load import SHIPPED, load_backbone
from dtbench.models.backbone.markov_chain import entropy_perplexity, markov_batches, transition_matrix
from dtbench.models.backbone.pretrain import (
    PretrainSettings,
    new_model,
    perplexity,
    pretrain,
    save_backbone,
    text_batches,
    unigram_perplexity,
)
from dtbench.models.backbone.recipes import make_text_backbone, synthetic_folder, synthetic_options
from dtbench.models.backbone.text import TextTokens, encode, read_text, split_text, train_tokenizer
from dtbench.models.gpt2_dt import Gpt2Dt
from dtbench.models.gpt2_dtma import Gpt2Dtma
from dtbench.models.lamo import Lamo
from dtbench.models.parts.trunk import TrunkConfig
from dtbench.testing import DIMS, fit_steps, model_config, windows

TEXT = "\n".join(f"{a} and {b} went to the {c}." for a in "ABCDE" for b in "FGHIJ" for c in ("sea", "hill", "town"))
SMALL = {"layers": 2, "heads": 2, "width": 16, "context": 16, "batch_size": 4, "warmup_steps": 5}
SCRATCH = TrunkConfig(16, 2, 2)


def test_text_backbone_learns_and_is_a_folder_for_us_and_for_transformers(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 5)
    settings = PretrainSettings(vocabulary=300, steps=400, **SMALL)
    card = make_text_backbone(tmp_path / "text.txt", settings, tmp_path / "tiny")
    measured = card["measured"]["held out"]
    assert measured["perplexity"] < 0.5 * measured["unigram_perplexity"]
    assert json.loads((tmp_path / "tiny" / "card.json").read_text()) == card
    backbone = load_backbone(str(tmp_path / "tiny"), SCRATCH, dropout=0.1)
    assert backbone.description.startswith("tiny (sha256 ")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "tiny").float().eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "tiny")("A and G went to")["input_ids"]
    assert ids == backbone.tokenizer().encode("A and G went to").ids
    tokens = torch.randn(2, 12, 16)
    first = torch.zeros(1, 12, dtype=torch.long)
    expected = model.transformer(inputs_embeds=tokens, position_ids=first).last_hidden_state
    ours = backbone.build().eval()(tokens + model.transformer.wpe.weight[0], torch.ones(2, 12, dtype=torch.bool))
    assert (ours - expected).abs().max() < 1e-5  # float32, summed in another order


def test_a_card_describes_its_folder_whatever_that_is_called(tmp_path, monkeypatch):
    """A folder `bundled` in the working folder is not the backbone of that name in this package."""
    settings = PretrainSettings(vocabulary=10, steps=1, symmetric_heads=1, symmetric_std=0.5, **SMALL)
    save_backbone(new_model(replace(settings, seed=1)), tmp_path / "bundled")
    recipes._write_card(tmp_path / "bundled", settings, {"kind": "text", "measured": {}})
    monkeypatch.chdir(tmp_path)
    after, before = backbone_card(Path("bundled")).partition("Before the training")[::2]
    assert after.count("\n|       ") == before.count("\n|       ") == settings.layers
    rows = [text.splitlines()[-1] for text in (after.rstrip(), before.rstrip())]
    assert rows[0] != rows[1]


def test_the_loss_in_parts_is_transformers_loss(monkeypatch):
    """The same loss and gradients as GPT2LMHeadModel's own; with bfloat16 nearly so."""
    monkeypatch.setattr(pretraining, "_CHUNK", 7)
    settings = PretrainSettings(vocabulary=20, steps=1, **SMALL)
    ids = torch.randint(20, (4, 16))
    whole, parts, rough = (new_model(settings).train() for _ in range(3))
    loss = whole(input_ids=ids, labels=ids).loss
    loss.backward()
    assert pretraining._backward(parts, ids, "32-true") == pytest.approx(loss.item(), rel=1e-6)
    assert pretraining._backward(rough, ids, "bf16-mixed") == pytest.approx(loss.item(), rel=1e-2)
    for expected, found, close in zip(whole.parameters(), parts.parameters(), rough.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, atol=1e-7)
        assert (close.grad - expected.grad).norm() < 0.05 * expected.grad.norm() + 1e-6


def test_interrupted_pretraining_ends_where_an_uninterrupted_one_does(tmp_path):
    settings = PretrainSettings(vocabulary=10, steps=12, **SMALL)
    batches = markov_batches(settings)

    def stopping(step: int):
        if step == 9:
            raise KeyboardInterrupt
        return batches(step)

    whole = pretrain(settings, batches, tmp_path / "whole", every=4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, stopping, tmp_path / "parts", every=4)
    parts = pretrain(settings, batches, tmp_path / "parts", every=4)
    for old, new in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_damaged_or_foreign_checkpoint_of_a_pretraining_is_one_sentence(tmp_path):
    settings = PretrainSettings(vocabulary=10, steps=4, **SMALL)
    batches = markov_batches(settings)
    pretrain(settings, batches, tmp_path, every=2)
    with pytest.raises(ConfigError, match="other settings; delete it or choose another --output"):
        pretrain(replace(settings, learning_rate=1.0), batches, tmp_path)
    checkpoint = tmp_path / "latest.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        pretrain(settings, batches, tmp_path)
    torch.save({"model": {}}, checkpoint)
    with pytest.raises(ConfigError, match="does not belong to this training; delete it"):
        pretrain(settings, batches, tmp_path)


def test_a_folder_of_another_text_is_refused(tmp_path):
    settings = PretrainSettings(vocabulary=300, steps=1, **SMALL)
    for name, text in (("one", TEXT * 5), ("two", TEXT * 6)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    make_text_backbone(tmp_path / "one.txt", settings, tmp_path / "tiny")
    with pytest.raises(ConfigError, match="training on another text"):
        make_text_backbone(tmp_path / "two.txt", settings, tmp_path / "tiny")


def test_impossible_settings_and_short_texts_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="3 heads of equal size"):
        PretrainSettings(vocabulary=300, steps=1, width=16, heads=3)
    with pytest.raises(ConfigError, match="5 symmetric heads"):
        PretrainSettings(vocabulary=300, steps=1, width=16, heads=4, symmetric_heads=5)
    settings = PretrainSettings(vocabulary=300, steps=1, **SMALL)
    with pytest.raises(DataError, match="has 16 tokens; pretraining needs more than 16"):
        text_batches(np.zeros(16, np.int64), settings)
    with pytest.raises(DataError, match="too short to measure"):
        perplexity(new_model(settings).eval(), np.zeros(16, np.int64))


def test_symmetric_heads_start_as_markov_heads_and_the_others_as_ever():
    settings = PretrainSettings(
        vocabulary=20, steps=1, layers=2, heads=4, width=64, symmetric_heads=2, symmetric_std=0.3
    )
    weights = new_model(settings).transformer.state_dict()
    first, second = analyze_layers([_layer(weights, index) for index in range(2)], 4)["layers"]
    assert [head["markov"] for head in first["heads"]] == [True, True, False, False]
    assert not any(head["markov"] for head in second["heads"])
    query, key, _ = weights["h.0.attn.c_attn.weight"].chunk(3, dim=1)
    assert torch.equal(query[:, :32], key[:, :32])
    assert query[:, :32].std() == pytest.approx(0.3, rel=0.05)
    assert query[:, 32:].std() == pytest.approx(0.02, rel=0.05)  # GPT-2's own


def _layer(weights, index):
    query, key, _ = weights[f"h.{index}.attn.c_attn.weight"].chunk(3, dim=1)
    return LayerWeights(query, key, None)


def test_perplexities_are_their_definitions():
    settings = PretrainSettings(vocabulary=20, steps=1, **SMALL)
    model = new_model(settings).eval()
    tokens = np.random.default_rng(0).integers(0, 20, 60)
    total, count = 0.0, 0
    for start in range(0, 60 - 16, 8):  # windows overlap by half, second halves count
        ids = torch.from_numpy(tokens[start : start + 16])[None]
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(8, 16):
            total, count = total - logs[place - 1, ids[0, place]].item(), count + 1
    assert perplexity(model, tokens) == pytest.approx(math.exp(total / count), rel=1e-5)
    train = np.array([0, 0, 0, 1])  # with one added: 4/7, 2/7 and 1/7
    expected = math.exp(-(math.log(4 / 7) + math.log(1 / 7)) / 2)
    assert unigram_perplexity(train, np.array([0, 2]), 3) == pytest.approx(expected)


def test_repeated_share_repeats():
    tokens = np.arange(1000)
    rows = text_batches(tokens, PretrainSettings(vocabulary=1000, steps=1, context=64, repeat_share=1.0))(0)
    for row in rows:
        (again,) = np.flatnonzero(row[1:] == row[0])[:1] + 1
        assert 4 <= again < 32
        assert (row[again:] == row[:-again]).all()
    plain = text_batches(tokens, PretrainSettings(vocabulary=1000, steps=1, context=64))(0)
    assert (np.diff(plain, axis=1) == 1).all()


def test_markov_chain_has_its_transition_frequencies():
    settings = PretrainSettings(vocabulary=4, steps=1, context=256, batch_size=256)
    matrix, tokens = transition_matrix(4, 1.0, seed=0), markov_batches(settings)(0)
    assert np.allclose(matrix.sum(axis=1), 1)
    counts = np.zeros((4, 4))
    np.add.at(counts, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    # 65,280 transitions, at least 5,000 from each state: a standard error of at most 0.007
    assert np.abs(counts / counts.sum(axis=1, keepdims=True) - matrix).max() < 0.03
    assert entropy_perplexity(np.full((5, 5), 0.2)) == pytest.approx(5)


def test_synthetic_backbone_is_deterministic_in_its_seed(tmp_path, monkeypatch):
    files = []
    for home, options in (("a", ""), ("b", ""), ("c", ",seed=1")):
        name = f"synthetic(states=6,steps=3{options})"
        monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / home))
        files.append(synthetic_folder(name) / "model.safetensors")
    first, same, other = (file.read_bytes() for file in files)
    assert first == same
    assert first != other
    backbone = load_backbone("synthetic(states=6,steps=3,seed=1)", SCRATCH, dropout=0.1)
    assert backbone.description.startswith("synthetic-6-1-3-1 (sha256 ")
    assert (backbone.config.width, backbone.config.layers, backbone.config.heads) == (128, 4, 4)


@pytest.mark.parametrize("options", ["state=5", "states=many", "states=1", "steps=0"])
def test_wrong_synthetic_options_are_refused(options):
    with pytest.raises(ConfigError, match="synthetic"):
        synthetic_options(f"synthetic({options})")


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=20,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_another_language_model_enters_through_the_adapter(llama, tmp_path):
    module = Gpt2Dt(model_config("gpt2_dt", backbone=llama), DIMS).eval()
    assert module.initial_weights.startswith("llama (sha256 ")
    window = windows(module)
    before = module(window)
    changed = {**window, "observations": window["observations"].clone()}
    changed["observations"][:, -1] += 1
    assert torch.allclose(module(changed)[:, :-1], before[:, :-1], atol=1e-6)
    padded = {name: value.clone() for name, value in window.items()}
    padded["observations"][~window["padding_mask"]] = 9.0
    real = window["padding_mask"]
    assert torch.allclose(module(padded)[real], before[real], atol=1e-6)
    assert torch.allclose(module.act(window), before[:, -1], atol=1e-6)
    fit_steps(module.train(), tmp_path / "run", 2)
    lamo = Lamo(model_config("lamo", backbone=llama), DIMS)
    # hidden 16, rank 16 for q, k and v in 2 layers: 2 · 3 · 16 · (16 + 16)
    assert sum(p.numel() for n, p in lamo.named_parameters() if "lora_" in n) == 3072


def test_gate_and_probe_need_a_gpt2(llama):
    with pytest.raises(ConfigError, match="gates the heads of a GPT-2"):
        Gpt2Dtma(model_config("gpt2_dtma", backbone=llama), DIMS)
    with pytest.raises(ConfigError, match="reinit_heads"):
        Gpt2Dt(model_config("gpt2_dt", backbone=llama, reinit_heads=[0]), DIMS)


def test_text_is_read_from_files_and_folders_and_split_at_a_line(tmp_path):
    import gzip

    (tmp_path / "b.txt").write_text("second\n")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as stream:
        stream.write("first\n")
    assert read_text(tmp_path) == "first\n\nsecond\n"
    train, held_out = split_text("line\n" * 100, 0.1)
    assert (train, held_out) == ("line\n" * 91, "line\n" * 9)
    with pytest.raises(SourceError, match="no text file"):
        read_text(tmp_path / "absent.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no \.txt"):
        read_text(tmp_path / "empty")
    packed = gzip.compress(b"some text " * 1000)
    (tmp_path / "cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "altered.txt.gz").write_bytes(packed[:20] + b"\xff" * 8 + packed[28:])
    for name in ("cut.txt.gz", "altered.txt.gz"):
        with pytest.raises(SourceError, match="cannot be read"):
            read_text(tmp_path / name)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SourceError, match="cannot be read"):
        read_text(tmp_path / "bad.txt")


def test_tokens_are_cached_and_decode_to_the_text(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = train_tokenizer(TEXT, 300)
    assert tokenizer.decode(encode(tokenizer, TEXT).tolist()) == TEXT
    tokens = TextTokens(tmp_path / "text.txt", tokenizer, 8)
    assert tokens.batch(3, seed=0, step=1).shape == (3, 8)
    assert not np.array_equal(tokens.batch(3, seed=0, step=1), tokens.batch(3, seed=0, step=1, rank=1))
    with monkeypatch.context() as patch:
        patch.setattr("dtbench.models.backbone.text.encode", lambda *args: pytest.fail("encoded twice"))
        assert np.array_equal(TextTokens(tmp_path / "text.txt", tokenizer, 8).ids, tokens.ids)
    (cached,) = (tmp_path / "text").glob("*.npy")
    for damaged in (cached.read_bytes()[:-10], b"", b"not numpy"):
        expected = tokens.ids.tolist()
        cached.unlink()  # its map is still open
        cached.write_bytes(damaged)
        assert TextTokens(tmp_path / "text.txt", tokenizer, 8).ids.tolist() == expected
    with pytest.raises(DataError, match="one window takes"):
        TextTokens(tmp_path / "text.txt", tokenizer, 10**6)


@pytest.mark.parametrize("name", SHIPPED)
def test_bundled_backbone_is_what_its_card_says(name):
    import hashlib

    folder = SHIPPED[name]
    card = json.loads((folder / "card.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert len(weights) < 5e6  # so that it can travel inside the package
    backbone = load_backbone(name, SCRATCH, dropout=0.1)
    ids = backbone.tokenizer().encode("It is a truth universally acknowledged").ids
    assert backbone.tokenizer().decode(ids) == "It is a truth universally acknowledged"
