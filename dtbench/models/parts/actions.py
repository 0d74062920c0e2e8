"""Actions of either kind: how a model embeds those of the past, and how its predictions are judged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.spaces import Continuous, Discrete


def mean_over_real(values: Tensor, padding_mask: Tensor) -> Tensor:
    """Average over the real steps: (B, K, …), and (B, K) bool with True = real → scalar.

    Unlike in `values[padding_mask].mean()` no shape depends on the mask: a GPU need not wait for it, and `torch.vmap`
    and `torch.compile` can take it.
    """
    real = padding_mask.reshape(*padding_mask.shape, *[1] * (values.dim() - padding_mask.dim()))
    return torch.where(real, values, 0.0).mean() * (padding_mask.numel() / padding_mask.sum())


def action_loss(
    space: Continuous | Discrete, predicted: Tensor, actions: Tensor, real: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Judge predicted actions against those of the data: squared error, or cross-entropy where they are discrete.

    Args:
        space: of the actions.
        predicted: (…, action size) float: actions, or logits.
        actions: (…, action size) float, or (…) int64.
        real: (…) bool, True = real; padding does not count.

    Returns:
        The scalar loss, and metrics by name: `action_mae`, or `action_accuracy`, the share of actions that have the
        largest logit.
    """
    if isinstance(space, Discrete):
        # The logarithm in float32: bfloat16 keeps three digits.
        log_likelihood = functional.log_softmax(predicted.float(), dim=-1)
        loss = -log_likelihood.gather(-1, actions[..., None])[..., 0]
        hit = (predicted.detach().argmax(dim=-1) == actions).float()
        return mean_over_real(loss, real), {"action_accuracy": mean_over_real(hit, real)}
    error = predicted - actions
    return mean_over_real(error.square(), real), {"action_mae": mean_over_real(error.detach().abs(), real)}


class ResidualTable(nn.Module):
    """LaMo's MLP embedding of discrete actions: a table in place of the first map of `ResidualBlock`."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table, self.second = nn.Embedding(count, width), nn.Linear(width, width)

    def forward(self, actions: Tensor) -> Tensor:
        """(…) int64 → (…, width)."""
        hidden = self.table(actions)
        return self.second(functional.gelu(hidden)) + hidden


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value without gradients over the processes that train together; alone, the value itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
