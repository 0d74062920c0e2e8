"""What GPT-2-DT, LaMo and GPT2-DTMA have in common: the choice of a backbone, and an auxiliary language loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from dtbench.config import require, require_not_negative, require_one_of, require_positive
from dtbench.errors import ConfigError
from dtbench.models.backbone.load import Backbone, load_backbone
from dtbench.models.backbone.text import WIKITEXT, TextBatches, open_text
from dtbench.models.base import SequenceConfig
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.tokens import EMBEDDINGS
from dtbench.models.parts.trunk import Trunk

#: GPT-2's own dropouts of embeddings and attention weights, which the reference repositories leave as they are.
_GPT2_DROPOUT = 0.1


@dataclass
class BackboneConfig(SequenceConfig):
    """A pretrained backbone and what is put around it. `layers`, `heads` and `width` apply to `scratch` only.

    Attributes:
        dropout: GPT-2's `resid_pdrop`.
        backbone: see `backbone.load.load_backbone`.
        embedding: `linear` or `mlp`.
        head: `linear` or `mlp`.
        reinit_heads: heads of layer 0 whose query weights are drawn again, the probe of arXiv 2409.06985.
        language_weight: λ of the auxiliary language loss; at 0 no text is read and no language forward pass happens.
        text: a file or folder of .txt or .txt.gz, or `wikitext-103` from the hub.
        text_batch: sequences of text per step.
        text_context: tokens per sequence, at most the backbone's.
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
        require(are_indices, "model.reinit_heads", "must be indices of heads, counted from 0", list(self.reinit_heads))

    def load(self) -> Backbone:
        """Load the backbone that these options name."""
        scratch = replace(self.trunk(), embedding_dropout=_GPT2_DROPOUT, attention_dropout=_GPT2_DROPOUT)
        return load_backbone(self.backbone, scratch, self.dropout)


def prepare_backbone(options: BackboneConfig) -> None:
    """Fetch or make a backbone, and its text if there is a language loss, before any run.

    Raises:
        ConfigError: the backbone cannot be read, or is not a language model although there is a language loss.
        SourceError: backbone or text is not available; the message names alternatives.
    """
    backbone = options.load()
    if options.language_weight > 0:
        open_text(options.text, backbone, options.text_context)


def build_language_loss(
    options: BackboneConfig, backbone: Backbone, *, learns: bool, positions: bool
) -> LanguageLoss | None:
    """Build the language loss between the backbone's own tables; None if its weight is 0.

    Args:
        learns: whether the word and position tables are trained.
        positions: whether positions are added to the words.

    Raises:
        ConfigError: the backbone is not a language model.
    """
    if options.language_weight == 0:
        return None
    if backbone.language is None:
        raise ConfigError(
            f"model.language_weight > 0 needs a pretrained GPT-2, and backbone {backbone.description} is none."
        )
    batches = TextBatches(options.text, backbone, options.text_batch, options.text_context)
    shape = (options.text_batch, min(options.text_context, len(backbone.language.positions)))
    return LanguageLoss(backbone.language, batches, shape, learns=learns, positions=positions)


def reinit_heads(trunk: nn.Module, heads: list[int]) -> None:
    """Draw the query weights of some heads of layer 0 again and set their biases to 0.

    GPT2-DTMA's probe of commit 39b5c79: Xavier's normal distribution over the (width, head width) slice, whose standard
    deviation is 0.049 in GPT-2 small.

    Raises:
        ConfigError: there is no such head, or the trunk is not ours.
    """
    if not heads:
        return
    if not isinstance(trunk, Trunk):
        raise ConfigError("model.reinit_heads needs a GPT-2 backbone.")
    count = trunk.config.heads
    if not all(0 <= head < count for head in heads):
        raise ConfigError(f"model.reinit_heads={list(heads)}: the backbone's layer 0 has heads 0 to {count - 1}.")
    mixer = trunk.blocks[0].mixer
    assert isinstance(mixer, Attention)
    with torch.no_grad():
        for head in heads:
            nn.init.xavier_normal_(mixer.query.weight.view(count, -1, trunk.config.width)[head])
            nn.init.zeros_(mixer.query.bias.view(count, -1)[head])
