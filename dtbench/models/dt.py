"""Decision Transformer (Chen et al., 2021, arXiv 2106.01345; kzl/decision-transformer, gym/ and atari/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dtbench.config import RunConfig, require_one_of
from dtbench.models.base import SequenceConfig, SequencePolicy
from dtbench.models.parts.heads import trained_head
from dtbench.models.parts.initial_weights import SMALL, shrink
from dtbench.models.parts.mixers import Attention, SingleHeadAttention
from dtbench.models.parts.tokens import GYM, TOKENS, trained_tokens
from dtbench.models.parts.trunk import Trunk
from dtbench.spaces import Spaces


@dataclass
class DecisionTransformerConfig(SequenceConfig):
    """Size of the trunk, and which of the two published codes the tokens and the head follow.

    Attributes:
        tokens: `gym`, or `atari`, whose code comes from minGPT: see `parts.tokens.MinGptEmbedding`; its head has no
            bias and starts at N(0, 0.02).
    """

    tokens: str = GYM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.tokens", self.tokens, TOKENS)


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
