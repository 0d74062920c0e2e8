"""LaMo (Shi et al., 2024, arXiv 2310.20587, ICLR 2024; srzer/LaMo-2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from dtbench.config import RunConfig, require, require_one_of, require_positive
from dtbench.errors import ConfigError
from dtbench.models.gpt2 import Gpt2Config, Gpt2Policy

#: Names of the maps of queries, keys and values: ours, and those of the models of `transformers`.
LORA_TARGETS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")


@dataclass
class LamoConfig(Gpt2Config):
    """MLP embeddings and head, and a frozen GPT-2 with LoRA.

    Attributes:
        trained: `lora` (low-rank updates of queries, keys and values, and their biases), `full`, or `frozen`: what of
            the backbone learns; embeddings and head always do.
        lora_rank: the rank for EACH of queries, keys and values.
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


class Lamo(Gpt2Policy):
    """A language model kept as it is, but for low-rank updates of its attention, between MLPs that learn."""

    Config = LamoConfig
    language_learns = False

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        if options.trained != "full":
            self.trunk.requires_grad_(False)
        if options.trained == "lora":
            add_lora(self.trunk, options.lora_rank, options.lora_alpha, options.lora_dropout)


def add_lora(trunk: nn.Module, rank: int, alpha: int, dropout: float) -> None:
    """Put low-rank updates, scaled by alpha / rank, beside the maps of queries, keys and values of every layer.

    The trunk is frozen but for them and the biases of those maps (`bias='lora_only'` in the reference).

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
