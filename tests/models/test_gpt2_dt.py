"""GPT-2-DT: its alignment losses against the reference's einsum, extended positions, shared projections."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dtbench.errors import ConfigError
from dtbench.models.gpt2_dt import (
    Gpt2Dt,
    Gpt2DtConfig,
    alignment_schedule,
    cosine_alignment,
    extend_positions,
    reference_alignment,
    word_centres,
)
from dtbench.testing import DIMS, fit_steps, model_config, windows


@pytest.fixture
def gpt2(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=16, vocab_size=50, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2", model


def build(**model) -> Gpt2Dt:
    return Gpt2Dt(model_config("gpt2_dt", **model), DIMS)


def test_cosine_alignment_is_the_papers():
    embedded, centres = torch.randn(7, 3, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    largest = [
        max(torch.nn.functional.cosine_similarity(token, centre, dim=0).item() for centre in centres)
        for token in embedded.flatten(0, 1)
    ]
    assert cosine_alignment(embedded, centres).flatten().tolist() == pytest.approx(largest, abs=1e-6)


def test_reference_alignment_is_the_references_einsum():
    embedded, centres = torch.randn(7, 3, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    unit = torch.nn.functional.normalize(embedded, dim=-1)
    products = torch.einsum("iaj,bj->iabj", unit, centres)  # the feature axis j stays
    found = reference_alignment(embedded, centres).mean()
    assert found.item() == pytest.approx(products.amax(dim=2).mean().item(), abs=1e-6)


def test_schedule_is_the_papers():
    for step in (1, 1250, 2500, 4000, 5000, 6000):
        assert alignment_schedule(step, 5000) == pytest.approx(1 / (1 + math.exp(-((5000 - step) / 500 - 5))))
        assert alignment_schedule(step // 10, 500) == pytest.approx(alignment_schedule(step, 5000), abs=1e-3)
    assert alignment_schedule(10**9, 5000) == pytest.approx(0)


def test_word_centres_find_separated_clusters():
    torch.manual_seed(0)
    corners = 5 * torch.eye(4)
    words = corners.repeat_interleave(30, dim=0) * torch.rand(120, 1).add(0.5) + 0.1 * torch.randn(120, 4)
    centres = word_centres(words, 12)
    assert torch.allclose(centres.norm(dim=-1), torch.ones(12))
    assert ((torch.eye(4) @ centres.T).amax(dim=-1) > 0.99).all()  # noise of 0.1 on a length of 2.5 to 7.5
    assert word_centres(words[:3], 12).shape == (3, 4)


@pytest.mark.parametrize("alignment", ["reference", "cosine"])
def test_alignment_is_added_with_its_weight_over_real_tokens_only(gpt2, alignment):
    folder, _ = gpt2
    module = build(backbone=folder, alignment_centres=10, alignment=alignment).eval()
    plain = build(backbone=folder, alignment="none").eval()
    batch = windows(module)
    loss, metrics = module.loss(batch)
    expected = plain.loss(batch)[0] + 0.1 * alignment_schedule(1, 5000) * metrics["alignment_loss"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    batch["observations"] = torch.where(batch["padding_mask"][..., None], batch["observations"], 99.0)
    assert module.loss(batch)[0].item() == pytest.approx(loss.item(), abs=1e-6)
    assert "alignment_loss" not in plain.loss(batch)[1]
    assert "alignment_loss" not in build().loss(windows(build()))[1]  # scratch: no words to align with


def test_positions_are_extended_by_tiling_all_but_the_first_two_rows(gpt2):
    _, model = gpt2
    positions = model.transformer.wpe.weight.detach()
    extended = extend_positions(positions, 30)
    expected = [0, 1, *range(2, 16), *range(2, 16)]  # 30 rows of a table of 16
    assert torch.equal(extended, positions[expected])
    module = build(backbone=gpt2[0], extended_positions=True)
    assert torch.equal(module.embedding.embed_timestep.weight.detach(), extended)
    assert build(extended_positions=False).embedding.embed_timestep.weight.std().item() > 0.9
    untrained = build(width=256, heads=8).embedding.embed_timestep.weight  # backbone `scratch`
    assert untrained.std().item() == pytest.approx(0.02, rel=0.1)


def test_defaults_are_those_of_the_published_script():
    """`run.sh` has --extend_positions, --share_input_output_proj and --gpt_kmeans_const 0.1 in every run."""
    options = Gpt2DtConfig()
    assert (options.extended_positions, options.shared_projections) == (True, True)
    assert (options.alignment, options.alignment_weight, options.alignment_steps) == ("reference", 0.1, 5000)


def test_shared_projection_has_no_weights_of_its_own(tmp_path):
    module = build(shared_projections=True)
    assert not list(module.head.parameters())
    x = torch.randn(3, module.trunk.config.width)
    assert torch.equal(module.head(x), torch.tanh(x @ module.embedding.embed_action.weight))
    before = module.embedding.embed_action.weight.clone()
    fit_steps(module, tmp_path, 2)
    assert not torch.equal(before, module.embedding.embed_action.weight)
    with pytest.raises(ConfigError, match="shared_projections"):
        build(shared_projections=True, head="mlp")


def test_all_of_gpt2_is_trained(tmp_path, gpt2):
    module = build(backbone=gpt2[0])
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    fit_steps(module, tmp_path / "run", 3)
    still = {name for name, parameter in module.named_parameters() if torch.equal(before[name], parameter)}
    # A key's bias moves every score of a query alike, so its exact gradient is 0 and Adam's step may round to nothing.
    assert not {name for name in still if not name.endswith("key.bias")}


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="alignment"):
        build(alignment="l2")
    with pytest.raises(ConfigError, match="embedding"):
        build(embedding="cnn")
