"""Token order, the place of the LayerNorm, and the papers' sizes."""

from __future__ import annotations

import torch

from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.tokens import STATE_TOKENS, ResidualBlock, TrajectoryEmbedding
from dtbench.spaces import Spaces, Vector, unit_box


def window(batch: int = 2, steps: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "observations": torch.randn(batch, steps, 3, generator=generator),
        "actions": torch.randn(batch, steps, 2, generator=generator),
        "returns_to_go": torch.randn(batch, steps, generator=generator),
        "timesteps": torch.arange(steps).repeat(batch, 1) + 5,
        "padding_mask": torch.tensor([[False, True, True, True], [True] * 4]),
    }


def test_tokens_are_interleaved_return_state_action():
    """R̂_0 s_0 a_0 R̂_1 …, written as a plain loop over steps."""
    embedding, given = TrajectoryEmbedding(Spaces(Vector(3), unit_box(2), 50), 16, norm_before_time=False), window()
    tokens, mask = embedding(given)
    expected = []
    for step in range(4):
        time = embedding.embed_timestep(given["timesteps"][:, step])
        expected += [
            embedding.norm(embedding.embed_return(given["returns_to_go"][:, step, None]) + time),
            embedding.norm(embedding.embed_state(given["observations"][:, step]) + time),
            embedding.norm(embedding.embed_action(given["actions"][:, step]) + time),
        ]
    assert torch.allclose(tokens, torch.stack(expected, dim=1), atol=1e-6)
    assert mask.tolist() == [[False] * 3 + [True] * 9, [True] * 12]
    assert torch.equal(tokens[:, STATE_TOKENS], tokens[:, [1, 4, 7, 10]])


def test_layer_norm_stands_before_or_after_the_time_vector():
    """DT and DC normalise the sum; GPT-2-DT, LaMo and GPT2-DTMA add time to the normalised token."""
    given = window()
    for norm_before_time in (True, False):
        torch.manual_seed(0)
        embedding = TrajectoryEmbedding(Spaces(Vector(3), unit_box(2), 50), 16, norm_before_time)
        tokens, _ = embedding(given)
        state, time = embedding.embed_state(given["observations"]), embedding.embed_timestep(given["timesteps"])
        expected = embedding.norm(state) + time if norm_before_time else embedding.norm(state + time)
        assert torch.allclose(tokens[:, STATE_TOKENS], expected, atol=1e-6)


def test_head_goes_through_tanh_or_not():
    head = ActionHead(8, 2, tanh=True)
    x = 100 * torch.randn(5, 8)
    assert head(x).abs().max() <= 1
    head.tanh = False
    assert torch.equal(head(x), head.layers(x))


def test_mlp_embedding_and_head_are_lamos_blocks():
    block = ResidualBlock(3, 8)
    x = torch.randn(5, 3)
    hidden = x @ block.first.weight.T + block.first.bias
    expected = torch.nn.functional.gelu(hidden) @ block.second.weight.T + block.second.bias + hidden
    assert torch.allclose(block(x), expected, atol=1e-6)
    head = ActionHead(8, 2, tanh=False, kind="mlp")
    first, second = head.layers[0], head.layers[2]
    state = torch.randn(4, 8)
    expected = torch.nn.functional.gelu(state @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert torch.allclose(head(state), expected, atol=1e-6)
