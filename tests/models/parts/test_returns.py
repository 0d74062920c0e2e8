"""Returns that a model asks for itself: against scipy's expectile, and plain loops over bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dtbench.models.parts.returns import ReturnBins, drawn, expectile_loss, expert_probabilities


@pytest.mark.parametrize("expectile", [0.5, 0.9, 0.99])
def test_the_loss_is_least_at_scipys_expectile(expectile):
    targets = np.random.default_rng(0).normal(size=200)
    guesses = torch.linspace(-3, 3, 6001)
    losses = expectile_loss(torch.from_numpy(targets)[:, None] - guesses, expectile).mean(dim=0)
    assert float(guesses[losses.argmin()]) == pytest.approx(scipy.stats.expectile(targets, expectile), abs=1e-3)


def test_the_loss_by_a_loop():
    errors = [-2.0, -0.5, 0.0, 1.0, 3.0]
    expected = [abs(0.7 - (error < 0)) * error**2 for error in errors]
    assert expectile_loss(torch.tensor(errors), 0.7).tolist() == pytest.approx(expected)


def test_bins_by_a_loop():
    bins, count, low, high = ReturnBins(7), 7, -2.0, 10.0
    bins.span(low, high)
    returns = [-5.0, -2.0, -0.1, 0.0, 1.99, 2.01, 9.99, 10.0, 25.0]
    width = (high - low) / (count - 1)
    expected = [math.floor((min(max(value, low), high) - low) / width) for value in returns]
    assert bins(torch.tensor(returns)).tolist() == expected
    assert expected[-2:] == [count - 1] * 2
    every = torch.arange(count)
    assert torch.equal(bins(bins.middles(every)), every)
    assert bins.centred(every).tolist() == pytest.approx([(bin - count / 2) / (count / 2) for bin in range(count)])


def test_the_upper_end_is_in_the_highest_bin_whatever_the_range():
    """The reference's floor division loses it on three of its four tasks."""
    for low, high in ((-0.020272305, 3.2343), (0.001629008, 4.5923), (-0.280178953, 12.135), (-0.3256, 3.8797)):
        bins = ReturnBins(60)
        bins.span(low, high)
        assert bins(torch.tensor([high])).tolist() == [59]


def test_a_range_of_one_return_has_one_bin():
    bins = ReturnBins(5)
    bins.span(3.0, 3.0)
    assert bins(torch.tensor([3.0])).tolist() == [0]
    assert bins.middles(torch.tensor([0])).tolist() == [3.0]


def test_probabilities_of_an_expert_by_a_loop():
    logits = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weighted = [float(logits[bin]) + 4.0 * bin / 8 for bin in range(9)]
    least = float(np.quantile(weighted, 0.3))
    masses = [math.exp(value) if value >= least else 0.0 for value in weighted]
    found = expert_probabilities(logits, 4.0, 0.3)
    assert found.tolist() == pytest.approx([mass / sum(masses) for mass in masses])
    assert (found == 0).sum() == 3  # the quantile lies at 2.4 of 8 gaps


def test_draws_have_the_probabilities():
    probabilities = torch.tensor([0.0, 0.5, 0.125, 0.0, 0.375, 0.0])
    uniform = (torch.arange(8000) + 0.5) / 8000
    counts = drawn(probabilities.expand(8000, 6), uniform).bincount(minlength=6)
    assert (counts / 8000).tolist() == probabilities.tolist()


def test_no_bin_without_probability_is_drawn():
    """At the ends of the interval, and where rounded probabilities sum to less than 1."""
    probabilities = torch.tensor([0.0, 0.3, 0.6999, 0.0])
    assert drawn(probabilities.expand(2, 4), torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]
