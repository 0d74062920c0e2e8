"""Decision ConvFormer (Kim et al., 2024, arXiv 2310.03022, ICLR 2024; beanie00/Decision-ConvFormer)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from dtbench.config import RunConfig
from dtbench.models.base import SequencePolicy
from dtbench.models.parts.heads import trained_head
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention, CausalConvolution
from dtbench.models.parts.options import SMALL, DecisionConvFormerConfig
from dtbench.models.parts.tokens import trained_tokens
from dtbench.models.parts.trunk import Trunk, TrunkConfig
from dtbench.spaces import Spaces


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
