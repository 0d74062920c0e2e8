"""Backbones without pretrained weights, and the options in brackets behind a backbone's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from dtbench.errors import ConfigError
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import Trunk

Options = TypeVar("Options")


@dataclass(frozen=True)
class ScratchOptions:
    """The options of `scratch(…)`: the symmetric start of `pretrain.PretrainSettings`, without the pretraining.

    Attributes:
        symmetric_heads: heads of layer 0 that start with keys equal to queries, and so with W_q W_kᵀ positive
            semi-definite; with a large deviation they are Markov heads.
        symmetric_std: standard deviation of their weights.
    """

    symmetric_heads: int = 0
    symmetric_std: float = 0.3

    def __post_init__(self) -> None:
        if self.symmetric_heads < 0 or not 0 < self.symmetric_std < float("inf"):
            raise ConfigError("scratch(…) needs symmetric_heads of at least 0 and a positive, finite symmetric_std.")

    @property
    def description(self) -> str:
        """What a table adds to the trunk's size."""
        return f", {self.symmetric_heads} symmetric" if self.symmetric_heads else ""

    def apply(self, trunk: Trunk) -> None:
        """Draw the symmetric heads again; whatever is drawn afterwards is what it would have been without them."""
        if not self.symmetric_heads:
            return
        mixer, count = trunk.blocks[0].mixer, trunk.config.heads
        if not isinstance(mixer, Attention) or self.symmetric_heads > count:
            raise ConfigError(f"scratch(symmetric_heads={self.symmetric_heads}): layer 0 has {count} heads.")
        rows = self.symmetric_heads * trunk.config.width // count
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            mixer.query.weight[:rows].normal_(std=self.symmetric_std)
            mixer.key.weight[:rows] = mixer.query.weight[:rows]


def is_named(name: str, kind: str) -> bool:
    """Say whether a backbone's name is `kind` or `kind(…)`."""
    return re.fullmatch(rf"{kind}(\(.*\))?", name) is not None


def options_in(name: str, options: type[Options]) -> Options:
    """Read the brackets of `kind(key=value,…)` into a dataclass.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    kind, _, inside = name.rstrip(")").partition("(")
    words = [word.strip() for word in inside.split(",") if word.strip()]
    known = OmegaConf.structured(options)
    try:
        read = OmegaConf.to_object(OmegaConf.merge(known, OmegaConf.from_dotlist(words)))
    except OmegaConfBaseException as error:
        example = ",".join(f"{key}={value}" for key, value in known.items())
        raise ConfigError(f"Backbone {name!r}: {str(error).splitlines()[0]}; the form is {kind}({example}).") from error
    assert isinstance(read, options)
    return read


def untrained_positions(width: int) -> Tensor:
    """Draw a position table as an untrained GPT-2 has it: (1024, width), N(0, 0.02)."""
    return 0.02 * torch.randn(1024, width)
