"""GPT2-DTMA: a GPT-2 whose first layer weighs its heads (arXiv 2409.06985, ICML 2025; Markov-Head-Offline-RL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtbench.config import RunConfig, require, require_one_of
from dtbench.errors import ConfigError
from dtbench.models.base import Window
from dtbench.models.gpt2 import Gpt2Config, Gpt2Policy
from dtbench.models.parts.mixers import Attention, HeadGatedAttention
from dtbench.models.parts.trunk import Trunk, TrunkConfig


@dataclass
class Gpt2DtmaConfig(Gpt2Config):
    """Every `gate_every`-th step updates the gate alone, the steps between everything else; 0 trains all at once.

    `gate_data`: `same` as the other steps' (the paper's D4RL code), or `held_out`: the gate's steps draw from
    `held_out_share` of the trajectories and the others from the rest (its PointMaze code).
    """

    embedding: str = "mlp"
    head: str = "mlp"
    tanh: bool = False
    gate_every: int = 20
    gate_data: str = "same"
    held_out_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.gate_data", self.gate_data, ("same", "held_out"))
        is_possible = self.gate_every == 0 or self.gate_every >= 2
        require(is_possible, "model.gate_every", "must be 0 or at least 2", self.gate_every)
        require(0 < self.held_out_share < 1, "model.held_out_share", "must lie in (0, 1)", self.held_out_share)
        if self.gate_data == "held_out" and not self.gate_every:
            raise ConfigError("model.gate_data=held_out needs model.gate_every > 0.")


class Gpt2Dtma(Gpt2Policy):
    """GPT-2, fully fine-tuned, with a linear gate per head in layer 0 and alternating updates of gate and rest."""

    Config = Gpt2DtmaConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        if not isinstance(self.trunk, Trunk):
            raise ConfigError(f"GPT2-DTMA gates the heads of a GPT-2; backbone {self.initial_weights} is not one.")

    def make_mixer(self, config: TrunkConfig, layer: int) -> nn.Module:
        return HeadGatedAttention(config) if layer == 0 else Attention(config)

    @property
    def gated(self) -> HeadGatedAttention:
        """The attention of layer 0."""
        mixer = self.trunk.blocks[0].mixer
        assert isinstance(mixer, HeadGatedAttention)
        return mixer

    @property
    def gate(self) -> nn.Linear:
        """The head gate of layer 0."""
        return self.gated.gate

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch)
        gates, real = self.gated.last_gates, batch["padding_mask"]
        if gates is None or self.language is not None:  # the last forward pass was over text
            return loss, metrics
        real = real.repeat_interleave(gates.shape[-1] // real.shape[1], dim=1)
        means = gates.movedim(1, -1)[real].abs().mean(dim=0)
        return loss, metrics | {f"gate_{head}": value for head, value in enumerate(means)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        gate = list(self.gate.parameters())
        gate_ids = {id(parameter) for parameter in gate}
        rest = [p for p in self.parameters() if id(p) not in gate_ids and p.requires_grad]
        return [{"params": gate}, {"params": rest}]

    def is_gate_step(self, step: int) -> bool:
        """Say whether the (0-based) step updates the gate alone: every `gate_every`-th does."""
        every = self.options.gate_every
        return every > 0 and (step + 1) % every == 0

    @property
    def held_out_share(self) -> float:
        return self.options.held_out_share if self.options.gate_data == "held_out" else 0.0

    def is_held_out_step(self, step: int) -> bool:
        return self.held_out_share > 0 and self.is_gate_step(step)

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
