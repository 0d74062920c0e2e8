"""Decision Transformer (Chen et al., 2021, arXiv 2106.01345; kzl/decision-transformer, gym/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dtbench.config import RunConfig
from dtbench.models.base import SequenceConfig, SequencePolicy
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import SMALL, shrink
from dtbench.models.parts.mixers import Attention, SingleHeadAttention
from dtbench.models.parts.tokens import TrajectoryEmbedding
from dtbench.models.parts.trunk import Trunk


class DecisionTransformer(SequencePolicy):
    """A small GPT-2 trained from random weights: 3 layers, 1 head, width 128, ReLU, dropout 0.1 in the paper."""

    Config = SequenceConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        self.embedding = TrajectoryEmbedding(
            dims["observation_dim"], dims["action_dim"], options.width, dims["max_timesteps"], norm_before_time=False
        )
        attention = SingleHeadAttention if options.heads == 1 else Attention
        self.trunk = Trunk(replace(options.trunk(), scaled_residuals=False), lambda trunk, layer: attention(trunk))
        self.head = ActionHead(options.width, dims["action_dim"], options.tanh)
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head)
