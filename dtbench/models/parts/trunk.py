"""The one pre-LayerNorm trunk of DT and of all that differ from it in the token mixer, which has a slot here.

It is GPT-2 (Radford et al., 2019) without word table and position table: with the same weights it equals
`transformers.GPT2Model` on `inputs_embeds` with a zeroed position table (tests/models/test_trunk.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

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
        post_norm: whether a block normalises after each of its two sums (`PostNormBlock`), with nothing at the end.
        small_maps: whether maps start at N(0, 0.02) with zero biases, as in GPT-2, instead of PyTorch's defaults.
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
    post_norm: bool = False
    small_maps: bool = True

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
        seen: (B, T) bool, the real tokens that attention may look at; None means all of them.
    """

    real: Tensor
    seen: Tensor | None = None
    _made: list[Tensor] = field(default_factory=list)

    @classmethod
    def with_bias(cls, real: Tensor, bias: Tensor) -> TokenMask:
        """Return a mask of tokens that attend to others than `attention_mask` says.

        Args:
            real: (B, T) bool.
            bias: what attention adds to its scores, broadcast to (B, heads, T, T).
        """
        return cls(real, _made=[bias])

    @property
    def bias(self) -> Tensor:
        """What attention adds to its scores: (B, 1, T, T) float32, [b, 0, i, j] 0 where i sees j, −∞ elsewhere.

        It is made when it is first asked for. `cached_property` has a lock, at which `torch.compile` stops.
        """
        if not self._made:
            self._made.append(torch.where(attention_mask(self.real, self.seen), 0.0, -torch.inf)[:, None])
        return self._made[0]


#: Makes the mixer of one layer: (config, layer index) → module(x, mask, select) of `mixers.py`.
MixerFactory = Callable[[TrunkConfig, int], nn.Module]
#: What a trunk of recurrent mixers carries from step to step: (count, …) of each layer, a row per sequence.
State = tuple[Tensor, ...]


class RecurrentMixer(nn.Module, ABC):
    """A mixer that can also go on from a state that stands for all tokens before, however many these are.

    Padding stands before a sequence's first real token only, and leaves the state at its initial value.

    Attributes:
        values_per_token: values that it keeps for the backward pass per token, beyond as many as attention keeps.
    """

    values_per_token: int = 0

    @abstractmethod
    def initial_state(self, count: int) -> Tensor:
        """Return the state of `count` sequences before their first token: (count, …)."""

    @abstractmethod
    def step(self, x: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the next tokens of each sequence, in evaluation mode.

        Args:
            x: (B, n, width), after the block's first LayerNorm.
            real: (B, n) bool, True = real.
            state: (B, …), of the tokens before.

        Returns:
            (B, n, width), equal to the mixer's output for these tokens in a call with all of them; and the state.
        """


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
        return self._add(x if select is None else x[:, select], self.mixer(self._to_mix(x), mask, select))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """Compute tokens that follow those of the cache: (B, T, width) → (B, T, width)."""
        mixed: Tensor = self.mixer.extend(self._to_mix(x), cache, layer)  # type: ignore[operator]
        return self._add(x, mixed)

    def step(self, x: Tensor, real: Tensor, state: Tensor, select: slice | None = None) -> tuple[Tensor, Tensor]:
        """Do as `forward` with the next tokens of each sequence, and a `RecurrentMixer` (see there)."""
        assert isinstance(self.mixer, RecurrentMixer)
        mixed, state = self.mixer.step(self._to_mix(x), real, state)
        if select is not None:
            x, mixed = x[:, select], mixed[:, select]
        return self._add(x, mixed), state

    def _to_mix(self, x: Tensor) -> Tensor:
        return self.mixer_norm(x)

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + mixed.to(x.dtype)  # a sum of two types is slow on a CPU
        inner = self.activation(self.mlp_in(self.mlp_norm(x)))
        return x + self.dropout(self.mlp_out(inner)).to(x.dtype)


class PostNormBlock(Block):
    """x ← LN(x + mixer(x)); x ← LN(x + MLP(x)): the block of Vaswani et al. (2017, arXiv 1706.03762)."""

    def _to_mix(self, x: Tensor) -> Tensor:
        return x

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.mixer_norm(x + mixed.to(x.dtype))
        inner = self.activation(self.mlp_in(x))
        return self.mlp_norm(x + self.dropout(self.mlp_out(inner)).to(x.dtype))


class Trunk(nn.Module):
    """A stack of blocks and a final LayerNorm."""

    def __init__(self, config: TrunkConfig, mixer: MixerFactory) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.embedding_dropout)
        block_type = PostNormBlock if config.post_norm else Block
        self.blocks = nn.ModuleList(block_type(config, mixer(config, index)) for index in range(config.layers))
        self.final_norm = nn.Identity() if config.post_norm else nn.LayerNorm(config.width, eps=config.norm_eps)
        if config.small_maps:
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
            seen: (B, T) bool, the real tokens that attention may look at; all of them if it is not given.

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

    def initial_state(self, count: int) -> State:
        """Return the state of `count` sequences before their first token; all mixers are `RecurrentMixer`."""
        mixers: list[Any] = [block.mixer for block in self.blocks]
        return tuple(mixer.initial_state(count) for mixer in mixers)

    def step(self, tokens: Tensor, token_mask: Tensor, state: State, select: slice) -> tuple[Tensor, State]:
        """Run the next tokens of each sequence through the stack, in evaluation mode.

        Args:
            tokens: (B, n, width) float.
            token_mask: (B, n) bool, True = real.
            state: of the tokens before, as `initial_state` or the last call returned it.
            select: the positions whose output is wanted.

        Returns:
            (B, n', width), as from `forward` with all tokens so far; and the state after these.
        """
        x, after, blocks = tokens, [], list[Any](self.blocks)
        for block, before in zip(blocks, state, strict=True):
            x, part = block.step(x, token_mask, before, select if block is blocks[-1] else None)
            after.append(part)
        return self.final_norm(x), tuple(after)


def attention_mask(token_mask: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return who may look at whom: (B, T) bool, True = real → (B, T, T) bool, [b, i, j] True = i sees j.

    Causal, and padding is never seen, except by itself: a row without any True would be NaN in the softmax. Of the real
    tokens those outside `seen` (B, T), if it is given, are not seen either, not even by themselves.
    """
    length = token_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=token_mask.device)
    if seen is None:
        return (causal & token_mask[:, None, :]) | itself
    return (causal & (token_mask & seen)[:, None, :]) | (itself & ~token_mask[:, None, :])


def _init_gpt2(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
