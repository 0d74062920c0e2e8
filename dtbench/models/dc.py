"""Decision ConvFormer (Kim et al., 2024, arXiv 2310.03022, ICLR 2024; beanie00/Decision-ConvFormer, gym/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from dtbench.config import RunConfig, require_positive
from dtbench.models.base import SequenceConfig, SequencePolicy
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import SMALL, shrink
from dtbench.models.parts.mixers import Attention, CausalConvolution
from dtbench.models.parts.tokens import TrajectoryEmbedding
from dtbench.models.parts.trunk import Trunk, TrunkConfig


@dataclass
class DecisionConvFormerConfig(SequenceConfig):
    """Size of the trunk and its convolutions.

    Attributes:
        window: tokens that a filter spans.
        hybrid: whether the last layer attends instead (the paper's hybrid, which only its Atari code has); `heads`
            applies to that layer only.
        projection: a linear map with dropout after each convolution (`--conv_proj` of its Atari code).
    """

    width: int = 256
    activation: str = "gelu"
    window: int = 6
    hybrid: bool = False
    projection: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", self, "window")


class DecisionConvFormer(SequencePolicy):
    """DT with a causal convolution per kind of token instead of attention."""

    Config = DecisionConvFormerConfig
    options: DecisionConvFormerConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        self.embedding = TrajectoryEmbedding(
            dims["observation_dim"], dims["action_dim"], options.width, dims["max_timesteps"], norm_before_time=False
        )

        def mixer(trunk: TrunkConfig, layer: int) -> nn.Module:
            if options.hybrid and layer == trunk.layers - 1:
                return Attention(trunk)
            return CausalConvolution(trunk, options.window, options.projection)

        self.trunk = Trunk(replace(options.trunk(), scaled_residuals=False), mixer)
        self.head = ActionHead(options.width, dims["action_dim"], options.tanh)
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head)
