"""Actions as bins, against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.parts.action_bins import ActionBins
from dtbench.spaces import Continuous

SPACE = Continuous((-1.0, 0.0, -3.0), (1.0, 0.5, 5.0))


def test_bins_divide_the_range_of_each_dimension():
    made = ActionBins(SPACE, 8)
    torch.manual_seed(0)
    actions = torch.rand(50, 3) * torch.tensor([2.4, 0.7, 10.0]) + torch.tensor([-1.2, -0.1, -4.0])
    bins = made(actions)
    for row in range(50):
        for dimension, (low, high) in enumerate(zip(SPACE.low, SPACE.high, strict=True)):
            edges = [low + (high - low) * edge / 8 for edge in range(1, 8)]
            assert bins[row, dimension] == sum(actions[row, dimension].item() >= edge for edge in edges)


def test_a_centre_lies_in_its_bin_and_an_action_within_half_a_width_of_it():
    made = ActionBins(SPACE, 256)
    every = torch.arange(256)[:, None].expand(-1, 3)
    assert torch.equal(made(made.centres(every)), every)
    actions = torch.rand(50, 3) * torch.tensor([2.0, 0.5, 8.0]) + torch.tensor([-1.0, 0.0, -3.0])
    off = (made.centres(made(actions)) - actions).abs()
    assert (off <= torch.tensor([2.0, 0.5, 8.0]) / 512 + 1e-6).all()


def test_both_bounds_are_actions():
    made = ActionBins(SPACE, 4)
    assert made(torch.tensor([SPACE.low, SPACE.high])).tolist() == [[0, 0, 0], [3, 3, 3]]


def test_infinite_bounds_are_refused():
    with pytest.raises(ConfigError, match="those of the task are infinite"):
        ActionBins(Continuous((-1.0, -math.inf), (1.0, 1.0)), 8)
