"""From numbers to bins and back, each dimension by itself (JannerM/trajectory-transformer, utils/discretization.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Discretizer(nn.Module):
    """N bins in each of D dimensions, between N + 1 edges that are taken from data. Before that they span [−1, 1].

    A number's bin is the last one whose left edge is not above it; numbers outside fall into the outermost bins. A bin
    stands for its middle. Bins are equally full (`quantile`) or equally wide (`uniform`). Where many numbers are equal,
    quantiles coincide and leave bins between them empty.

    Args:
        dimensions: D.
        bins: N.
        kind: `quantile` or `uniform`.

    Attributes:
        edges: (D, N + 1) float32, a buffer.
    """

    edges: Tensor

    def __init__(self, dimensions: int, bins: int, kind: str) -> None:
        super().__init__()
        self.bins, self.kind = bins, kind
        self.register_buffer("edges", torch.linspace(-1, 1, bins + 1).repeat(dimensions, 1))

    @torch.no_grad()
    def fit(self, values: Tensor, first: int = 0) -> None:
        """Take the edges of some dimensions from data.

        Args:
            values: (n, D') float32, of the dimensions from `first` on.
            first: see `values`.
        """
        edges = quantile_edges if self.kind == "quantile" else uniform_edges
        self.edges[first : first + values.shape[1]] = edges(values, self.bins)

    def encode(self, values: Tensor, first: int = 0) -> Tensor:
        """Return the bins of numbers: (…, D') float32, of the dimensions from `first` on → (…, D') int64."""
        edges = self.edges[first : first + values.shape[-1]]
        columns = values.to(edges.dtype).reshape(-1, values.shape[-1]).mT.contiguous()
        bins = torch.searchsorted(edges, columns, right=True) - 1
        return bins.clamp(0, self.bins - 1).mT.reshape(values.shape)

    def decode(self, bins: Tensor, first: int = 0) -> Tensor:
        """Return the middles of bins: (…, D') int64, of the dimensions from `first` on → (…, D') float32.

        Bins that do not exist, such as a model's stop token, stand for the last one.
        """
        middles = self.middles[first : first + bins.shape[-1]]
        columns = bins.clamp(0, self.bins - 1).reshape(-1, bins.shape[-1]).mT
        return middles.gather(1, columns).mT.reshape(bins.shape)

    @property
    def middles(self) -> Tensor:
        """The middles of all bins: (D, N) float32."""
        return (self.edges[:, :-1] + self.edges[:, 1:]) / 2


def quantile_edges(values: Tensor, bins: int) -> Tensor:
    """Return edges between which there are equally many numbers: (n, D) → (D, bins + 1).

    As in the reference: every ⌈n / bins⌉-th of the sorted numbers, and the largest. Of fewer than bins² numbers that
    can be fewer edges; the largest number is then repeated.
    """
    count = len(values)
    places = torch.arange(bins + 1, device=values.device) * -(-count // bins)
    places[-1] = count - 1
    return values.sort(dim=0).values[places.clamp(max=count - 1)].mT


def uniform_edges(values: Tensor, bins: int) -> Tensor:
    """Return equally distant edges from the smallest to the largest number: (n, D) → (D, bins + 1)."""
    low, high = values.amin(dim=0)[:, None], values.amax(dim=0)[:, None]
    share = torch.linspace(0, 1, bins + 1, device=values.device)
    return torch.where(share < 1, low + share * (high - low), high)
