"""Bins: what a number loses by them, and their edges against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dtbench.models.parts.discretizer import Discretizer, quantile_edges, uniform_edges

BINS = 8


def data(count: int = 400, seed: int = 0) -> torch.Tensor:
    """A normal dimension, a skewed one, and one of few values."""
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=count), rng.exponential(size=count), rng.integers(0, 20, count)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def fitted(kind: str, values: torch.Tensor | None = None) -> Discretizer:
    values = data() if values is None else values
    discretizer = Discretizer(values.shape[1], BINS, kind)
    discretizer.fit(values)
    return discretizer


def test_quantiles_are_the_defining_loop():
    """As its code defines them: every ⌈n / N⌉-th of the sorted numbers, and the largest."""
    values = data(403)
    for column in range(values.shape[1]):
        ordered = sorted(values[:, column].tolist())
        expected = [ordered[i] for i in range(0, len(ordered), -(-len(ordered) // BINS))] + [ordered[-1]]
        assert quantile_edges(values, BINS)[column].tolist() == expected


def test_quantile_bins_are_equally_full():
    values = torch.randperm(1000).float()[:, None]
    counts = fitted("quantile", values).encode(values).flatten().bincount(minlength=BINS)
    assert counts.tolist() == [1000 // BINS] * BINS


def test_fewer_numbers_than_bins_leave_bins_empty():
    edges = quantile_edges(torch.tensor([[2.0], [1.0], [3.0]]), BINS)
    assert edges.tolist() == [[1.0, 2.0] + [3.0] * (BINS - 1)]


def test_uniform_edges_are_equally_distant():
    values = data()
    for column, edges in enumerate(uniform_edges(values, BINS)):
        low, high = values[:, column].min().item(), values[:, column].max().item()
        assert edges.tolist() == pytest.approx(np.linspace(low, high, BINS + 1).tolist(), rel=1e-5, abs=1e-6)
        assert (edges[0].item(), edges[-1].item()) == (low, high)


@pytest.mark.parametrize("kind", ["quantile", "uniform"])
def test_a_number_is_reconstructed_within_half_its_bin(kind):
    values, discretizer = data(), fitted(kind)
    bins = discretizer.encode(values)
    assert (bins.min().item(), bins.max().item()) == (0, BINS - 1)
    widths = (discretizer.edges[:, 1:] - discretizer.edges[:, :-1]).mT.gather(0, bins)
    error = (discretizer.decode(bins) - values).abs()
    assert bool((error <= widths / 2 + 1e-6).all())  # float32 of numbers below 20
    assert error.max() > 0.1  # bins do lose something


@pytest.mark.parametrize("kind", ["quantile", "uniform"])
def test_the_middle_of_a_bin_falls_into_it(kind):
    discretizer = fitted(kind, data()[:, :2])  # without equal numbers no bin is empty
    bins = torch.arange(BINS)[:, None].expand(-1, 2)
    assert torch.equal(discretizer.encode(discretizer.decode(bins)), bins)


def test_a_bin_is_the_last_one_whose_left_edge_is_not_above():
    discretizer, values = fitted("quantile"), data(seed=1)
    found = discretizer.encode(values)
    for row in range(50):
        for column in range(values.shape[1]):
            edges = discretizer.edges[column].tolist()
            places = [place for place in range(BINS) if edges[place] <= values[row, column].item()]
            assert found[row, column].item() == (places[-1] if places else 0)


def test_what_is_outside_falls_into_the_outermost_bins():
    discretizer = fitted("uniform")
    far = torch.tensor([[-1e6] * 3, [1e6] * 3])
    assert discretizer.encode(far).tolist() == [[0] * 3, [BINS - 1] * 3]
    assert torch.equal(discretizer.decode(torch.full((3,), BINS)), discretizer.decode(torch.full((3,), BINS - 1)))


def test_single_dimensions_are_encoded_with_their_own_bins():
    discretizer, values = fitted("quantile"), data(seed=2)
    bins = discretizer.encode(values)
    assert torch.equal(discretizer.encode(values[:, 1:], 1), bins[:, 1:])
    assert torch.equal(discretizer.decode(bins[:, 1:], 1), discretizer.decode(bins)[:, 1:])


def test_bins_travel_in_the_state_dict():
    fresh = Discretizer(3, BINS, "quantile")
    assert fresh.edges[0].tolist() == pytest.approx(np.linspace(-1, 1, BINS + 1).tolist())
    fresh.load_state_dict(fitted("quantile").state_dict())
    assert torch.equal(fresh.encode(data()), fitted("quantile").encode(data()))
