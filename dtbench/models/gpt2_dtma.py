"""GPT2-DTMA: a GPT-2 whose first layer weighs its heads (arXiv 2409.06985, ICML 2025; Markov-Head-Offline-RL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dtbench.errors import ConfigError
from dtbench.models.base import SequenceConfig, SequencePolicy
from dtbench.models.mixers import Attention, HeadGatedAttention
from dtbench.models.pretrained import load_backbone
from dtbench.models.tokens import ActionHead, TrajectoryEmbedding
from dtbench.models.trunk import Trunk, TrunkConfig


@dataclass
class Gpt2DtmaConfig(SequenceConfig):
    """`layers`, `heads` and `width` hold for `backbone: scratch` only.

    Every `gate_every`-th step updates the gate alone, the steps between everything else; 0 trains all at once.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    activation: str = "gelu_new"
    backbone: str = "gpt2"
    gate_every: int = 20


class Gpt2Dtma(SequencePolicy):
    """GPT-2, fully fine-tuned, with a linear gate per head in layer 0 and alternating updates of gate and rest."""

    Config = Gpt2DtmaConfig

    def __init__(self, config: Mapping[str, Any], dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        if options.gate_every < 0 or options.gate_every == 1:
            raise ConfigError(f"model.gate_every must be 0 or at least 2, not {options.gate_every}.")
        scratch = TrunkConfig(
            width=options.width,
            layers=options.layers,
            heads=options.heads,
            activation=options.activation,
            residual_dropout=options.dropout,
        )
        backbone = load_backbone(options.backbone, scratch, options.dropout)
        self._weights = backbone.description
        width = backbone.config.width
        self.embedding = TrajectoryEmbedding(
            dims["observation_dim"], dims["action_dim"], width, dims["max_timesteps"], norm_before_time=True
        )
        self.trunk = Trunk(
            backbone.config, mixer=lambda trunk, layer: HeadGatedAttention(trunk) if layer == 0 else Attention(trunk)
        )
        backbone.load_into(self.trunk)
        self.head = ActionHead(width, dims["action_dim"], options.tanh)

    @property
    def weights(self) -> str:
        return self._weights

    @property
    def gate(self) -> nn.Linear:
        """The head gate of layer 0."""
        mixer = self.trunk.blocks[0].mixer
        assert isinstance(mixer, HeadGatedAttention)
        return mixer.gate

    def parameter_groups(self) -> list[dict[str, Any]]:
        gate = list(self.gate.parameters())
        gate_ids = {id(parameter) for parameter in gate}
        return [{"params": gate}, {"params": [p for p in self.parameters() if id(p) not in gate_ids]}]

    def is_gate_step(self, step: int) -> bool:
        """Say whether the (0-based) step updates the gate alone: every `gate_every`-th does."""
        every = self.options.gate_every
        return every > 0 and (step + 1) % every == 0

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Clipping takes all parameters together, as in the reference; then those whose turn it is not lose their
        # gradient, and AdamW leaves them alone: no step, no decay, no moment update. That equals the reference's two
        # optimisers, with one warm-up for both (the reference's backbone has none).
        super().configure_gradient_clipping(optimizer)
        if self.options.gate_every:
            gate, rest = (group["params"] for group in optimizer.param_groups)
            for parameter in rest if self.is_gate_step(self.step) else gate:
                parameter.grad = None
