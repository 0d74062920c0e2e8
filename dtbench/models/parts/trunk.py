"""The one pre-LayerNorm transformer trunk of DT, GPT-2-DT, LaMo, GPT2-DTMA and DC, with a slot for the token mixer.

It is GPT-2 (Radford et al., 2019) without word table and position table: with the same weights it equals
`transformers.GPT2Model` on `inputs_embeds` with a zeroed position table (tests/models/test_trunk.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.models.parts.activations import ACTIVATIONS
from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.parts.dropout import Dropout


@dataclass(frozen=True)
class TrunkConfig:
    """Size, dropouts and initial weights of a trunk.

    Attributes:
        inner_width: of the MLPs; None means 4 × width, as in GPT-2.
        scaled_residuals: whether the maps that are added to the residual stream start at 0.02 / √(2 · layers), as in
            GPT-2 and in later versions of `transformers`, instead of 0.02 like all others.
    """

    width: int
    layers: int
    heads: int
    activation: str = "gelu_new"
    inner_width: int | None = None
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    norm_eps: float = 1e-5
    scaled_residuals: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"A trunk's {name} must be at least 1, not {getattr(self, name)}.")
        if self.width % self.heads:
            raise ConfigError(f"A width of {self.width} cannot be split into {self.heads} heads of equal size.")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"A trunk's {name} must lie in [0, 1), not {getattr(self, name)}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Unknown activation {self.activation!r}: known are {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class TokenMask:
    """Which tokens are real, and what follows for attention; made once per forward pass, for all layers.

    Attributes:
        real: (B, T) bool, True = real.
    """

    real: Tensor
    _made: list[Tensor] = field(default_factory=list)

    @classmethod
    def with_bias(cls, real: Tensor, bias: Tensor) -> TokenMask:
        """Return a mask of tokens that attend to others than `attention_mask` says.

        Args:
            real: (B, T) bool.
            bias: what attention adds to its scores, broadcast to (B, heads, T, T).
        """
        return cls(real, [bias])

    @property
    def bias(self) -> Tensor:
        """What attention adds to its scores: (B, 1, T, T) float32, [b, 0, i, j] 0 where i sees j, −∞ elsewhere.

        It is made when it is first asked for. `cached_property` has a lock, at which `torch.compile` stops.
        """
        if not self._made:
            self._made.append(torch.where(attention_mask(self.real), 0.0, -torch.inf)[:, None])
        return self._made[0]


#: Makes the mixer of one layer: (config, layer index) → module(x, mask, select) of `mixers.py`.
MixerFactory = Callable[[TrunkConfig, int], nn.Module]


class Block(nn.Module):
    """x ← x + mixer(LN(x)); x ← x + MLP(LN(x))."""

    def __init__(self, config: TrunkConfig, mixer: nn.Module) -> None:
        super().__init__()
        inner = config.inner_width or 4 * config.width
        self.mixer_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mixer = mixer
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp_in = nn.Linear(config.width, inner)
        self.activation = ACTIVATIONS[config.activation]()
        self.mlp_out = nn.Linear(inner, config.width)
        self.dropout = Dropout(config.residual_dropout)

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        return self._add(x if select is None else x[:, select], self.mixer(self.mixer_norm(x), mask, select))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """Compute tokens that follow those of the cache: (B, T, width) → (B, T, width)."""
        mixed: Tensor = self.mixer.extend(self.mixer_norm(x), cache, layer)  # type: ignore[operator]
        return self._add(x, mixed)

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + mixed.to(x.dtype)  # a sum of two types is slow on a CPU
        inner = self.activation(self.mlp_in(self.mlp_norm(x)))
        return x + self.dropout(self.mlp_out(inner)).to(x.dtype)


class Trunk(nn.Module):
    """A stack of blocks and a final LayerNorm."""

    def __init__(self, config: TrunkConfig, mixer: MixerFactory) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config, mixer(config, index)) for index in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.apply(_init_gpt2)
        for block in self.blocks if config.scaled_residuals else ():
            for name, parameter in block.named_parameters():
                if name in ("mixer.output.weight", "mlp_out.weight"):
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.layers))

    def forward(self, tokens: Tensor, token_mask: Tensor | TokenMask, select: slice | None = None) -> Tensor:
        """Run the stack.

        Args:
            tokens: (B, T, width) float.
            token_mask: (B, T) bool, True = real; or a mask that says more.
            select: the positions whose output is wanted. The last block computes only those (everything before it
                needs all tokens), which saves a good part of it.

        Returns:
            (B, T, width), or (B, T', width) for the T' selected positions. Outputs at padding are meaningless.
        """
        mask = token_mask if isinstance(token_mask, TokenMask) else TokenMask(token_mask)
        x = self.dropout(tokens)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, select)
        return self.final_norm(x)

    def extend(self, tokens: Tensor, cache: KeyValueCache, unseen: Sequence[bool]) -> Tensor:
        """Compute tokens that follow those of the cache, which is extended by them; all mixers must be attention.

        Without padding it equals `forward` over all tokens, in evaluation mode (tests/models/parts/test_cache.py).

        Args:
            tokens: (B, T, width) float.
            cache: keys and values of the tokens before.
            unseen: of each of the T tokens, whether no token ever attends to it, not even itself.

        Returns:
            (B, T, width).
        """
        cache.begin(unseen, tokens.device)
        x = self.dropout(tokens)
        for layer, block in enumerate(self.blocks):
            x = cast(Block, block).extend(x, cache, layer)
        cache.end()
        return self.final_norm(x)


def attention_mask(token_mask: Tensor) -> Tensor:
    """Return who may look at whom: (B, T) bool, True = real → (B, T, T) bool, [b, i, j] True = i sees j.

    Causal, and padding is never seen, except by itself: a row without any True would be NaN in the softmax.
    """
    length = token_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=token_mask.device)
    return (causal & token_mask[:, None, :]) | itself


def _init_gpt2(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
