"""From the trunk's state tokens to actions, or to the logits of discrete ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.options import ATARI


class Float32Linear(nn.Linear):
    """A linear map that autocast leaves in float32: the last one, whose outputs are used as numbers (actions, values).

    bfloat16 keeps three digits of them, and the map is a small part of a model.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class ActionHead(nn.Module):
    """From a state token to an action or its logits: a linear map or an MLP, and with `tanh` bounded to [−1, 1]."""

    def __init__(self, width: int, outputs: int, tanh: bool = True, kind: str = "linear", bias: bool = True) -> None:
        super().__init__()
        hidden = [nn.Linear(width, width), nn.GELU()] if kind == "mlp" else []
        self.layers = nn.Sequential(*hidden, Float32Linear(width, outputs, bias))
        self.tanh = tanh

    def forward(self, state_tokens: Tensor) -> Tensor:
        """(…, width) → (…, outputs)."""
        actions = self.layers(state_tokens)
        return torch.tanh(actions) if self.tanh else actions


def trained_head(width: int, outputs: int, tanh: bool, code: str) -> ActionHead:
    """Return the head of DT and DC as in one of their two published codes (`options.TOKENS`)."""
    is_mingpt = code == ATARI
    head = ActionHead(width, outputs, tanh, bias=not is_mingpt)
    if is_mingpt:
        shrink(head)
    return head


class SharedHead(nn.Module):
    """a = tanh(Wᵀx) with the weight W of the embedding of actions (`--share_input_output_proj`).

    Of discrete actions, W is their table, as the word table is shared in a language model.
    """

    def __init__(self, embed_action: nn.Linear | nn.Embedding, tanh: bool) -> None:
        super().__init__()
        self._embed_action = [embed_action]  # in a list: the weight belongs to the embedding alone
        self.tanh = tanh

    def forward(self, state_tokens: Tensor) -> Tensor:
        """(…, width) → (…, action size)."""
        embedding = self._embed_action[0]
        weight = embedding.weight.mT if isinstance(embedding, nn.Embedding) else embedding.weight
        with torch.autocast(state_tokens.device.type, enabled=False):
            actions = state_tokens.to(weight.dtype) @ weight
        return torch.tanh(actions) if self.tanh else actions
