"""LaMo (Shi et al., 2024, arXiv 2310.20587, ICLR 2024; srzer/LaMo-2023: experiment-d4rl and experiment-atari)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dtbench.config import RunConfig
from dtbench.errors import ConfigError
from dtbench.models.backbone.common import build_language_loss, load_for, prepare_backbone, reinit_heads
from dtbench.models.backbone.load import Backbone
from dtbench.models.backbone.scratch import untrained_positions
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.dropout import replace_dropouts
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.options import GYM, SMALL, LamoConfig
from dtbench.models.parts.tokens import TOKENS_PER_STEP, TrajectoryEmbedding
from dtbench.spaces import Spaces

#: Names of the maps of queries, keys and values: ours, and those of the models of `transformers`.
LORA_TARGETS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")


class Lamo(SequencePolicy):
    """A frozen language model with low-rank updates of its attention, between trained MLPs."""

    Config = LamoConfig
    options: LamoConfig
    embedding: TrajectoryEmbedding

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        backbone = load_for(options)
        width = backbone.config.width
        self.initial_weights = options.describe_weights(backbone.description)
        self.embedding = TrajectoryEmbedding(
            self.spaces, width, norm_before_time=options.tokens == GYM, kind=options.embedding
        )
        if options.tokens != GYM:
            self.embedding.add_positions(_positions(backbone, self.context_length), trained=options.trained == "full")
        self.trunk = backbone.build(lambda trunk, layer: Attention(trunk))
        reinit_heads(self.trunk, options.reinit_heads)
        self.head = ActionHead(width, self.spaces.action.size, options.tanh, options.head)
        self.language = build_language_loss(options, backbone, learns=False, positions=False)
        if options.trained != "full":
            self.trunk.requires_grad_(False)
        if options.trained == "lora":
            add_lora(self.trunk, options)
        if options.init == SMALL:
            shrink(self.embedding, self.head)

    @classmethod
    def prepare(cls, options: LamoConfig) -> None:
        prepare_backbone(options)

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch)
        if self.language is not None:
            language = self.language(self.trunk, self.seed, self.step, self.global_rank)
            loss = loss + self.options.language_weight * language
            metrics["language_loss"] = language.detach()
        return loss, metrics


def _positions(backbone: Backbone, context_length: int) -> Tensor:
    """Return the backbone's vectors of the positions of a window's tokens: (3K, width); untrained ones of `scratch`.

    Raises:
        ConfigError: it has too few.
    """
    tables, needed = backbone.language, TOKENS_PER_STEP * context_length
    positions = untrained_positions(backbone.config.width) if tables is None else tables.positions
    if len(positions) < needed:
        raise ConfigError(
            f"model.tokens=atari: {backbone.description} has {len(positions)} positions, a window has {needed} "
            "tokens; lower training.context_length."
        )
    return positions[:needed]


def add_lora(trunk: nn.Module, options: LamoConfig) -> None:
    """Add low-rank updates, scaled by alpha / rank, to the maps of queries, keys and values of every layer.

    Everything else of the trunk is frozen, except the biases of those maps where `lora_biases` says so
    (`bias='lora_only'` in the D4RL code).

    Raises:
        ConfigError: the backbone has no such maps.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rpartition(".")[2] for name, _ in trunk.named_modules()}
    targets = [name for name in LORA_TARGETS if name in names]
    if not targets:
        raise ConfigError(f"LoRA finds none of {', '.join(LORA_TARGETS)} in this backbone; set model.trained=full.")
    settings = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        bias="lora_only" if options.lora_biases else "none",
    )
    inject_adapter_in_model(settings, trunk)
    if options.lora_shared:
        _share_first_maps(trunk)
    replace_dropouts(trunk)


def _share_first_maps(trunk: nn.Module) -> None:
    """Let the updates of a layer's queries, keys and values share their first map, that of the queries."""
    for attention in trunk.modules():
        if isinstance(attention, Attention):
            first: Any = attention.query
            for adapted in (attention.key, attention.value):
                adapted.lora_A = first.lora_A
