"""Target networks: slow copies, from which values are backed up."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move the weights of a target towards those of its source: θ′ ← θ′ + rate · (θ − θ′). Buffers stay."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, rate)
