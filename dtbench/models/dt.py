"""Decision Transformer (Chen et al., 2021, arXiv 2106.01345; kzl/decision-transformer, gym/ and atari/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dtbench.config import RunConfig
from dtbench.models.base import SequencePolicy
from dtbench.models.parts.heads import trained_head
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention, SingleHeadAttention
from dtbench.models.parts.options import SMALL, DecisionTransformerConfig
from dtbench.models.parts.tokens import trained_tokens
from dtbench.models.parts.trunk import Trunk
from dtbench.spaces import Spaces


class DecisionTransformer(SequencePolicy):
    """A small GPT-2 trained from random weights: 3 layers, 1 head, width 128, ReLU, dropout 0.1 in the paper."""

    Config = DecisionTransformerConfig
    options: DecisionTransformerConfig

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        self.embedding = trained_tokens(self.spaces, options.width, self.context_length, options.tokens)
        attention = SingleHeadAttention if options.heads == 1 else Attention
        self.trunk = Trunk(replace(options.trunk(), scaled_residuals=False), lambda trunk, layer: attention(trunk))
        self.head = trained_head(options.width, self.spaces.action.size, options.tanh, options.tokens)
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head)
