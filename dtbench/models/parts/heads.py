"""From the trunk's state tokens to actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear map that autocast leaves in float32: the last one, whose outputs are used as numbers (actions, values).

    bfloat16 keeps three digits of them, and the map is a small part of a model.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class ActionHead(nn.Module):
    """From a state token to an action: a linear map or an MLP, through tanh where actions lie in [−1, 1]."""

    def __init__(self, width: int, action_dim: int, tanh: bool = True, kind: str = "linear") -> None:
        super().__init__()
        hidden = [nn.Linear(width, width), nn.GELU()] if kind == "mlp" else []
        self.layers = nn.Sequential(*hidden, Float32Linear(width, action_dim))
        self.tanh = tanh

    def forward(self, state_tokens: Tensor) -> Tensor:
        """(…, width) → (…, action_dim)."""
        actions = self.layers(state_tokens)
        return torch.tanh(actions) if self.tanh else actions


class SharedHead(nn.Module):
    """a = tanh(Wᵀx) with the weight W of the embedding of actions (`--share_input_output_proj`)."""

    def __init__(self, embed_action: nn.Linear, tanh: bool) -> None:
        super().__init__()
        self._embed_action = [embed_action]  # in a list: the weight belongs to the embedding alone
        self.tanh = tanh

    def forward(self, state_tokens: Tensor) -> Tensor:
        """(…, width) → (…, action_dim)."""
        weight = self._embed_action[0].weight
        with torch.autocast(state_tokens.device.type, enabled=False):
            actions = state_tokens.to(weight.dtype) @ weight
        return torch.tanh(actions) if self.tanh else actions
