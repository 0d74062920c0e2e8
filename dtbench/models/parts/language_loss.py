"""The auxiliary language loss of LaMo (arXiv 2310.20587, eq. 5) and of GPT-2-DT's co-training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtbench.models.parts.memory import Numbers, trunk_bytes

#: Draws token ids (B, T) int64 for (seed, step, rank).
DrawText = Callable[[int, int, int], Tensor]


@dataclass(frozen=True)
class LanguageTables:
    """A language model's own input: word table (V, width), which is its output too, and positions (n, width)."""

    words: Tensor
    positions: Tensor


class LanguageLoss(nn.Module):
    """Next-token cross-entropy of text through the policy's trunk, between the language model's own tables.

    Args:
        tables: word and position table.
        draw: draws the text of a step.
        text_shape: (B, T) of that text, for an estimate of memory.
        learns: whether the tables are trained (GPT-2-DT) or kept (LaMo).
        positions: whether positions are added to the words. LaMo's D4RL code adds none: its `to_add_position_embeds` is
            never set.
    """

    def __init__(
        self, tables: LanguageTables, draw: DrawText, text_shape: tuple[int, int], *, learns: bool, positions: bool
    ) -> None:
        super().__init__()
        self.words = nn.Parameter(tables.words.clone(), requires_grad=learns)
        self.positions = nn.Parameter(tables.positions.clone(), requires_grad=learns) if positions else None
        self.draw, self.text_shape = draw, text_shape

    def forward(self, trunk: nn.Module, seed: int, step: int, rank: int) -> Tensor:
        """Return the loss of the step's text."""
        return self.cross_entropy(trunk, self.draw(seed, step, rank).to(self.words.device))

    def cross_entropy(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        """(B, T) int64 token ids → mean cross-entropy of tokens 1 … T − 1, in nats."""
        tokens = self.words[ids]
        if self.positions is not None:
            tokens = tokens + self.positions[: ids.shape[1]]
        hidden = trunk(tokens, torch.ones_like(ids, dtype=torch.bool))
        logits = hidden[:, :-1] @ self.words.T
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    def activation_bytes(self, trunk: nn.Module, numbers: Numbers) -> int:
        """Estimate what a forward pass keeps for the backward pass: the trunk's part, and three times the logits."""
        batch, tokens = self.text_shape
        logits = 3 * batch * tokens * len(self.words) * numbers.bytes_per_value
        return trunk_bytes(trunk, batch, tokens, tokens, numbers) + logits
