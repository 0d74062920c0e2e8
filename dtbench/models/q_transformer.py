"""Q-Transformer (Chebotar et al., 2023, arXiv 2309.10150; lucidrains/q-transformer was read, and is not followed)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from dtbench.config import RunConfig
from dtbench.models.base import OfflineModule, Window
from dtbench.models.parts.action_bins import ActionBins
from dtbench.models.parts.actions import mean_over_real
from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.memory import Numbers, frame_bytes, trunk_bytes
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.options import QTransformerConfig
from dtbench.models.parts.targets import follow
from dtbench.models.parts.tokens import embed_observations, places
from dtbench.models.parts.trunk import Trunk
from dtbench.spaces import Continuous, Frames, Spaces

if TYPE_CHECKING:
    from dtbench.data.windows import Windows

_LAST = slice(-1, None)


class AutoregressiveCritic(nn.Module):
    """Q of each bin of an action's next dimension, given the states so far and the bins of the dimensions before.

    One trunk runs over the states of a window, one token each. A second one runs, for each step apart, over what came
    out for its state and the embedded bins of its action. Values are bounded to [0, 1] by a sigmoid.
    """

    def __init__(self, spaces: Spaces, options: QTransformerConfig, context_length: int) -> None:
        super().__init__()
        dimensions, bins = _shape(spaces, options)
        self.embed_state = embed_observations(spaces.observation, options.width)
        self.positions = nn.Embedding(context_length, options.width)
        self.states = Trunk(options.trunk(options.layers), lambda trunk, layer: Attention(trunk))
        self.embed_bins = nn.ModuleList(nn.Embedding(bins, options.width) for _ in range(dimensions - 1))
        self.dimensions = Trunk(options.trunk(options.action_layers), lambda trunk, layer: Attention(trunk))
        self.head = Float32Linear(options.width, bins)
        shrink(self.positions, self.embed_bins)

    def encode(self, window: Window, select: slice | None = None) -> Tensor:
        """Encode the states of a window, each from those up to it: (B, K, …) → (B, K, width), or those selected."""
        mask = window["padding_mask"]
        tokens = window["features"] if "features" in window else self.embed_state(window["observations"])
        return self.states(tokens + self.positions(places(mask)), mask, select)

    def forward(self, states: Tensor, bins: Tensor, select: slice | None = None) -> Tensor:
        """Return Q of all bins of the first dimension, and of those behind each given bin.

        Args:
            states: (…, width), from `encode`.
            bins: (…, M) int64, of the first M dimensions, 0 ≤ M < the number of dimensions.
            select: the dimensions whose values are wanted; None means all.

        Returns:
            (…, M + 1, bins of a dimension) in [0, 1], or fewer dimensions where fewer are selected.
        """
        tokens = [states]
        for dimension, embed in enumerate(self.embed_bins[: bins.shape[-1]]):
            tokens.append(embed(bins[..., dimension]))
        flat = torch.stack(tokens, dim=-2).flatten(0, -3)
        real = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
        values = torch.sigmoid(self.head(self.dimensions(flat, real, select)))
        return values.unflatten(0, states.shape[:-1])


class QTransformer(OfflineModule):
    """Q-learning in which each dimension of an action is a step of its own, on windows of states.

    Values are learnt on the scale on which the range of the data's discounted returns is [0, 1], so that 0, to which
    the values of unseen actions are pulled, is the least return, as in the paper.
    """

    Config = QTransformerConfig
    options: QTransformerConfig
    value_low: Tensor
    value_high: Tensor

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        action = self.spaces.action
        self.bins = ActionBins(action, self.options.bins) if isinstance(action, Continuous) else None
        self.critic = AutoregressiveCritic(self.spaces, self.options, self.context_length)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        low, high = self.options.value_min, self.options.value_max
        self.register_buffer("value_low", torch.tensor(0.0 if low is None else low))
        self.register_buffer("value_high", torch.tensor(1.0 if high is None else high))

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for next observations, raw rewards and, with `monte_carlo`, discounted returns."""
        wanted: dict[str, Any] = {"next_observations": True, "return_scale": 1.0}
        return {**wanted, "discount": self.options.discount} if self.options.monte_carlo else wanted

    def see_data(self, windows: Windows) -> None:
        """Take the range of values from the data's discounted returns, as far as it is not given."""
        low, high = self.options.value_min, self.options.value_max
        if low is not None and high is not None:
            return
        least, largest = windows.return_range(self.options.discount)
        low, high = least if low is None else low, largest if high is None else high
        self.value_low.fill_(low)
        self.value_high.fill_(high if high > low else low + 1)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the target, which has no dropout."""
        super().train(mode)
        self.target.eval()
        return self

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ½ (Q − target)² of the data's bins + ½ α Q² of all others (equation 2), over steps and dimensions."""
        real, bins = batch["padding_mask"], self.bins_of(batch["actions"])
        values = self.critic(self.critic.encode(batch), bins[..., :-1])
        of_data = values.gather(-1, bins[..., None])[..., 0]
        td_loss = mean_over_real((of_data - self.targets(batch, bins)).square(), real)
        others = (values.square().sum(dim=-1) - of_data.square()) / (values.shape[-1] - 1)
        unseen = mean_over_real(others, real)
        metrics = {"td_loss": td_loss.detach(), "unseen_loss": unseen.detach()}
        return 0.5 * td_loss + 0.5 * self.options.penalty_weight * unseen, metrics

    @torch.no_grad()
    def targets(self, batch: Window, bins: Tensor) -> Tensor:
        """Return what the values of the data's bins should be (equation 1): (B, K, dimensions) in [0, 1].

        Of every dimension but the last it is the best value of the next dimension; of the last one `n_step_returns`.
        With `monte_carlo` it is at least the discounted return that the data continued with.
        """
        following = {"observations": batch["next_observations"], "padding_mask": batch["padding_mask"]}
        next_values = self.target(self.target.encode(following), bins[..., :0])[..., 0, :].amax(dim=-1)
        returns = self.n_step_returns(batch, self.unscaled(next_values))
        behind = self.target(self.target.encode(batch), bins[..., :-1]).amax(dim=-1)[..., 1:]
        targets = torch.cat((behind, self.scaled(returns)[..., None]), dim=-1)
        if self.options.monte_carlo:
            targets = torch.maximum(targets, self.scaled(batch["discounted_returns"])[..., None])
        return targets.clamp(0, 1)

    def n_step_returns(self, batch: Window, next_values: Tensor) -> Tensor:
        """Return Σ_{j<n} γʲ r_{t+j} + γⁿ V(s_{t+n}), with fewer steps where the episode or the window ends.

        Args:
            batch: with rewards and terminations (B, K).
            next_values: (B, K), V of the state after each step.
        """
        carried = self.options.discount * (~batch["terminations"]).to(next_values.dtype)
        returns = batch["rewards"] + carried * next_values
        for _ in range(self.options.n_step - 1):
            behind = torch.cat((returns[:, 1:], next_values[:, -1:]), dim=1)
            returns = batch["rewards"] + carried * behind
        return returns

    def bins_of(self, actions: Tensor) -> Tensor:
        """Return actions as bins of their dimensions, (B, K, dimensions) int64; a discrete action has one."""
        return actions[..., None] if self.bins is None else self.bins(actions)

    def scaled(self, values: Tensor) -> Tensor:
        """Return values on the scale on which their range is [0, 1]."""
        return (values - self.value_low) / (self.value_high - self.value_low)

    def unscaled(self, values: Tensor) -> Tensor:
        """Undo `scaled`."""
        return self.value_low + (self.value_high - self.value_low) * values

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        follow(self.target, self.critic, self.options.target_rate)

    def encode(self, observations: Tensor) -> Tensor | None:
        if isinstance(self.spaces.observation, Frames):
            features: Tensor = self.critic.embed_state(observations)
            return features
        return None

    def act(self, window: Window) -> Tensor:
        """Choose the best bin of each dimension in turn, given those before; of discrete actions return all values."""
        states = self.critic.encode(window, _LAST)[:, 0]
        chosen = torch.empty(len(states), 0, dtype=torch.int64, device=states.device)
        if self.bins is None:
            return self.unscaled(self.critic(states, chosen)[:, 0]).float()
        for _ in range(self.spaces.action.size):
            best = self.critic(states, chosen, _LAST).argmax(dim=-1)
            chosen = torch.cat((chosen, best), dim=-1)
        return self.bins.centres(chosen).float()

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        """Estimate what the critic's two trunks keep, and the values of all bins, of which a few copies are made."""
        steps, (dimensions, bins) = batch_size * self.context_length, _shape(self.spaces, self.options)
        kept = trunk_bytes(self.critic.states, batch_size, self.context_length, self.context_length, numbers)
        kept += trunk_bytes(self.critic.dimensions, steps, dimensions, dimensions, numbers)
        embedded = 2 * steps * (1 + dimensions) * self.options.width * numbers.bytes_per_value
        return kept + embedded + 4 * steps * dimensions * bins * 4 + frame_bytes(self.critic, steps, numbers)


def _shape(spaces: Spaces, options: QTransformerConfig) -> tuple[int, int]:
    """Return how many dimensions an action has, and how many bins each."""
    action = spaces.action
    return (action.size, options.bins) if isinstance(action, Continuous) else (1, action.count)
