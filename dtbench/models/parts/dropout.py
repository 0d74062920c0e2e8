"""Dropout whose masks cost little on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_WORDS = 1 << 16
#: Inside `side_by_side`: of each run, the numbers that seed its masks, in the order in which its lone run draws them.
_streams: list[Iterator[int]] = []


class Dropout(nn.Dropout):
    """`nn.Dropout` with other draws: a fifth of a training step of DT on a CPU went into its random numbers.

    The mask is a function of PyTorch's global generator. On other devices it is PyTorch's own.

    Inside `torch.compile` and `torch.vmap` the mask comes from one operator that neither looks into.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        if torch.compiler.is_compiling() or _streams:
            mask = keep_mask_like(input.detach(), self.p, torch.empty(0))
        else:
            mask = keep_mask(input.shape, self.p)
        kept = input * mask.to(input.dtype)
        kept *= 1 / (1 - self.p)
        return kept


def keep_mask(shape: torch.Size, p: float, seed: int | None = None) -> Tensor:
    """Draw which values stay, each with probability 1 − p up to 2⁻¹⁷: (…) uint8, 1 = stays.

    One 64-bit word of numpy's SFC64 gives four draws; its seed, if not given, comes from PyTorch's global generator.
    """
    count = shape.numel()
    if seed is None:
        seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    draws = np.random.SFC64(seed).random_raw((count + 3) // 4).view(np.uint16)[:count]
    return torch.from_numpy((draws >= round(p * _WORDS)).view(np.uint8)).view(shape)


@torch.library.custom_op("dtbench::keep_mask_like", mutates_args=())
def keep_mask_like(x: Tensor, p: float, call: Tensor) -> Tensor:
    """Draw the mask of `x` (…) as `keep_mask` does; under `torch.vmap`, one of each run that is side by side.

    Args:
        x: what the mask is for; only its shape counts.
        p: share to drop.
        call: an empty tensor made for this call: the compiler computes two calls with equal arguments once.
    """
    return keep_mask(x.shape, p)


@keep_mask_like.register_fake
def _(x: Tensor, p: float, call: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.uint8)


@keep_mask_like.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], x: Tensor, p: float, call: Tensor) -> tuple[Tensor, int]:
    shape = x.shape if in_dims[0] is None else x.movedim(in_dims[0], 0).shape[1:]
    return torch.stack([keep_mask(shape, p, next(stream)) for stream in _streams]), 0


@contextmanager
def side_by_side(seeds: Sequence[int], masks: int) -> Iterator[None]:
    """Let `Dropout`, inside a `torch.vmap` over runs, draw for each run the masks of its lone run.

    Args:
        seeds: what PyTorch's global generator is seeded with in each of the lone runs.
        masks: at least how many masks each of them draws.
    """
    for seed in seeds:
        numbers = torch.empty(masks, dtype=torch.int64).random_(generator=torch.Generator().manual_seed(seed))
        _streams.append(iter(numbers.tolist()))
    try:
        yield
    finally:
        _streams.clear()


def is_side_by_side() -> bool:
    """Say whether several runs are computed at once, inside `side_by_side`."""
    return bool(_streams)


def replace_dropouts(module: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` inside `module`, e.g. in what a library built."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
