"""From a window to tokens and back: embeddings of return, state and action, their order, and the action head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Tokens per time step and the place of the state among them: R̂_0 s_0 a_0 R̂_1 s_1 a_1 …
TOKENS_PER_STEP = 3
STATE_TOKENS = slice(1, None, TOKENS_PER_STEP)
LAST_STATE_TOKEN = slice(-2, -1)


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


class TrajectoryEmbedding(nn.Module):
    """Embeddings of (R̂, s, a), one learned vector per time step, and one LayerNorm shared by all tokens.

    The papers differ in two places: DT and DC add the time vector before the LayerNorm (`norm_before_time=False`),
    GPT-2-DT, LaMo and GPT2-DTMA after it (`norm_before_time=True`); and the last two embed with a residual block
    (`kind="mlp"`) where the others use a linear map. The initial weights are PyTorch's defaults, as in all reference
    repositories.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        width: int,
        max_timesteps: int,
        norm_before_time: bool,
        kind: str = "linear",
    ) -> None:
        super().__init__()
        embed = EMBEDDINGS[kind]
        self.embed_return = embed(1, width)
        self.embed_state = embed(observation_dim, width)
        self.embed_action = embed(action_dim, width)
        self.embed_timestep = nn.Embedding(max_timesteps, width)
        self.norm = nn.LayerNorm(width)
        self.norm_before_time = norm_before_time

    def forward(self, window: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed and interleave a window of K steps.

        Args:
            window: observations (B, K, obs_dim), actions (B, K, action_dim), returns_to_go (B, K), timesteps (B, K)
                int64 and padding_mask (B, K) bool, True = real.

        Returns:
            Tokens (B, 3K, width) in the order R̂ s a, and their mask (B, 3K) bool.
        """
        time = self.embed_timestep(window["timesteps"])[:, :, None]
        tokens = self.content(window)
        tokens = self.norm(tokens) + time if self.norm_before_time else self.norm(tokens + time)
        return tokens.flatten(1, 2), window["padding_mask"].repeat_interleave(TOKENS_PER_STEP, dim=1)

    def content(self, window: dict[str, Tensor]) -> Tensor:
        """Embed R̂, s and a, without their time: (B, K, 3, width), before the LayerNorm."""
        return torch.stack(
            (
                self.embed_return(window["returns_to_go"][..., None]),
                self.embed_state(window["observations"]),
                self.embed_action(window["actions"]),
            ),
            dim=2,
        )
