"""From a window to tokens: embeddings of return, state and action, their time, and their order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dtbench.models.parts.actions import ResidualTable
from dtbench.models.parts.observations import FrameEncoder
from dtbench.models.parts.options import ATARI
from dtbench.spaces import Continuous, Discrete, Frames, Spaces, Vector

#: Tokens per time step and the place of the state among them: R̂_0 s_0 a_0 R̂_1 s_1 a_1 …
TOKENS_PER_STEP = 3
STATE_TOKENS = slice(1, None, TOKENS_PER_STEP)
LAST_STATE_TOKEN = slice(-2, -1)
#: Of a window's last two steps, the tokens that the last step adds when it is acted in: a_{t−1} R̂_t s_t.
NEW_TOKENS = slice(TOKENS_PER_STEP - 1, 2 * TOKENS_PER_STEP - 1)
#: Where the state comes first, s_0 R̂_0 a_0 s_1 …, returns are predicted from its token and actions from the return's.
RETURN_FROM, ACTION_FROM = slice(0, None, TOKENS_PER_STEP), slice(1, None, TOKENS_PER_STEP)


class ResidualBlock(nn.Module):
    """h = W₀x + b₀, out = W₁ GELU(h) + b₁ + h: LaMo's MLP embedding. The residual is in its code, not in its paper."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(nn.functional.gelu(hidden)) + hidden


#: By the names of the option `model.embedding`.
EMBEDDINGS = {"linear": nn.Linear, "mlp": ResidualBlock}


def embed_observations(space: Vector | Frames, width: int, kind: str = "linear") -> nn.Module:
    """Return the embedding of observations; frames pass convolutions first, and with `mlp` a residual block then."""
    if isinstance(space, Vector):
        return EMBEDDINGS[kind](space.size, width)
    encoder = FrameEncoder(space, width)
    return nn.Sequential(encoder, ResidualBlock(width, width)) if kind == "mlp" else encoder


def embed_actions(space: Continuous | Discrete, width: int, kind: str = "linear") -> nn.Module:
    """Return the embedding of actions: a map of their numbers, or a table with a row per action."""
    if isinstance(space, Continuous):
        return EMBEDDINGS[kind](space.size, width)
    return ResidualTable(space.count, width) if kind == "mlp" else nn.Embedding(space.count, width)


def places(token_mask: Tensor) -> Tensor:
    """Count tokens from the first real one: (B, T) bool, True = real → (B, T) int64; 0 where padded."""
    return (token_mask.cumsum(dim=1) - 1).clamp(min=0)


def by_length(padding_mask: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Group windows by their number of real steps, which in an evaluation is the same for all.

    Args:
        padding_mask: (B, K) bool, True = real.

    Yields:
        Rows (n,) int64, and how many real steps each of them ends with.
    """
    filled = padding_mask.sum(dim=1)
    for count in filled.unique().tolist():
        yield (filled == count).nonzero()[:, 0], count


def first_returns_only(token_mask: Tensor) -> Tensor:
    """Mark all tokens but the returns behind a window's first, where the state comes first: (B, T) → (B, T) bool."""
    place = places(token_mask)
    return (place % TOKENS_PER_STEP != 1) | (place == 1)


class TokenEmbedding(nn.Module, ABC):
    """Turns a window of K steps into 3K tokens in the order R̂ s a."""

    embed_return: nn.Module
    embed_state: nn.Module
    embed_action: nn.Module

    @abstractmethod
    def forward(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed and interleave a window of K steps.

        Args:
            window: observations (B, K, …), actions (B, K, action size) or (B, K) int64, returns_to_go (B, K),
                timesteps (B, K) int64 and padding_mask (B, K) bool, True = real.

        Returns:
            Tokens (B, 3K, width) in the order R̂ s a, and their mask (B, 3K) bool.
        """

    def for_acting(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed a window whose last action is to be chosen; as in training, unless the published code differs."""
        tokens: tuple[Tensor, Tensor] = self(window)
        return tokens

    def content(self, window: dict[str, Tensor]) -> Tensor:
        """Embed R̂, s and a, without their time: (B, K, 3, width). States that are embedded already are `features`."""
        return torch.stack(
            (
                self.embed_return(window["returns_to_go"][..., None]),
                window["features"] if "features" in window else self.embed_state(window["observations"]),
                self.embed_action(window["actions"]),
            ),
            dim=2,
        )


class TrajectoryEmbedding(TokenEmbedding):
    """Embeddings of (R̂, s, a), one learned vector per time step, and one LayerNorm shared by all tokens.

    The papers differ in two places: DT and DC add the time vector before the LayerNorm (`norm_before_time=False`),
    GPT-2-DT, LaMo and GPT2-DTMA after it (`norm_before_time=True`); and the last two embed with a residual block
    (`kind="mlp"`) where the others use a linear map. The initial weights are PyTorch's defaults, as in all reference
    repositories.
    """

    def __init__(self, spaces: Spaces, width: int, norm_before_time: bool, kind: str = "linear") -> None:
        super().__init__()
        self.embed_return = EMBEDDINGS[kind](1, width)
        self.embed_state = embed_observations(spaces.observation, width, kind)
        self.embed_action = embed_actions(spaces.action, width, kind)
        self.embed_timestep = nn.Embedding(spaces.max_timesteps, width)
        self.norm = nn.LayerNorm(width)
        self.norm_before_time = norm_before_time
        self.positions: nn.Parameter | None = None

    def add_positions(self, positions: Tensor, trained: bool) -> None:
        """Add vectors (3K, width) to the finished tokens, by their place in the window."""
        self.positions = nn.Parameter(positions.clone(), requires_grad=trained)

    def forward(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        time = self.embed_timestep(window["timesteps"])[:, :, None]
        tokens = self.content(window)
        tokens = self.norm(tokens) + time if self.norm_before_time else self.norm(tokens + time)
        token_mask = window["padding_mask"].repeat_interleave(TOKENS_PER_STEP, dim=1)
        if self.positions is None:
            return tokens.flatten(1, 2), token_mask
        return tokens.flatten(1, 2) + self.positions[places(token_mask)], token_mask


class StateFirstEmbedding(TrajectoryEmbedding):
    """Tokens of models that predict the return to ask for: s R̂ a, each with its time vector, then one LayerNorm."""

    def __init__(self, spaces: Spaces, width: int) -> None:
        super().__init__(spaces, width, norm_before_time=False)

    def content(self, window: dict[str, Tensor]) -> Tensor:
        """Embed s, R̂ and a, without their time: (B, K, 3, width)."""
        returns, states, actions = super().content(window).unbind(dim=2)
        return torch.stack((states, returns, actions), dim=2)

    def return_token(self, returns: Tensor, timesteps: Tensor) -> Tensor:
        """Return the token R̂ of one step of each window, as in `forward`: (B,) and (B,) int64 → (B, 1, width)."""
        token: Tensor = self.norm(self.embed_return(returns[:, None]) + self.embed_timestep(timesteps))
        return token[:, None]


class MinGptEmbedding(TokenEmbedding):
    """Tokens of the Atari code of DT and DC, which comes from minGPT (kzl/decision-transformer, atari/mingpt).

    Each embedding is bounded by tanh. A token's position is the sum of two learned vectors, which start at 0: one for
    its place in the window, and one for the time of the whole window: the first step's in training, and the current
    step's when it acts. There is no LayerNorm before the trunk. Times after the longest episode of the data share the
    last vector.
    """

    def __init__(self, spaces: Spaces, width: int, context_length: int) -> None:
        super().__init__()
        self.embed_return = nn.Sequential(nn.Linear(1, width), nn.Tanh())
        self.embed_state = nn.Sequential(embed_observations(spaces.observation, width), nn.Tanh())
        action = embed_actions(spaces.action, width)
        if isinstance(action, nn.Embedding):
            nn.init.normal_(action.weight, std=0.02)
        self.embed_action = nn.Sequential(action, nn.Tanh())
        self.positions = nn.Parameter(torch.zeros(TOKENS_PER_STEP * context_length + 1, width))
        self.times = nn.Parameter(torch.zeros(spaces.longest_episode + 1, width))

    def forward(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._tokens(window, window["timesteps"].masked_fill(~window["padding_mask"], len(self.times)).amin(1))

    def for_acting(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._tokens(window, window["timesteps"][:, -1])

    def _tokens(self, window: dict[str, Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a window whose time is `time` (B,)."""
        token_mask = window["padding_mask"].repeat_interleave(TOKENS_PER_STEP, dim=1)
        position = self.positions[places(token_mask)] + self.times[time.clamp(max=len(self.times) - 1)][:, None]
        return self.content(window).flatten(1, 2) + position, token_mask


def trained_tokens(spaces: Spaces, width: int, context_length: int, code: str) -> TokenEmbedding:
    """Return the tokens of DT and DC as in one of their two published codes (`options.TOKENS`)."""
    if code == ATARI:
        return MinGptEmbedding(spaces, width, context_length)
    return TrajectoryEmbedding(spaces, width, norm_before_time=False)
