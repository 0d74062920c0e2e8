"""HL-Gauss against scipy's normal distribution and a plain loop over the cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dtbench.models.parts.histogram import Histogram

LOW, HIGH, BINS = -3.0, 7.0, 20
WIDTH = (HIGH - LOW) / BINS


def histogram(smoothing: float = 0.75) -> Histogram:
    made = Histogram(BINS, smoothing).double()
    made.set_range(LOW, HIGH)
    return made


@pytest.mark.parametrize("smoothing", [0.3, 0.75, 2.0])
@pytest.mark.parametrize("value", [-3.0, -2.9, 0.0, 1.2345, 6.99, 7.0])
def test_targets_are_differences_of_the_cumulative_distribution(value, smoothing):
    found = histogram(smoothing).probabilities(torch.tensor([value], dtype=torch.float64))[0]
    edges = np.linspace(LOW, HIGH, BINS + 1)
    share = np.diff(norm.cdf(edges, loc=value, scale=smoothing * WIDTH))
    assert found.numpy() == pytest.approx(share / share.sum(), abs=1e-12)


def test_a_target_beyond_the_range_counts_as_its_end():
    made = histogram()
    beyond, ends = (made.probabilities(torch.tensor(pair)) for pair in ([-1e6, 1e6], [LOW, HIGH]))
    assert torch.equal(beyond, ends)
    assert torch.isfinite(beyond).all()


def test_the_mean_of_a_target_is_its_value():
    """Five widths away from the ends. Measured 5e-6 of a width, which is what the bins' shape costs at σ/ς = 0.75."""
    values = torch.linspace(LOW + 5 * WIDTH, HIGH - 5 * WIDTH, 101, dtype=torch.float64)
    made = histogram()
    recovered = made.mean(made.probabilities(values).log())
    assert (recovered - values).abs().max() < 1e-4 * WIDTH


def test_the_loss_is_the_cross_entropy():
    torch.manual_seed(0)
    made, logits, values = histogram(), torch.randn(4, BINS).double(), torch.tensor([-2.0, 0.1, 3.0, 9.0]).double()
    found = made.loss(logits, values)
    targets = made.probabilities(values)
    for row in range(4):
        weights = [math.exp(logit) for logit in logits[row].tolist()]
        expected = -sum(
            target * math.log(weight / sum(weights))
            for target, weight in zip(targets[row].tolist(), weights, strict=True)
        )
        assert found[row].item() == pytest.approx(expected, rel=1e-12)


def test_descent_finds_the_value():
    made = histogram()
    logits = torch.zeros(1, BINS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        made.loss(logits, torch.tensor([2.34], dtype=torch.float64)).sum().backward()
        optimizer.step()
    assert made.mean(logits).item() == pytest.approx(2.34, abs=0.02 * WIDTH)


def test_a_range_without_width_gets_one():
    made = Histogram(4, 0.75)
    made.set_range(2.0, 2.0)
    assert (made.low.item(), made.high.item()) == (2.0, 3.0)


def test_the_range_is_saved():
    made, other = histogram(), Histogram(BINS, 0.75).double()
    other.load_state_dict(made.state_dict())
    assert (other.low.item(), other.high.item()) == (LOW, HIGH)
