"""What GPT-2-DT, LaMo and GPT2-DTMA have in common: a backbone, and an auxiliary language loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dtbench.errors import ConfigError
from dtbench.models.backbone.load import Backbone, load_backbone
from dtbench.models.backbone.text import TextBatches, open_text
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.options import BackboneConfig
from dtbench.models.parts.trunk import Trunk

#: GPT-2's own dropouts of embeddings and attention weights, which the reference repositories leave as they are.
_GPT2_DROPOUT = 0.1


def load_for(options: BackboneConfig) -> Backbone:
    """Load the backbone that the options name."""
    scratch = replace(options.trunk(), embedding_dropout=_GPT2_DROPOUT, attention_dropout=_GPT2_DROPOUT)
    return load_backbone(options.backbone, scratch, options.dropout)


def prepare_backbone(options: BackboneConfig) -> None:
    """Fetch or make a backbone, and its text if there is a language loss, before any run.

    Raises:
        ConfigError: the backbone cannot be read, or is not a language model although there is a language loss.
        SourceError: backbone or text is not available; the message names alternatives.
    """
    backbone = load_for(options)
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
