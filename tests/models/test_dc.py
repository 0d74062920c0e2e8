"""Decision ConvFormer: its mixer against a plain loop over the defining sum, padding, and the hybrid."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.dc import DecisionConvFormer
from dtbench.models.parts.mixers import Attention, CausalConvolution
from dtbench.models.parts.trunk import TokenMask, TrunkConfig
from dtbench.testing import DIMS, model_config

CONFIG = TrunkConfig(width=8, layers=2, heads=2)


def test_mixer_is_the_defining_sum():
    torch.manual_seed(0)
    mixer = CausalConvolution(CONFIG).eval()
    x = torch.randn(2, 12, 8)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, :6] = False  # two padded steps
    found = mixer(x, TokenMask(real))
    for row in range(2):
        for t in range(12):
            weight, bias = mixer.filters[t % 3].weight[:, 0], mixer.filters[t % 3].bias
            expected = bias.clone()
            for j in range(6):
                place = t - 5 + j
                if place >= 0 and real[row, place]:
                    expected = expected + weight[:, j] * x[row, place]
            assert torch.allclose(found[row, t], expected, atol=1e-5)


def test_selected_tokens_are_those_of_all():
    mixer = CausalConvolution(CONFIG, projection=True).eval()
    x, mask = torch.randn(2, 12, 8), TokenMask(torch.ones(2, 12, dtype=torch.bool))
    assert torch.equal(mixer(x, mask, slice(1, None, 3)), mixer(x, mask)[:, 1::3])


def test_parameters_are_the_papers_count():
    # 3 · (6 H + H) = 21 H, against 4 H² + 4 H of attention
    assert sum(p.numel() for p in CausalConvolution(TrunkConfig(128, 1, 1)).parameters()) == 2688
    assert sum(p.numel() for p in Attention(TrunkConfig(128, 1, 1)).parameters()) == 4 * 128**2 + 4 * 128


def build(**model) -> DecisionConvFormer:
    return DecisionConvFormer(model_config("dc", **model), DIMS)


def test_one_layer_sees_two_time_steps_back():
    module = build(layers=1).eval()
    steps = module.context_length
    window = {
        "observations": torch.randn(1, steps, DIMS["observation_dim"], requires_grad=True),
        "actions": torch.randn(1, steps, DIMS["action_dim"], requires_grad=True),
        "returns_to_go": torch.randn(1, steps, requires_grad=True),
        "timesteps": torch.arange(steps)[None],
        "padding_mask": torch.ones(1, steps, dtype=torch.bool),
    }
    module.act(window).sum().backward()

    def seen(name: str) -> list[int]:
        gradient = window[name].grad.reshape(steps, -1).abs().sum(dim=1)
        return [steps - 1 - step for step in range(steps) if gradient[step] > 0]

    # A filter of six tokens at s_t sees exactly a_{t−2}, R̂_{t−1}, s_{t−1}, a_{t−1}, R̂_t, s_t
    assert (seen("observations"), seen("actions"), seen("returns_to_go")) == ([1, 0], [2, 1], [1, 0])


def test_hybrid_attends_in_the_last_layer_only():
    mixers = [type(block.mixer) for block in build(hybrid=True, layers=3).trunk.blocks]
    assert mixers == [CausalConvolution, CausalConvolution, Attention]
    with pytest.raises(ConfigError, match="window"):
        build(window=0)
