"""Dropout whose masks cost little on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

_WORDS = 1 << 16


class Dropout(nn.Dropout):
    """`nn.Dropout` with other draws: a fifth of a training step of DT on a CPU went into its random numbers.

    The mask is a function of PyTorch's global generator. On other devices it is PyTorch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        return (input * keep_mask(input.shape, self.p).to(input.dtype)) * (1 / (1 - self.p))


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """Draw which values stay, each with probability 1 − p up to 2⁻¹⁷: (…) uint8, 1 = stays.

    One 64-bit word of numpy's SFC64 gives four draws; its seed comes from PyTorch's global generator.
    """
    count = shape.numel()
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    draws = np.random.SFC64(seed).random_raw((count + 3) // 4).view(np.uint16)[:count]
    return torch.from_numpy((draws >= round(p * _WORDS)).view(np.uint8)).view(shape)


def replace_dropouts(module: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` inside `module`, e.g. in what a library built."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
