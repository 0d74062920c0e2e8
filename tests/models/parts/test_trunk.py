"""The trunk against transformers' GPT2Model, and the mask it builds."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from dtbench.errors import ConfigError
from dtbench.models.backbone.load import Backbone, gpt2_trunk_config, gpt2_weights
from dtbench.models.parts.mixers import Attention, HeadDropoutAttention, HeadGatedAttention, SingleHeadAttention
from dtbench.models.parts.trunk import TokenMask, Trunk, TrunkConfig, attention_mask

# float32 with the same weights, summed in another order: about 1e-7 is measured.
TOLERANCE = 1e-5


#: Mixers that compute GPT-2's attention, and the heads they are tried with.
ATTENTIONS = pytest.mark.parametrize(("mixer", "heads"), [(Attention, 4), (Attention, 1), (SingleHeadAttention, 1)])


def reference(activation: str = "gelu_new", layers: int = 3, heads: int = 4) -> GPT2Model:
    """Return a small GPT2Model with random weights everywhere and a zeroed position table."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=48, n_layer=layers, n_head=heads, n_positions=96, vocab_size=5, activation_function=activation,
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2Model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2) if "ln" not in name or "bias" in name else parameter.normal_(1.0, 0.2)
        model.wpe.weight.zero_()
    return model


def ours(model: GPT2Model, mixer=Attention) -> Trunk:
    config = gpt2_trunk_config(model.config.to_dict(), dropout=0.1)
    trunk = Trunk(config, lambda trunk, layer: mixer(trunk)).eval()
    Backbone(config, gpt2_weights(model.state_dict(), config.layers), "test").load_into(trunk)
    return trunk


def batch(length: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(4, length, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, length, dtype=torch.bool)
    mask[1, :33] = False
    mask[2, :3] = False
    return tokens, mask


@ATTENTIONS
@pytest.mark.parametrize("activation", ["gelu_new", "relu", "gelu"])
def test_equals_gpt2_with_padding(activation, mixer, heads):
    model = reference(activation, heads=heads)
    tokens, mask = batch()
    expected = model(inputs_embeds=tokens, attention_mask=mask.long()).last_hidden_state
    assert (ours(model, mixer)(tokens, mask) - expected)[mask].abs().max() < TOLERANCE


@ATTENTIONS
def test_gradients_equal_gpt2(mixer, heads):
    model = reference(heads=heads)
    trunk = ours(model, mixer)
    tokens, mask = batch()
    weights = torch.randn(4, 60, 48, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    theirs, mine = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    (model(inputs_embeds=theirs, attention_mask=mask.long()).last_hidden_state * weights).sum().backward()
    (trunk(mine, mask) * weights).sum().backward()
    scale = theirs.grad.abs().max()
    assert (mine.grad - theirs.grad)[mask].abs().max() / scale < TOLERANCE
    for layer, block in enumerate(trunk.blocks):
        attention = model.h[layer].attn
        maps = zip(("query", "key", "value"), attention.c_attn.weight.grad.t().chunk(3), strict=True)
        for name, expected in (*maps, ("output", attention.c_proj.weight.grad.t())):
            found = getattr(block.mixer, name).weight.grad
            assert (found - expected).abs().max() / expected.abs().max() < TOLERANCE
        for name, expected in zip(("query", "value"), attention.c_attn.bias.grad.view(3, 48)[[0, 2]], strict=True):
            found = getattr(block.mixer, name).bias.grad
            assert (found - expected).abs().max() / expected.abs().max() < TOLERANCE
        assert block.mixer.key.bias.grad.abs().max() < TOLERANCE * scale  # DDP needs one, though it is 0


@ATTENTIONS
def test_last_block_computes_selected_tokens_only_and_nothing_changes(mixer, heads):
    trunk = ours(reference(heads=heads), mixer)
    tokens, mask = batch()
    everything = trunk(tokens, mask)
    for select in (slice(1, None, 3), slice(-2, -1)):
        assert torch.allclose(trunk(tokens, mask, select), everything[:, select], atol=1e-6)


def test_head_gate_is_the_equation():
    """o_t = Concat_h(α_{t,h} · o_{t,h}) W_O, α_t = x_t W_g + b_g, written as einsums."""
    torch.manual_seed(0)
    config = TrunkConfig(width=24, layers=1, heads=3)
    mixer = HeadGatedAttention(config).eval()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, mask = torch.randn(2, 9, 24), TokenMask(torch.ones(2, 9, dtype=torch.bool))
    query, key, value = (layer(x).view(2, 9, 3, 8) for layer in (mixer.query, mixer.key, mixer.value))
    scores = torch.einsum("bihd,bjhd->bhij", query, key) / 8**0.5
    attention = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1)
    heads = torch.einsum("bhij,bjhd->bihd", attention, value)
    alpha = torch.einsum("bic,hc->bih", x, mixer.gate.weight) + mixer.gate.bias
    expected = torch.einsum("bihd,bih->bihd", heads, alpha).flatten(2) @ mixer.output.weight.T + mixer.output.bias
    assert torch.allclose(mixer(x, mask), expected, atol=1e-6)


def test_mask_is_causal_hides_padding_and_leaves_no_empty_row():
    real = torch.tensor([[False, True, True, True]])
    mask = attention_mask(real)[0]
    assert mask.tolist() == [
        [True, False, False, False],  # padding sees itself: an empty row would be NaN in the softmax
        [False, True, False, False],
        [False, True, True, False],
        [False, True, True, True],
    ]


def test_weights_that_do_not_fit_are_refused():
    model = reference(layers=2)
    weights = gpt2_weights(model.state_dict(), 2)
    config = TrunkConfig(width=48, layers=3, heads=4)
    trunk = Trunk(config, lambda trunk, layer: Attention(trunk))
    with pytest.raises(ConfigError, match=r"lack blocks\.2"):
        Backbone(config, weights, "two layers").load_into(trunk)
    with pytest.raises(ConfigError, match=r"h\.2\.ln_1"):
        gpt2_weights(model.state_dict(), 3)


@pytest.mark.parametrize(("bad", "message"), [({"heads": 5}, "5 heads"), ({"activation": "relo"}, "relo")])
def test_impossible_sizes_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        TrunkConfig(**{"width": 48, "layers": 1, "heads": 4, **bad})


def test_a_post_norm_trunk_is_pytorchs_own_encoder():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(48, 4, 192, dropout=0.1, activation="gelu", batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = TrunkConfig(48, 3, 4, activation="gelu", post_norm=True, small_maps=False)
    trunk = Trunk(config, lambda trunk, layer: HeadDropoutAttention(trunk)).eval()
    for block, theirs in zip(trunk.blocks, encoder.layers, strict=True):
        inputs = zip(theirs.self_attn.in_proj_weight.chunk(3), theirs.self_attn.in_proj_bias.chunk(3), strict=True)
        maps = (block.mixer.query, block.mixer.key, block.mixer.value)
        for map_, (weight, bias) in zip(maps, inputs, strict=True):
            map_.load_state_dict({"weight": weight, "bias": bias})
        block.mixer.output.load_state_dict(theirs.self_attn.out_proj.state_dict())
        pairs = ((block.mixer_norm, theirs.norm1), (block.mlp_norm, theirs.norm2))
        for own, part in (*pairs, (block.mlp_in, theirs.linear1), (block.mlp_out, theirs.linear2)):
            own.load_state_dict(part.state_dict())
    tokens, _ = batch(12)
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[1, :5] = False
    unseen = torch.ones(12, 12, dtype=torch.bool).triu(1) | ~mask[:, None]
    unseen[1, :5] = False  # a row that sees nothing is NaN there
    expected = encoder(tokens, mask=unseen.repeat_interleave(4, dim=0))
    assert (trunk(tokens, mask) - expected)[mask].abs().max() < TOLERANCE
    assert torch.allclose(trunk(tokens, mask, slice(1, None, 3)), trunk(tokens, mask)[:, 1::3], atol=1e-6)


def test_dropout_of_heads_drops_their_outputs_and_no_weights():
    torch.manual_seed(0)
    mixer = HeadDropoutAttention(TrunkConfig(8, 1, 2, attention_dropout=0.5, residual_dropout=0.0))
    mixer.output.load_state_dict({"weight": torch.eye(8), "bias": torch.zeros(8)})
    x, mask = torch.randn(50, 3, 8), TokenMask(torch.ones(50, 3, dtype=torch.bool))
    dropped, whole = mixer(x, mask), mixer.eval()(x, mask)
    share = dropped / whole
    is_zero = share == 0
    assert torch.allclose(share[~is_zero], torch.tensor(2.0), atol=1e-4)
    assert 0.4 < is_zero.float().mean() < 0.6  # 1,200 draws: 0.5 ± 0.014


def test_tokens_that_are_not_seen_by_a_loop():
    real = torch.ones(2, 5, dtype=torch.bool)
    real[1, :2] = False
    seen = torch.tensor([[True, False, True, False, True], [False, True, True, False, True]])
    found = attention_mask(real, seen)
    for row in range(2):
        for asks in range(5):
            for asked in range(5):
                sees = asked <= asks and bool(real[row, asked] and seen[row, asked])
                assert bool(found[row, asks, asked]) is (sees or (asks == asked and not real[row, asks]))
    assert torch.equal(attention_mask(real, torch.ones_like(real)), attention_mask(real))
