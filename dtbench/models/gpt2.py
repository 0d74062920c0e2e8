"""What GPT-2-DT, LaMo and GPT2-DTMA share: a policy in the body of a pretrained language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dtbench.config import RunConfig, require, require_not_negative, require_one_of, require_positive
from dtbench.errors import ConfigError
from dtbench.models.backbone.load import Backbone, load_backbone
from dtbench.models.backbone.text import WIKITEXT, open_text
from dtbench.models.base import SequenceConfig, SequencePolicy, Window
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.tokens import EMBEDDINGS, TrajectoryEmbedding
from dtbench.models.parts.trunk import Trunk, TrunkConfig


@dataclass
class Gpt2Config(SequenceConfig):
    """A pretrained backbone and what is put around it. `layers`, `heads` and `width` hold for `scratch` only.

    Attributes:
        backbone: see `pretrained.load_backbone`.
        embedding, head: `linear` or `mlp`.
        reinit_heads: heads of layer 0 whose query weights are drawn anew, the probe of arXiv 2409.06985.
        language_weight: λ of the auxiliary language loss; at 0 no text is read and no language forward pass happens.
        text: a file or folder of .txt or .txt.gz, or `wikitext-103` from the hub.
        text_batch, text_context: sequences per step, and tokens per sequence (at most the backbone's).
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    activation: str = "gelu_new"
    backbone: str = "gpt2"
    embedding: str = "linear"
    head: str = "linear"
    reinit_heads: list[int] = field(default_factory=list)
    language_weight: float = 0.0
    text: str = WIKITEXT
    text_batch: int = 2
    text_context: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.embedding", self.embedding, EMBEDDINGS)
        require_one_of("model.head", self.head, EMBEDDINGS)
        require_not_negative("model", self, "language_weight")
        require_positive("model", self, "text_batch")
        require(self.text_context >= 2, "model.text_context", "must be at least 2", self.text_context)
        are_indices = all(head >= 0 for head in self.reinit_heads)
        require(are_indices, "model.reinit_heads", "must be numbers of heads, counted from 0", list(self.reinit_heads))

    def load(self) -> Backbone:
        """Load the backbone that these options name."""
        # `dropout` is `resid_pdrop`; the other two stay GPT-2's own, as in the reference repositories.
        scratch = replace(self.trunk(), embedding_dropout=0.1, attention_dropout=0.1)
        return load_backbone(self.backbone, scratch, self.dropout)


class Gpt2Policy(SequencePolicy):
    """Trajectory embeddings → GPT-2 → action head; LayerNorm before the time vector, GPT-2's positions unused."""

    Config = Gpt2Config

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options = self.options
        backbone = options.load()
        self.backbone = replace(backbone, weights=None)
        width = backbone.config.width
        self.embedding = TrajectoryEmbedding(
            dims["observation_dim"],
            dims["action_dim"],
            width,
            dims["max_timesteps"],
            norm_before_time=True,
            kind=options.embedding,
        )
        self.trunk = backbone.build(self.make_mixer)
        if options.reinit_heads:
            reinit_heads(self.trunk, options.reinit_heads)
        self.head = ActionHead(width, dims["action_dim"], options.tanh, options.head)
        self.language: LanguageLoss | None = None
        if options.language_weight > 0:
            if self.backbone.language is None:
                raise ConfigError(
                    f"model.language_weight > 0 needs a pretrained GPT-2; {self.initial_weights} is none."
                )
            self.language = LanguageLoss(self.backbone.language, self.language_learns)

    #: Whether the language model's own tables are trained by the language loss.
    language_learns = True

    def make_mixer(self, config: TrunkConfig, layer: int) -> nn.Module:
        """Make the token mixer of a layer."""
        return Attention(config)

    @classmethod
    def prepare(cls, options: Any) -> None:
        backbone = options.load()
        if options.language_weight > 0:
            open_text(options.text, backbone, options.text_context)

    @property
    def initial_weights(self) -> str:
        return self.backbone.description

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch)
        if self.language is None:
            return loss, metrics
        language = self.language(self.trunk, self._text_batch().to(loss.device))
        return loss + self.options.language_weight * language, {**metrics, "language_loss": language.detach()}

    def _text_batch(self) -> Tensor:
        options = self.options
        if not hasattr(self, "_text"):
            self._text = open_text(options.text, self.backbone, options.text_context)
        ids = self._text.batch(options.text_batch, seed=self.seed, step=self.step, rank=self.global_rank)
        return torch.from_numpy(ids)


def reinit_heads(trunk: Any, heads: list[int]) -> None:
    """Draw the query weights of some heads of layer 0 anew, N(0, 0.02), as GPT2-DTMA's `--reinit_markov_head`.

    Raises:
        ConfigError: no such head, or not our trunk.
    """
    if not isinstance(trunk, Trunk):
        raise ConfigError("model.reinit_heads needs a GPT-2 backbone.")
    count = trunk.config.heads
    if not all(0 <= head < count for head in heads):
        raise ConfigError(f"model.reinit_heads={list(heads)}: the backbone's layer 0 has heads 0 to {count - 1}.")
    first: Any = trunk.blocks[0]
    weight = first.mixer.query.weight
    with torch.no_grad():
        for head in heads:
            nn.init.normal_(weight.unflatten(0, (count, -1))[head], std=0.02)
