"""GPT-2-DT, also called Wiki-RL (Reid et al., 2022, arXiv 2201.12122; machelreid/can-wikipedia-help-offline-rl)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dtbench.config import RunConfig
from dtbench.models.backbone.common import build_language_loss, load_for, prepare_backbone, reinit_heads
from dtbench.models.backbone.scratch import untrained_positions
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.actions import mean_over_real
from dtbench.models.parts.heads import ActionHead, SharedHead
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.options import SMALL, Gpt2DtConfig
from dtbench.models.parts.tokens import TrajectoryEmbedding
from dtbench.spaces import Spaces

_ROUNDS = 20


class Gpt2Dt(SequencePolicy):
    """GPT-2, all of it fine-tuned on trajectories, with the paper's alignment of trajectories and words."""

    Config = Gpt2DtConfig
    options: Gpt2DtConfig
    embedding: TrajectoryEmbedding
    centres: Tensor | None

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        backbone = load_for(options)
        tables, width = backbone.language, backbone.config.width
        self.initial_weights = options.describe_weights(backbone.description)
        self.embedding = TrajectoryEmbedding(self.spaces, width, norm_before_time=True, kind=options.embedding)
        self.trunk = backbone.build(lambda trunk, layer: Attention(trunk))
        reinit_heads(self.trunk, options.reinit_heads)
        if options.shared_projections:
            embed_action = self.embedding.embed_action
            assert isinstance(embed_action, nn.Linear | nn.Embedding)  # `Gpt2DtConfig` sees to it
            self.head: nn.Module = SharedHead(embed_action, options.tanh)
        else:
            self.head = ActionHead(width, self.spaces.action.size, options.tanh, options.head)
        if options.init == SMALL:
            shrink(self.embedding, self.head)
        if options.extended_positions:
            positions = untrained_positions(width) if tables is None else tables.positions
            with torch.no_grad():
                self.embedding.embed_timestep.weight.copy_(extend_positions(positions, self.spaces.max_timesteps))
        self.language = build_language_loss(options, backbone, learns=True, positions=True)
        aligned = options.alignment != "none" and options.alignment_weight > 0
        centres = word_centres(tables.words, options.alignment_centres) if aligned and tables is not None else None
        self.register_buffer("centres", centres)

    @classmethod
    def prepare(cls, options: Gpt2DtConfig) -> None:
        prepare_backbone(options)

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch)
        if self.language is not None:
            language = self.language(self.trunk, self.seed, self.step, self.global_rank)
            loss = loss + self.options.language_weight * language
            metrics["language_loss"] = language.detach()
        fading = alignment_schedule(self.step + 1, self.options.alignment_steps)  # the reference counts from 1
        weight = self.options.alignment_weight * fading
        if self.centres is not None and weight > 0:
            embedded = self.embedding.norm(self.embedding.content(batch))
            alignment = ALIGNMENTS[self.options.alignment](embedded, self.centres)
            aligned = -mean_over_real(alignment, batch["padding_mask"])
            loss = loss + weight * aligned
            metrics["alignment_loss"] = aligned.detach()
        return loss, metrics


def extend_positions(positions: Tensor, count: int) -> Tensor:
    """Lengthen a position table (n, d) to (count, d): rows 0 and 1 once, then rows 2 … n − 1 over and over."""
    rows = torch.arange(count)
    later = 2 + (rows - 2) % (len(positions) - 2)
    return positions[torch.where(rows < 2, rows, later)]


def alignment_schedule(step: int, steps: int) -> float:
    """Return 1 / (1 + exp(10 · step / steps − 5)): 0.993 at first, 0.5 after half of the steps, 0.007 after all."""
    return 1 / (1 + math.exp(min(700.0, 10 * step / steps - 5)))


def cosine_alignment(embedded: Tensor, centres: Tensor) -> Tensor:
    """Largest cosine of each token to a centre: (…, d) and (C, d) → (…)."""
    return (nn.functional.normalize(embedded, dim=-1) @ centres.T).amax(dim=-1)


def reference_alignment(embedded: Tensor, centres: Tensor) -> Tensor:
    """Mean over features j of the maximum over centres of e_j · c_j, as in the reference's code: (…, d), (C, d) → (…).

    Its einsum 'iaj,bj->iabj' keeps the feature axis. The largest product is e_j times the largest c_j where e_j is
    positive, and times the smallest elsewhere.
    """
    unit = nn.functional.normalize(embedded, dim=-1)
    return torch.where(unit > 0, unit * centres.amax(dim=0), unit * centres.amin(dim=0)).mean(dim=-1)


def word_centres(words: Tensor, count: int) -> Tensor:
    """Cluster the word table by cosine (spherical k-means): (V, d) → (min(count, V), d), of length 1."""
    if words.is_meta:
        return words[:count]
    words = nn.functional.normalize(words, dim=-1)
    generator = torch.Generator().manual_seed(0)
    centres = words[torch.randperm(len(words), generator=generator)[:count]]
    for _ in range(_ROUNDS):
        nearest = (words @ centres.T).argmax(dim=-1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, words)
        empty = torch.bincount(nearest, minlength=len(centres)) == 0
        centres = torch.where(empty[:, None], centres, nn.functional.normalize(sums, dim=-1))
    return centres


ALIGNMENTS = {"cosine": cosine_alignment, "reference": reference_alignment}
