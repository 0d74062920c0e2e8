"""Values by classification: HL-Gauss (Imani and White, 2018; Farebrother et al., 2024, arXiv 2403.03950)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Where the bins lie before `set_range`: the published range of clipped Atari rewards.
_LOW, _HIGH = -10.0, 10.0


class Histogram(nn.Module):
    """Bins of equal width over a range of values, and the cross-entropy against a target's Gaussian over them.

    A bin's probability is the share of N(y, σ²) between its edges, divided by the share between `low` and `high`
    (equation 3.3). A target beyond the range counts as its end: in the published code its probabilities are 0 / 0.

    Args:
        bins: number of bins.
        smoothing: σ in widths of a bin.

    Attributes:
        low, high: () float32, the ends of the range, in the checkpoint.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bins: int, smoothing: float) -> None:
        super().__init__()
        self.bins, self.smoothing = bins, smoothing
        self.register_buffer("low", torch.tensor(_LOW))
        self.register_buffer("high", torch.tensor(_HIGH))

    def set_range(self, low: float, high: float) -> None:
        """Spread the bins over [low, high]; over [low, low + 1] where all returns are equal."""
        self.low.fill_(low)
        self.high.fill_(high if high > low else low + 1)

    def probabilities(self, values: Tensor) -> Tensor:
        """Return the target distributions of values: (…) → (…, bins)."""
        edges, width = self._edges()
        sigma = self.smoothing * width
        below = torch.erf((edges - values.clamp(self.low, self.high)[..., None]) / (math.sqrt(2) * sigma))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def mean(self, logits: Tensor) -> Tensor:
        """Return the values that logits stand for, the mean of the bins' centres: (…, bins) → (…)."""
        edges, width = self._edges()
        return (functional.softmax(logits, dim=-1) * (edges[:-1] + width / 2)).sum(dim=-1)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of logits against the distributions of values: (…, bins) and (…) → (…)."""
        return -(self.probabilities(values) * functional.log_softmax(logits, dim=-1)).sum(dim=-1)

    def _edges(self) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins (bins + 1,) and their width ()."""
        width = (self.high - self.low) / self.bins
        return self.low + width * torch.arange(self.bins + 1, device=width.device), width
