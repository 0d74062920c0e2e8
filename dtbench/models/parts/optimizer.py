"""AdamW, and how its learning rate changes over a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from dtbench.config import OptimizerConfig


def adamw(groups: Sequence[dict[str, Any]], options: OptimizerConfig, steps: int) -> dict[str, Any]:
    """Return AdamW over parameter groups and the schedule of its rates over a training, as Lightning takes them."""

    def share(step: int) -> float:
        """Return the share of the rate that a (0-based) step has."""
        return rate_share(step, steps, options)

    optimizer = torch.optim.AdamW(
        list(groups),
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_share(step: int, steps: int, options: OptimizerConfig) -> float:
    """Return the share of the learning rate that the (0-based) step of a training of `steps` has.

    `cosine` counts a step's own windows as seen, as DT's Atari code counts its tokens (mingpt/trainer_atari.py).
    """
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    if options.decay == "none" or (options.decay == "cosine" and warm < 1):
        return warm
    if options.decay == "linear":
        return warm * max(options.decay_floor, 1 - step / (options.decay_length * steps))
    done = (step + 1 - options.warmup_steps) / max(1, options.decay_length * steps - options.warmup_steps)
    return max(options.decay_floor, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
