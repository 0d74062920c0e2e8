"""A trunk that goes on from its cache computes what it computes from all tokens at once."""

from __future__ import annotations

import pytest
import torch

from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.parts.mixers import Attention, HeadGatedAttention, SingleHeadAttention
from dtbench.models.parts.trunk import TokenMask, Trunk, TrunkConfig

ROWS, TOKENS, WIDTH = 3, 11, 16
#: Float32, sums in another order; outputs are of order 1.
ROUNDING = 1e-5


def trunk(mixer=Attention, heads: int = 2) -> Trunk:
    torch.manual_seed(0)
    made = Trunk(TrunkConfig(WIDTH, 2, heads), lambda config, layer: mixer(config)).eval()
    for parameter in made.parameters():  # so that attention is not uniform
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def tokens() -> torch.Tensor:
    return torch.randn(ROWS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [[TOKENS], [1] * TOKENS, [4, 1, 3, 3]])
@pytest.mark.parametrize(("mixer", "heads"), [(Attention, 2), (SingleHeadAttention, 1), (HeadGatedAttention, 2)])
@torch.no_grad()
def test_parts_equal_the_whole(mixer, heads, sizes):
    module, x = trunk(mixer, heads), tokens()
    whole = module(x, torch.ones(ROWS, TOKENS, dtype=torch.bool))
    cache = KeyValueCache(2, TOKENS)
    parts = [module.extend(part, cache, [False] * part.shape[1]) for part in x.split(sizes, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=ROUNDING)


@pytest.mark.parametrize("sizes", [[TOKENS], [1] * TOKENS, [4, 1, 3, 3]])
@torch.no_grad()
def test_unseen_tokens_see_and_are_not_seen(sizes):
    module, x = trunk(), tokens()
    unseen = torch.tensor([place % 4 == 3 for place in range(TOKENS)])
    place = torch.arange(TOKENS)
    bias = torch.where((place <= place[:, None]) & ~unseen, 0.0, -torch.inf)
    real = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    whole = module(x, TokenMask.with_bias(real, bias[None, None]))
    assert not torch.allclose(whole, module(x, real), atol=1000 * ROUNDING)
    cache, begins, parts = KeyValueCache(2, TOKENS), 0, []
    for size in sizes:
        parts.append(module.extend(x[:, begins : begins + size], cache, unseen[begins : begins + size].tolist()))
        begins += size
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=ROUNDING)
    assert cache.length == TOKENS - int(unseen.sum())


@torch.no_grad()
def test_rows_go_on_by_themselves():
    module, x = trunk(), tokens()
    whole = module(x, torch.ones(ROWS, TOKENS, dtype=torch.bool))
    cache = KeyValueCache(2, TOKENS)
    module.extend(x[:, :6], cache, [False] * 6)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    rest = module.extend(x[rows, 6:], cache, [False] * 5)
    assert torch.allclose(rest, whole[rows, 6:], atol=ROUNDING)
