"""GPT2-DTMA: a GPT-2 whose first layer weighs its heads (arXiv 2409.06985, ICML 2025; Markov-Head-Offline-RL)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dtbench.config import RunConfig
from dtbench.errors import ConfigError
from dtbench.models.backbone.common import build_language_loss, load_for, prepare_backbone, reinit_heads
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention, HeadGatedAttention
from dtbench.models.parts.options import SMALL, Gpt2DtmaConfig
from dtbench.models.parts.tokens import TrajectoryEmbedding
from dtbench.spaces import Spaces


class Gpt2Dtma(SequencePolicy):
    """GPT-2, fully fine-tuned, with a linear gate per head in layer 0 and alternating updates of gate and rest."""

    Config = Gpt2DtmaConfig
    options: Gpt2DtmaConfig

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        backbone = load_for(options)
        if backbone.model_type != "gpt2":
            raise ConfigError(f"GPT2-DTMA gates the heads of a GPT-2, and backbone {backbone.description} is none.")
        width = backbone.config.width
        self.initial_weights = options.describe_weights(backbone.description)
        self.embedding = TrajectoryEmbedding(
            self.spaces, width, norm_before_time=not options.time_before_norm, kind=options.embedding
        )
        self.trunk = backbone.build(lambda trunk, layer: HeadGatedAttention(trunk) if layer == 0 else Attention(trunk))
        if not options.gate:
            self.gated_attention.gate = None
        reinit_heads(self.trunk, options.reinit_heads)
        self.head = ActionHead(width, self.spaces.action.size, options.tanh, options.head)
        if options.init == SMALL:
            shrink(self.embedding, self.head)
        self.language = build_language_loss(options, backbone, learns=True, positions=False)

    @classmethod
    def prepare(cls, options: Gpt2DtmaConfig) -> None:
        prepare_backbone(options)

    @property
    def gated_attention(self) -> HeadGatedAttention:
        """The attention of layer 0."""
        mixer = self.trunk.blocks[0].mixer
        assert isinstance(mixer, HeadGatedAttention)
        return mixer

    @property
    def gate(self) -> nn.Linear | None:
        """The head gate of layer 0, if there is one."""
        return self.gated_attention.gate

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch)
        weights, self.gated_attention.last_weights = self.gated_attention.last_weights, None
        if weights is not None:
            sizes = _gate_sizes(weights, batch["padding_mask"])
            metrics |= {f"gate_{head}": size for head, size in enumerate(sizes.unbind())}
        if self.language is not None:
            language = self.language(self.trunk, self.seed, self.step, self.global_rank)
            loss = loss + self.options.language_weight * language
            metrics["language_loss"] = language.detach()
        return loss, metrics

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.gate is None:
            return super().parameter_groups()
        rest = self._parameters_beside_the_gate(self.gate)
        return [*self.divided_by_decay(list(self.gate.parameters())), *self.divided_by_decay(rest)]

    def frozen_parameters(self, step: int) -> list[nn.Parameter]:
        """Return everything but the gate in a gate step, and the gate in the others.

        AdamW leaves a parameter without gradient alone: no step, no decay, no moment update. That equals the
        reference's two optimisers, with one warm-up for both (the reference's backbone has none).
        """
        if self.gate is None or not self.options.gate_every:
            return []
        gate = list(self.gate.parameters())
        return self._parameters_beside_the_gate(self.gate) if self.is_gate_step(step) else gate

    def _parameters_beside_the_gate(self, gate: nn.Linear) -> list[nn.Parameter]:
        of_gate = {id(parameter) for parameter in gate.parameters()}
        return [weight for weight in self.parameters() if id(weight) not in of_gate and weight.requires_grad]

    def is_gate_step(self, step: int) -> bool:
        """Say whether the (0-based) step updates the gate alone: every `gate_every`-th does."""
        every = self.options.gate_every if self.options.gate else 0
        return every > 0 and (step + 1) % every == 0

    @property
    def held_out_share(self) -> float:
        return self.options.held_out_share if self.options.gate_data == "held_out" else 0.0

    def is_held_out_step(self, step: int) -> bool:
        return self.held_out_share > 0 and self.is_gate_step(step)


def _gate_sizes(weights: Tensor, padding_mask: Tensor) -> Tensor:
    """Average |gate| over the real tokens: (B, heads, T) for T tokens of K steps, and (B, K) bool → (heads,)."""
    real = padding_mask.repeat_interleave(weights.shape[-1] // padding_mask.shape[1], dim=1)
    return (weights.abs() * real[:, None]).sum(dim=(0, 2)) / real.sum()
