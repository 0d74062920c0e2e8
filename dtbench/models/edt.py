"""Elastic Decision Transformer (Wu et al., 2023, arXiv 2307.02484, NeurIPS 2023; kristery/Elastic-DT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dtbench.config import RunConfig
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.actions import action_loss, mean_over_real
from dtbench.models.parts.heads import ActionHead, Float32Linear
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import HeadDropoutAttention
from dtbench.models.parts.options import SMALL, ElasticDecisionTransformerConfig
from dtbench.models.parts.returns import ReturnBins, drawn, expectile_loss, expert_probabilities
from dtbench.models.parts.tokens import ACTION_FROM, RETURN_FROM, STATE_TOKENS, StateFirstEmbedding, first_returns_only
from dtbench.models.parts.trunk import TokenMask, Trunk
from dtbench.spaces import Continuous, Spaces, Vector

if TYPE_CHECKING:
    from dtbench.data.windows import Windows

#: What a window holds of each step, apart from its mask and its return.
_STEPS = ("observations", "features", "actions", "timesteps")


class BinnedEmbedding(StateFirstEmbedding):
    """Tokens s R̂ a, of which R̂ shows its bin only, as a number from −1 to 1."""

    def __init__(self, spaces: Spaces, width: int, bins: int) -> None:
        super().__init__(spaces, width)
        self.bins = ReturnBins(bins)

    def content(self, window: Window) -> Tensor:
        return super().content({**window, "returns_to_go": self.bins.centred(self.bins(window["returns_to_go"]))})


class Outputs(NamedTuple):
    """What is predicted of each step of a window.

    Attributes:
        actions: (B, K, action size), from the token of the return.
        largest: (B, K), the largest return-to-go, from the token of the state.
        bins: (B, K, bins), logits of the return's bin, from the token of the state.
        following: (B, K, obs_dim), the next state, or None of frames.
    """

    actions: Tensor
    largest: Tensor
    bins: Tensor
    following: Tensor | None


class ElasticDecisionTransformer(SequencePolicy):
    """Chooses, when it acts, the length of history after which the data continue with the largest return.

    Tokens are s R̂ a; attention sees the return of a window's first step only. The value of a history is the expectile
    regression of the return-to-go at its last state (§3.2); the return to ask for is drawn from a distribution over
    bins that favours high ones. No return is asked for from outside.
    """

    Config = ElasticDecisionTransformerConfig
    options: ElasticDecisionTransformerConfig
    embedding: BinnedEmbedding

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options, seen, actions = self.options, self.spaces.observation, self.spaces.action.size
        self.embedding = BinnedEmbedding(self.spaces, options.width, options.bins)
        self.trunk = Trunk(options.trunk(), lambda trunk, layer: HeadDropoutAttention(trunk))
        tanh = options.tanh and isinstance(self.spaces.action, Continuous)  # logits are not bounded
        self.head = ActionHead(options.width, actions, tanh)
        self.return_head = Float32Linear(options.width, 1)
        self.bin_head = Float32Linear(options.width, options.bins)
        self.state_head = Float32Linear(options.width + actions, seen.size) if isinstance(seen, Vector) else None
        self.draws = self.context_length + 1
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head, self.return_head, self.bin_head)

    @property
    def window_options(self) -> dict[str, Any]:
        return {"next_observations": True} if self.state_head is not None else {}

    @property
    def stackable(self) -> bool:
        return False  # it looks at the data before it is trained

    def see_data(self, windows: Windows) -> None:
        """Spread the bins over the returns-to-go of the data."""
        self.embedding.bins.span(*windows.returns_to_go_range)

    def features(self, window: Window, until: int | None = None, select: slice | None = None) -> Tensor:
        """Run the trunk over the tokens before `until`: (B, T, width), or of the selected tokens."""
        tokens, token_mask = self.embedding(window)
        mask = TokenMask(token_mask[:, :until], first_returns_only(token_mask)[:, :until])
        features: Tensor = self.trunk(tokens[:, :until], mask, select)
        return features

    def forward(self, window: Window, select: slice = STATE_TOKENS) -> Tensor:
        """Predict the actions of a window that holds the data's returns: (B, K, action size)."""
        return self.head(self.features(window, select=select))

    def outputs(self, batch: Window) -> Outputs:
        """Predict everything of a window that holds the data's returns."""
        features = self.features(batch)
        of_state, of_return = features[:, RETURN_FROM], features[:, ACTION_FROM]
        actions = self.head(of_return)
        following = None
        if self.state_head is not None:
            following = self.state_head(torch.cat((of_return, actions.to(of_return.dtype)), dim=-1))
        return Outputs(actions, self.return_head(of_state)[..., 0], self.bin_head(of_state), following)

    def compile_training(self, **options: Any) -> bool:
        compiled: Any = torch.compile(self.outputs, dynamic=False, **options)
        self.outputs = compiled  # type: ignore[method-assign]
        return True

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        options, real, returns = self.options, batch["padding_mask"], batch["returns_to_go"]
        found = self.outputs(batch)
        cloning, metrics = action_loss(self.spaces.action, found.actions, batch["actions"], real)
        largest = mean_over_real(expectile_loss(returns - found.largest, options.expectile), real)
        log_likelihood = functional.log_softmax(found.bins, dim=-1).gather(-1, self.embedding.bins(returns)[..., None])
        bins = mean_over_real(-log_likelihood[..., 0], real)
        total = cloning + options.return_weight * largest + options.bins_weight * bins
        metrics |= {"return_loss": largest.detach(), "bins_loss": bins.detach()}
        if found.following is not None:
            state = mean_over_real((found.following - batch["next_observations"]).square(), real)
            total, metrics["state_loss"] = total + options.state_weight * state, state.detach()
        return total, metrics

    def act(self, window: Window) -> Tensor:
        """Try all lengths of history in one pass, and act after the one with the largest return.

        `window["draws"]` are K + 1 uniform numbers: for the return of each step, as if the history began there, and for
        that of the last step.
        """
        real, draws = window["padding_mask"], window["draws"]
        returns = self.first_returns(window, draws[:, :-1])
        histories = self.histories(real)
        value, logits = self.judge(window, returns, histories)
        best = value.argmax(dim=1)  # of equal ones the longest
        row = torch.arange(len(best), device=best.device)
        returns[:, -1] = self.draw(logits[row, best], draws[:, -1])
        chosen = {**window, "padding_mask": histories[row, best], "returns_to_go": returns}
        return self.head(self.features(chosen, -1, slice(-1, None)))[:, 0].float()

    def histories(self, real: Tensor) -> Tensor:
        """Return the masks of all lengths of history, the longest first: (B, K) bool → (B, C, K) bool.

        Each leaves out `length_stride` more of a window's real steps than the one before; where none are left, a mask
        is False throughout.
        """
        left_out = torch.arange(0, real.shape[1], self.options.length_stride, device=real.device)
        place = real.cumsum(dim=1) - 1
        return real[:, None] & (place[:, None] >= left_out[:, None])

    def first_returns(self, window: Window, uniform: Tensor) -> Tensor:
        """Draw a return for each step, seen as the first of a history: (B, K)."""
        shape = window["padding_mask"].shape
        alone = {name: window[name].flatten(0, 1)[:, None] for name in _STEPS if name in window}
        alone["padding_mask"] = torch.ones_like(window["padding_mask"]).flatten()[:, None]
        alone["returns_to_go"] = torch.zeros_like(uniform).flatten()[:, None]
        logits = self.bin_head(self.features(alone, 1))
        return self.draw(logits.unflatten(0, shape)[:, :, 0], uniform)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Draw returns from the logits of bins as an expert would: (…, bins) and (…) → (…)."""
        bins = drawn(expert_probabilities(logits, self.options.expert_weight, self.options.top_share), uniform)
        return self.embedding.bins.middles(bins)

    def judge(self, window: Window, returns: Tensor, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from the last state after each history (B, C, K).

        Returns:
            The largest return, −∞ where there is no history: (B, C); and the logits of its bin: (B, C, bins).
        """
        count = histories.shape[1]
        names = [name for name in _STEPS if name in window and not (name == "observations" and "features" in window)]
        tiled = {name: window[name].repeat_interleave(count, dim=0) for name in names}
        tiled["padding_mask"] = histories.flatten(0, 1)
        tiled["returns_to_go"] = returns.repeat_interleave(count, dim=0)
        feature = self.features(tiled, -2, slice(-1, None)).unflatten(0, (-1, count))[:, :, 0]
        value = self.return_head(feature)[..., 0]
        return value.masked_fill(~histories[..., -1], -torch.inf), self.bin_head(feature)
