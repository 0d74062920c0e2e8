"""Continuous actions as whole numbers: each dimension divided evenly between its bounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.spaces import Continuous


class ActionBins(nn.Module):
    """`count` bins of equal width per dimension of an action.

    Raises:
        ConfigError: a bound of the actions is infinite.
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: Continuous, count: int) -> None:
        super().__init__()
        low, high = torch.tensor(space.low, device="cpu"), torch.tensor(space.high, device="cpu")
        if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
            raise ConfigError("This model divides actions between their bounds, and those of the task are infinite.")
        self.count = count
        self.register_buffer("low", low, persistent=False)  # they come from the spaces
        self.register_buffer("width", (high - low) / count, persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """Return each dimension's bin: (…, size) float → (…, size) int64; actions beyond a bound are in its bin."""
        return ((actions - self.low) / self.width).floor().long().clamp(0, self.count - 1)

    def centres(self, bins: Tensor) -> Tensor:
        """Return the middle of each dimension's bin: (…, size) int64 → (…, size) float."""
        return self.low + self.width * (bins + 0.5)
