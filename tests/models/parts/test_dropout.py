"""Dropout's own masks: their share, their independence, their gradient, and that a seed repeats them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dtbench.models.parts.dropout import Dropout, keep_mask, replace_dropouts


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_the_share_that_stays_is_one_minus_p(p):
    torch.manual_seed(0)
    kept = keep_mask(torch.Size([1001, 999]), p).double()  # not a multiple of four
    test = stats.binomtest(int(kept.sum()), kept.numel(), 1 - p)
    assert test.pvalue > 1e-3
    assert kept.shape == (1001, 999)
    assert set(kept.unique().tolist()) == {0.0, 1.0}


def test_neighbours_and_masks_are_independent():
    torch.manual_seed(1)
    first, second = (keep_mask(torch.Size([400_000]), 0.3).double().numpy() for _ in range(2))
    for a, b in ((first[:-1], first[1:]), (first[:-4], first[4:]), (first, second)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_a_seed_repeats_the_masks_and_the_next_call_draws_others():
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append([keep_mask(torch.Size([50]), 0.5).tolist() for _ in range(2)])
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] != draws[0][1]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients_are_scaled_by_what_stays(kind):
    torch.manual_seed(0)
    x = torch.randn(30, 40, dtype=kind, requires_grad=True)
    out = Dropout(0.2)(x)
    kept = out != 0
    assert 0.7 < kept.double().mean() < 0.9
    assert out.dtype == kind
    expected = (x.double() * 1.25)[kept]
    assert torch.allclose(out[kept].double(), expected, rtol=1e-2 if kind == torch.bfloat16 else 1e-6)
    out.sum().backward()
    assert torch.equal(x.grad, torch.where(kept, 1.25, 0.0).to(kind))


def test_without_training_or_at_zero_nothing_changes():
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_what_a_library_built_gets_ours():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.4)), Dropout(0.1))
    replace_dropouts(network)
    assert [(type(module), module.p) for module in network.modules() if isinstance(module, nn.Dropout)] == [
        (Dropout, 0.3),
        (Dropout, 0.4),
        (Dropout, 0.1),
    ]
