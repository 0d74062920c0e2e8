"""Trajectory Transformer (Janner et al., 2021, arXiv 2106.02039; JannerM/trajectory-transformer)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.config import RunConfig
from dtbench.errors import ConfigError
from dtbench.models.base import OfflineModule, Window
from dtbench.models.parts.actions import mean_over_real
from dtbench.models.parts.beam_search import BeamOptions, beam_search
from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.parts.discretizer import Discretizer
from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.memory import Numbers, trunk_bytes
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.options import TrajectoryTransformerConfig
from dtbench.models.parts.tokens import by_length
from dtbench.models.parts.trunk import TokenMask, Trunk, TrunkConfig
from dtbench.spaces import Continuous, Discrete, Spaces

if TYPE_CHECKING:
    from dtbench.data.windows import Windows


class TrajectoryTransformer(OfflineModule):
    """A GPT over the bins of every dimension of a trajectory, and a beam search for plans.

    A step is D tokens: a bin per dimension of observation, action, reward and value, where the value is the discounted
    sum of the rewards after the step. A sequence of K steps is read without its last token; every token predicts the
    next. No token attends to a value. After the end of an episode there are stop tokens.

    A discrete action is one token, its number.

    Attributes:
        sizes: tokens of observation and action in a step.
        tokens_per_step: D.
        drawn: shape of the random numbers of a search: steps of a plan, drawn tokens of a step, sequences.
    """

    Config = TrajectoryTransformerConfig
    options: TrajectoryTransformerConfig
    weights: Tensor
    bias: Tensor

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options, action = self.options, self.spaces.action
        self.sizes = (self.spaces["observation_dim"], action.size if isinstance(action, Continuous) else 1)
        self.tokens_per_step = sum(self.sizes) + 2
        self._check(action)
        self.drawn = (options.horizon, sum(self.sizes), options.beam_width * options.n_expand)
        self.draws = math.prod(self.drawn)
        length, width = self.context_length * self.tokens_per_step - 1, options.width
        self.discretizer = Discretizer(self.tokens_per_step, options.bins, options.discretizer)
        if isinstance(action, Discrete):
            self.discretizer.edges[self.sizes[0]] = torch.arange(options.bins + 1)
        self.embedding = nn.Embedding(self.stop_token + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = nn.Parameter(torch.zeros(length, width))
        trunk = TrunkConfig(
            width=width,
            layers=options.layers,
            heads=options.heads,
            activation="gelu",
            embedding_dropout=options.dropout,
            attention_dropout=options.dropout,
            residual_dropout=options.dropout,
            scaled_residuals=False,
        )
        self.trunk = Trunk(trunk, lambda trunk, layer: Attention(trunk))
        self.heads = nn.ModuleList(
            Float32Linear(width, options.bins + 1, bias=False) for _ in range(self.tokens_per_step)
        )
        own = (1.0, options.action_weight, options.reward_weight, options.value_weight)
        weights = torch.cat(
            [torch.full((size,), weight) for size, weight in zip((*self.sizes, 1, 1), own, strict=True)]
        )
        self.register_buffer("weights", weights.repeat(self.context_length)[1:], persistent=False)
        place = torch.arange(length)
        seen = (place <= place[:, None]) & ~self._are_values(place)
        self.register_buffer("bias", torch.where(seen, 0.0, -torch.inf)[None, None], persistent=False)

    def _check(self, action: Continuous | Discrete) -> None:
        if isinstance(action, Discrete) and action.count > self.options.bins:
            raise ConfigError(f"model.bins must be at least the number of actions, {action.count}.")
        if self.context_length < 2 and self.options.horizon > 1:
            raise ConfigError(
                "training.context_length=1 needs model.horizon=1: a longer plan looks back on its last step."
            )

    @property
    def stop_token(self) -> int:
        """The row of the stop token in the table; among the logits it is the last one, `bins`."""
        return self.options.bins * self.tokens_per_step

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for raw rewards, their discounted sums up to the episode's end, and the penalty of a termination."""
        return {
            "return_scale": 1.0,
            "discount": self.options.discount,
            "endless_timeouts": False,
            "termination_reward": self.options.termination_penalty,
        }

    def see_data(self, windows: Windows) -> None:
        """Take the bins of all dimensions but a discrete action's from the data."""
        values = torch.cat([self._numbers(part)[:, 0] for part in windows.steps()])
        if isinstance(self.spaces.action, Continuous):
            self.discretizer.fit(values)
            return
        action = self.sizes[0]
        self.discretizer.fit(values[:, :action])
        self.discretizer.fit(values[:, action + 1 :], action + 1)

    def _numbers(self, window: Window) -> Tensor:
        """Join observations, actions, rewards and values: (B, K, D) float32; values are 0 where the window has none."""
        rewards, actions = window["rewards"], window["actions"]
        if isinstance(self.spaces.action, Discrete):
            actions = actions[..., None].float()
        values = torch.zeros_like(rewards)
        if "discounted_returns" in window:
            values = (window["discounted_returns"] - rewards) / self.options.discount
        return torch.cat((window["observations"], actions, rewards[..., None], values[..., None]), dim=-1)

    def _are_values(self, places: Tensor) -> Tensor:
        return places % self.tokens_per_step == self.tokens_per_step - 1

    def _embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Embed tokens (B, T) that stand in a sequence from the place `first` on: (B, T, width)."""
        place = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        index = tokens + place % self.tokens_per_step * self.options.bins
        index = index.masked_fill(tokens == self.options.bins, self.stop_token)
        return self.embedding(index) + self.positions[place]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next token.

        Args:
            tokens: (B, T) int64, bins and stop tokens (`bins`) from the first dimension of an observation on.

        Returns:
            (B, T, bins + 1) float32.
        """
        length = tokens.shape[1]
        real = torch.ones_like(tokens, dtype=torch.bool)
        mask = TokenMask.with_bias(real, self.bias[..., :length, :length])
        hidden = self.trunk(self._embed(tokens), mask)
        steps = -(-length // self.tokens_per_step)
        hidden = functional.pad(hidden, (0, 0, 0, steps * self.tokens_per_step - length))
        weight = torch.stack([head.get_parameter("weight") for head in self.heads])
        with torch.autocast(hidden.device.type, enabled=False):
            split = hidden.to(weight.dtype).unflatten(1, (steps, self.tokens_per_step))
            logits = torch.einsum("bkdw,dow->bkdo", split, weight)
        return logits.flatten(1, 2)[:, :length]

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted cross-entropy of all next tokens, those after an episode's end included.

        What would come after the longest possible episode does not count; the mean is over all tokens.
        """
        tokens, counted = self._sequences(batch)
        logits, targets = self(tokens[:, :-1]), tokens[:, 1:]
        losses = functional.cross_entropy(logits.mT, targets, reduction="none")
        own = slice(self.sizes[0] - 1, sum(self.sizes) - 1)
        of_actions = functional.pad(losses.detach(), (0, 1)).unflatten(1, (-1, self.tokens_per_step))[..., own].mean(-1)
        real = counted.unflatten(1, (-1, self.tokens_per_step))[..., 0]
        metrics = {"action_loss": mean_over_real(of_actions, real)}
        return (losses * self.weights * counted[:, :-1]).mean(), metrics

    def _sequences(self, batch: Window) -> tuple[Tensor, Tensor]:
        """Return the tokens of a batch, and which of them count.

        Args:
            batch: windows with padding at the left.

        Returns:
            (B, K · D) int64, from each window's first real step on, with stop tokens after its last; and (B, K · D)
            bool.
        """
        tokens, mask = self.discretizer.encode(self._numbers(batch)), batch["padding_mask"]
        pads = (~mask).sum(dim=1, keepdim=True)
        place = torch.arange(self.context_length, device=mask.device) + pads
        index = place.clamp(max=self.context_length - 1)
        shifted = tokens.gather(1, index[..., None].expand_as(tokens))
        tokens = torch.where((place < self.context_length)[..., None], shifted, self.options.bins)
        counted = batch["timesteps"].gather(1, pads) + place - pads < self.spaces.max_timesteps
        return tokens.flatten(1), counted.repeat_interleave(self.tokens_per_step, dim=1)

    def act(self, window: Window) -> Tensor:
        """Search for plans and return their first actions; what is drawn comes from `window["draws"]`."""
        mask = window["padding_mask"]
        actions = torch.zeros(len(mask), self.spaces.action.size, device=mask.device)
        for rows, count in by_length(mask):
            part = {name: window[name][rows, -count:] for name in _ACTED_ON}
            actions[rows] = self._first_actions(self.plan({**part, "draws": window["draws"][rows]})[0])
        return actions

    @torch.no_grad()
    def plan(self, window: Window) -> tuple[Tensor, Tensor]:
        """Search for the best plan from each window's last observation on.

        Args:
            window: without padding, and with `draws`.

        Returns:
            The plans' tokens from the first action on, (B, tokens) int64, and their values (B,), as `beam_search`.
        """
        options, action = self.options, self.sizes[1]
        # Values are never attended to; the last bin stands for them, as in the reference.
        tokens = self.discretizer.encode(self._numbers(window))
        tokens[..., -1] = options.bins - 1
        most = min(options.plan_context, self.context_length)
        past = tokens[:, -most:].flatten(1)[:, : -(action + 2)]
        uniforms = window["draws"].double().unflatten(1, self.drawn)
        search = BeamOptions(
            options.horizon,
            options.beam_width,
            options.n_expand,
            options.discount,
            options.k_obs,
            options.k_act,
            options.cdf_obs,
            options.cdf_act,
        )
        rewards, values = self.discretizer.middles[-2:]
        return beam_search(self.sequences(past, most), rewards, values, search, uniforms)

    def sequences(self, tokens: Tensor, most: int) -> CachedSequences:
        """Return sequences that a search lets grow."""
        return CachedSequences(self, tokens, most)

    def _first_actions(self, plans: Tensor) -> Tensor:
        """Return the first actions of plans: (B, tokens) → (B, action size)."""
        observation, action = self.sizes
        tokens, space = plans[:, :action], self.spaces.action
        if isinstance(space, Discrete):
            return functional.one_hot(tokens[:, 0], space.count).float()
        return self.discretizer.decode(tokens, observation)

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        """Estimate what embeddings, trunk and logits keep for the backward pass."""
        tokens = len(self.positions)
        kept = trunk_bytes(self.trunk, batch_size, tokens, tokens, numbers)
        kept += 4 * batch_size * tokens * self.options.width * numbers.bytes_per_value
        return kept + 3 * 4 * batch_size * tokens * (self.options.bins + 1)


#: What of a window's steps a plan depends on.
_ACTED_ON = ("observations", "actions", "rewards")


class CachedSequences:
    """Sequences of a `TrajectoryTransformer` that grow, of which each token is computed once.

    The model looks back on less than `most` whole steps: a sequence of that length goes on without its first step, as
    in the reference. Then the places of all tokens change, and those that are left are computed again.

    Args:
        model: in evaluation mode.
        tokens: (rows, T) int64, from the first dimension of an observation on; fewer than `most` · D.
        most: see above.
    """

    def __init__(self, model: TrajectoryTransformer, tokens: Tensor, most: int) -> None:
        self.model, self.tokens = model, tokens
        self.observation_tokens, self.action_tokens = model.sizes
        self._most = most * model.tokens_per_step
        self._begin()

    def _begin(self) -> None:
        self._cache = KeyValueCache(len(self.model.trunk.blocks), self._most)
        self._computed = 0

    def logits(self) -> Tensor:
        """Return the logits of the next token: (rows, bins + 1) float32."""
        model, tokens_per_step = self.model, self.model.tokens_per_step
        if self.tokens.shape[1] == self._most:
            self.tokens = self.tokens[:, tokens_per_step:]
            self._begin()
        first, last = self._computed, self.tokens.shape[1]
        unseen = [place % tokens_per_step == tokens_per_step - 1 for place in range(first, last)]
        hidden = model.trunk.extend(model._embed(self.tokens[:, first:], first), self._cache, unseen)
        self._computed = last
        logits: Tensor = model.heads[(last - 1) % tokens_per_step](hidden[:, -1])
        action = model.spaces.action
        if isinstance(action, Discrete) and last % tokens_per_step == self.observation_tokens:
            logits[:, action.count :] = -torch.inf  # there are more bins than actions
        return logits

    def append(self, tokens: Tensor) -> None:
        """Continue each sequence with a token: (rows,) int64."""
        self.tokens = torch.cat((self.tokens, tokens[:, None]), dim=1)

    def select(self, rows: Tensor) -> None:
        """Keep these rows: (rows',) int64; one may be taken several times."""
        self.tokens = self.tokens[rows]
        self._cache.select(rows)
