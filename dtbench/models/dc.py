"""Decision ConvFormer (Kim et al., 2024, arXiv 2310.03022, ICLR 2024; beanie00/Decision-ConvFormer)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dtbench.config import RunConfig, require_one_of, require_positive
from dtbench.models.base import SequenceConfig, SequencePolicy
from dtbench.models.parts.heads import trained_head
from dtbench.models.parts.initial_weights import SMALL, shrink
from dtbench.models.parts.mixers import Attention, CausalConvolution
from dtbench.models.parts.tokens import GYM, TOKENS, trained_tokens
from dtbench.models.parts.trunk import Trunk, TrunkConfig
from dtbench.spaces import Spaces


@dataclass
class DecisionConvFormerConfig(SequenceConfig):
    """Size of the trunk and its convolutions.

    Attributes:
        window: tokens that a filter spans.
        hybrid: whether the last layer attends instead (the paper's hybrid, which only its Atari code has); `heads`
            applies to that layer only.
        projection: a linear map with dropout after each convolution (`--conv_proj` of its Atari code).
        tokens: `gym`, or `atari`: which of the two published codes tokens and head follow; both are DT's.
    """

    width: int = 256
    activation: str = "gelu"
    window: int = 6
    hybrid: bool = False
    projection: bool = False
    tokens: str = GYM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", self, "window")
        require_one_of("model.tokens", self.tokens, TOKENS)


class DecisionConvFormer(SequencePolicy):
    """DT with a causal convolution per kind of token instead of attention."""

    Config = DecisionConvFormerConfig
    options: DecisionConvFormerConfig

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        self.embedding = trained_tokens(self.spaces, options.width, self.context_length, options.tokens)

        def mixer(trunk: TrunkConfig, layer: int) -> nn.Module:
            if options.hybrid and layer == trunk.layers - 1:
                return Attention(trunk)
            return CausalConvolution(trunk, options.window, options.projection)

        self.trunk = Trunk(replace(options.trunk(), scaled_residuals=False), mixer)
        self.head = trained_head(options.width, self.spaces.action.size, options.tanh, options.tokens)
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head)
