"""The auxiliary language loss of LaMo (arXiv 2310.20587, eq. 5) and of GPT-2-DT's co-training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtbench.models.parts.trunk import Trunk


@dataclass(frozen=True)
class LanguageTables:
    """A language model's own input: word table (V, width), which is its output too, and positions (n, width)."""

    words: Tensor
    positions: Tensor


class LanguageLoss(nn.Module):
    """Next-token cross-entropy of text through the policy's trunk, between the language model's own tables.

    Args:
        learns: whether the tables are trained (GPT-2-DT) or kept (LaMo).
    """

    def __init__(self, tables: LanguageTables, learns: bool) -> None:
        super().__init__()
        self.words = nn.Parameter(tables.words.clone(), requires_grad=learns)
        self.positions = nn.Parameter(tables.positions.clone(), requires_grad=learns)

    def forward(self, trunk: Trunk, ids: Tensor) -> Tensor:
        """(B, T) int64 token ids → mean cross-entropy of tokens 1 … T − 1, in nats."""
        tokens = self.words[ids] + self.positions[: ids.shape[1]]
        hidden = trunk(tokens, torch.ones_like(ids, dtype=torch.bool))
        logits = hidden[:, :-1] @ self.words.T
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
