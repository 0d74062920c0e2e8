"""Returns that a model predicts and asks for itself: the largest one that the data hold, and bins to draw from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """Weigh squared errors by |τ − 1(error < 0)| (Newey & Powell, 1987): (…) → (…).

    Args:
        errors: target − prediction.
        expectile: τ. With τ > ½ a prediction that is too small costs more, so that it tends to the largest target as τ
            tends to 1.
    """
    return torch.where(errors < 0, 1 - expectile, expectile) * errors.square()


class ReturnBins(nn.Module):
    """Evenly spaced bins over a range of returns; the highest bin holds the upper end only, as in Elastic DT's code.

    Attributes:
        bounds: (2,) buffer, the least and the largest return; 0 and 1 until `span` is called.
    """

    bounds: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("bounds", torch.tensor([0.0, 1.0]))

    def span(self, low: float, high: float) -> None:
        """Spread the bins from `low` to `high`."""
        self.bounds.copy_(torch.tensor([low, high]))

    def forward(self, returns: Tensor) -> Tensor:
        """Return the bins of returns (…) as (…) int64; returns outside the range are in the bins at its ends."""
        low, width = self.bounds[0], (self.bounds[1] - self.bounds[0]).clamp(min=1e-12)
        return ((returns - low) / width).clamp(0, 1).mul(self.count - 1).floor().long()

    def middles(self, bins: Tensor) -> Tensor:
        """Return the returns in the middle of bins: (…) int64 → (…) float32; they are in these bins."""
        return self.bounds[0] + (bins + 0.5) / (self.count - 1) * (self.bounds[1] - self.bounds[0])

    def centred(self, bins: Tensor) -> Tensor:
        """Return bins as numbers from −1 to 1, as a network takes them: (…) → (…)."""
        return bins * (2 / self.count) - 1


def expert_probabilities(logits: Tensor, weight: float, top_share: float) -> Tensor:
    """Return the probabilities of bins in the hands of an expert, p(bin) exp(weight · place of the bin in [0, 1]).

    It is the sampling of Lee et al. (2022, arXiv 2205.15241) as Elastic DT's code has it.

    Args:
        logits: (…, bins).
        weight: what the highest bin gains.
        top_share: bins below this quantile of the weighted logits get probability 0.
    """
    places = torch.linspace(0, 1, logits.shape[-1], device=logits.device)
    weighted = logits + weight * places
    least = weighted.quantile(top_share, dim=-1, keepdim=True)
    return weighted.masked_fill(weighted < least, -torch.inf).softmax(dim=-1)


def drawn(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw from distributions (…, bins) by uniform numbers (…) in [0, 1): the bins (…) int64 of the inverse CDF."""
    below = probabilities.cumsum(dim=-1) <= uniform[..., None]
    last = (probabilities > 0) * torch.arange(probabilities.shape[-1], device=probabilities.device)
    return torch.minimum(below.sum(dim=-1), last.amax(dim=-1))  # a sum of probabilities may round to less than 1
