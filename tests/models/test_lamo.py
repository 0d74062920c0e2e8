"""LaMo: the LoRA counts of the paper, what learns and what does not, and the language loss."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from dtbench.errors import ConfigError, SourceError
from dtbench.models.backbone.load import load_backbone
from dtbench.models.backbone.text import train_tokenizer, wikitext_103
from dtbench.models.lamo import Lamo, LamoConfig, add_lora
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import Trunk, TrunkConfig
from dtbench.testing import DIMS, fit_steps, model_config, windows

TEXT = "The quick brown fox jumps over the lazy dog. " * 200


@pytest.fixture
def gpt2(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXT, 300)
    config = GPT2Config(
        n_embd=24, n_layer=2, n_head=3, n_positions=16, vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    (tmp_path / "fox.txt").write_text(TEXT)
    return tmp_path / "gpt2", model, tmp_path / "fox.txt"


def build(**model) -> Lamo:
    return Lamo(model_config("lamo", **model), DIMS)


def trained(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_gpt2_small_gets_exactly_the_papers_lora_weights():
    """12 layers · 3 maps · rank 16 · (768 + 768); one rank-16 pair on the fused map would be 589,824."""
    with torch.device("meta"):
        trunk = Trunk(TrunkConfig(768, 12, 12), lambda trunk, layer: Attention(trunk))
        add_lora(trunk, LamoConfig())
    lora = [parameter for name, parameter in trunk.named_parameters() if "lora_" in name]
    assert sum(parameter.numel() for parameter in lora) == 884_736
    assert all(parameter.requires_grad for parameter in lora)
    biases = {name for name in trained(trunk) if "lora_" not in name}
    assert biases == {
        f"blocks.{layer}.mixer.{part}.base_layer.bias" for layer in range(12) for part in ("query", "key", "value")
    }


def test_shared_lora_is_peft_on_gpt2s_fused_map():
    """One pair on the map of queries, keys and values, as in the Atari code: 12 · 32 · (768 + 3 · 768) weights."""
    with torch.device("meta"):
        trunk = Trunk(TrunkConfig(768, 12, 12), lambda trunk, layer: Attention(trunk))
        add_lora(trunk, LamoConfig(lora_rank=32, lora_shared=True, lora_biases=False))
    assert sum(parameter.numel() for parameter in trunk.parameters() if parameter.requires_grad) == 1_179_648


def test_shared_lora_computes_what_peft_does_on_the_fused_map():
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(24, 1, 2), lambda trunk, layer: Attention(trunk))
    attention, x = trunk.blocks[0].mixer, torch.randn(5, 24)
    fused = nn.Module()
    fused.c_attn = nn.Linear(24, 72)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(part, name) for part in (attention.query, attention.key, attention.value)]
            getattr(fused.c_attn, name).copy_(torch.cat(parts))
    add_lora(trunk, LamoConfig(lora_rank=4, lora_alpha=8, lora_dropout=0.0, lora_shared=True, lora_biases=False))
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"]), fused)
    theirs, ours = fused.c_attn, (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.lora_B["default"].weight.normal_()
        for adapted, part in zip(ours, theirs.lora_B["default"].weight.chunk(3), strict=True):
            adapted.lora_B["default"].weight.copy_(part)
        ours[0].lora_A["default"].weight.copy_(theirs.lora_A["default"].weight)
    assert torch.allclose(torch.cat([adapted(x) for adapted in ours], dim=1), theirs(x), atol=1e-6)


def test_lora_starts_as_the_backbone_and_adds_alpha_over_rank(gpt2):
    folder = gpt2[0]
    lora, full = build(backbone=folder).eval(), build(backbone=folder, trained="full").eval()
    window = windows(lora)
    assert torch.allclose(lora(window), full(window), atol=1e-6)
    query = lora.trunk.blocks[0].mixer.query
    with torch.no_grad():
        query.lora_B["default"].weight.normal_()
    x = torch.randn(4, 24)
    update = query.lora_B["default"].weight @ query.lora_A["default"].weight
    expected = query.base_layer(x) + x @ update.T * (32 / 16)
    assert torch.allclose(query(x), expected, atol=1e-5)


@pytest.mark.parametrize("what", ["lora", "full", "frozen"])
def test_what_learns(tmp_path, what):
    module = build(trained=what)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    fit_steps(module, tmp_path, 3)
    moved = {name for name, parameter in module.named_parameters() if not torch.equal(before[name], parameter)}
    inside = {name for name in moved if name.startswith("trunk.")}
    outside = {name for name in before if not name.startswith("trunk.")}
    # The last action token of a window has no successor, and with K = 5 some time steps never come up.
    assert outside - moved <= {"embedding.embed_timestep.weight"}
    kinds = {name.rpartition(".")[0].rpartition(".")[2] for name in inside}
    if what == "frozen":
        assert not inside
    elif what == "lora":
        assert all("lora_" in name or name.endswith("base_layer.bias") for name in inside)
        assert any("lora_B" in name for name in inside)
    else:
        assert {"query", "mlp_in", "final_norm"} <= kinds


def test_hopper_is_the_papers_exception():
    settings = model_config("lamo").model  # its task is hopper-medium
    assert (settings.embedding, settings.head, settings.tanh) == ("linear", "linear", True)
    assert (LamoConfig().embedding, LamoConfig().head, LamoConfig().tanh) == ("mlp", "mlp", False)


def test_language_loss_is_gpt2s_own(gpt2):
    folder, model, _ = gpt2
    backbone = load_backbone(str(folder), TrunkConfig(24, 2, 3), dropout=0.1)
    trunk = backbone.build().eval()
    ids = torch.randint(0, backbone.language.words.shape[0], (2, 16), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=ids, labels=ids).loss

    def loss(positions):
        language = LanguageLoss(
            backbone.language, lambda seed, step, rank: ids, (2, 16), learns=False, positions=positions
        )
        return language(trunk, seed=0, step=0, rank=0).item()

    assert loss(positions=True) == pytest.approx(expected.item(), abs=1e-5)  # fp32, the bound of the trunk's own test
    model.transformer.wpe.weight.data.zero_()
    without = model(input_ids=ids, labels=ids).loss.item()
    assert abs(without - expected.item()) > 1e-3
    assert loss(positions=False) == pytest.approx(without, abs=1e-5)


def test_language_loss_is_added_with_its_weight_and_trains_the_lora(gpt2, tmp_path):
    folder, _, text = gpt2
    plain = build(backbone=folder).eval()
    module = build(backbone=folder, language_weight=0.5, text=text, text_context=12).eval()
    batch = windows(module)
    loss, metrics = module.loss(batch)
    assert loss.item() == pytest.approx(plain.loss(batch)[0].item() + 0.5 * metrics["language_loss"].item(), abs=1e-5)
    assert not module.language.words.requires_grad
    assert module.language.positions is None  # the published code adds none
    words = module.language.words.clone()
    fit_steps(module.train(), tmp_path / "run", 2)
    assert torch.equal(words, module.language.words)


def test_no_language_pass_at_weight_zero(gpt2, monkeypatch, tmp_path):
    """Otherwise every run of a GPT-2 would pay for text it does not use."""
    monkeypatch.setattr(LanguageLoss, "forward", lambda *args: pytest.fail("a language forward pass at λ = 0"))
    module = build(backbone=gpt2[0], language_weight=0.0, text=tmp_path / "absent.txt")
    Lamo.prepare(module.options)
    fit_steps(module, tmp_path / "run", 2)
    assert module.language is None


def test_text_batches_are_a_function_of_the_step(gpt2):
    folder, _, text = gpt2
    first, second = (build(backbone=folder, language_weight=1, text=text).language.draw for _ in range(2))
    assert torch.equal(first(0, 7, 0), second(0, 7, 0))
    assert first(0, 7, 0).shape == (2, 16)  # no longer than the backbone's positions
    for other in ((0, 8, 0), (1, 7, 0), (0, 7, 1)):
        assert not torch.equal(first(0, 7, 0), first(*other))


def test_language_loss_without_text_or_language_is_refused(gpt2, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = build(backbone=gpt2[0]).options
    options.language_weight = 0.1
    with pytest.raises(SourceError, match=r"model\.text=FILE.*model\.language_weight=0"):
        Lamo.prepare(options)
    options.text = str(tmp_path / "absent.txt")
    with pytest.raises(SourceError, match=r"absent\.txt"):
        Lamo.prepare(options)
    options.backbone = "scratch"
    options.layers, options.heads, options.width = 2, 2, 32
    with pytest.raises(ConfigError, match="language_weight"):
        Lamo.prepare(options)


def test_wikitext_is_written_from_the_hubs_files(gpt2, monkeypatch, tmp_path):
    import pyarrow
    import pyarrow.parquet

    files = {}
    for part, lines in enumerate((["", " = Title = \n"], [" The quick brown fox .\n"] * 50)):
        name = f"wikitext-103-raw-v1/train-0000{part}-of-00002.parquet"
        files[name] = tmp_path / f"{part}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": lines}), files[name])
    monkeypatch.setattr("dtbench.models.backbone.text.from_hub", lambda repo, name, **rest: files[name])
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    path = wikitext_103()
    assert path.read_text() == " = Title = \n" + " The quick brown fox .\n" * 50
    files.clear()
    assert wikitext_103() == path  # fetched once
    module = build(backbone=gpt2[0], language_weight=0.1)
    assert module.language.draw(0, 0, 0).shape == (2, 16)
