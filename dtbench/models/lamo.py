"""LaMo (Shi et al., 2024, arXiv 2310.20587, ICLR 2024; srzer/LaMo-2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from dtbench.config import RunConfig, require, require_one_of, require_positive
from dtbench.errors import ConfigError
from dtbench.models.backbone.config import BackboneConfig, build_language_loss, prepare_backbone, reinit_heads
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.dropout import replace_dropouts
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import SMALL, shrink
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.tokens import TrajectoryEmbedding

#: Names of the maps of queries, keys and values: ours, and those of the models of `transformers`.
LORA_TARGETS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")


@dataclass
class LamoConfig(BackboneConfig):
    """MLP embeddings and head, and a frozen GPT-2 with LoRA.

    Attributes:
        trained: which weights of the backbone are trained: `lora` (low-rank updates of queries, keys and values, and
            their biases), `full` or `frozen`. Embeddings and head are always trained.
        lora_rank: rank of the update for each of queries, keys and values.
        lora_alpha: updates are scaled by lora_alpha / lora_rank.
        lora_dropout: dropout of the updates' input.
    """

    embedding: str = "mlp"
    head: str = "mlp"
    tanh: bool = False
    trained: str = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.trained", self.trained, ("lora", "full", "frozen"))
        require_positive("model", self, "lora_rank", "lora_alpha")
        require(0 <= self.lora_dropout < 1, "model.lora_dropout", "must lie in [0, 1)", self.lora_dropout)


class Lamo(SequencePolicy):
    """A frozen language model with low-rank updates of its attention, between trained MLPs."""

    Config = LamoConfig
    options: LamoConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        backbone = options.load()
        width = backbone.config.width
        self.initial_weights = options.describe_weights(backbone.description)
        self.embedding = TrajectoryEmbedding(
            dims["observation_dim"],
            dims["action_dim"],
            width,
            dims["max_timesteps"],
            norm_before_time=True,
            kind=options.embedding,
        )
        self.trunk = backbone.build(lambda trunk, layer: Attention(trunk))
        reinit_heads(self.trunk, options.reinit_heads)
        self.head = ActionHead(width, dims["action_dim"], options.tanh, options.head)
        self.language = build_language_loss(options, backbone, learns=False, positions=False)
        if options.trained != "full":
            self.trunk.requires_grad_(False)
        if options.trained == "lora":
            add_lora(self.trunk, options.lora_rank, options.lora_alpha, options.lora_dropout)
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


def add_lora(trunk: nn.Module, rank: int, alpha: int, dropout: float) -> None:
    """Add low-rank updates, scaled by alpha / rank, to the maps of queries, keys and values of every layer.

    Everything else of the trunk is frozen, except the biases of those maps (`bias='lora_only'` in the reference).

    Raises:
        ConfigError: the backbone has no such maps.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rpartition(".")[2] for name, _ in trunk.named_modules()}
    targets = [name for name in LORA_TARGETS if name in names]
    if not targets:
        raise ConfigError(f"LoRA finds none of {', '.join(LORA_TARGETS)} in this backbone; set model.trained=full.")
    options = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="lora_only")
    inject_adapter_in_model(options, trunk)
    replace_dropouts(trunk)
