"""Reinformer (Zhuang et al., 2024, arXiv 2405.08740, ICML 2024).

Its repository (Dragon-Zhuang/Reinformer) has no licence: it was read for its settings, and none of it is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dtbench.config import RunConfig
from dtbench.models.base import SequencePolicy, Window
from dtbench.models.parts.actions import action_loss, mean_over_processes, mean_over_real
from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.parts.heads import ActionHead, Float32Linear
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.mixers import HeadDropoutAttention
from dtbench.models.parts.options import SMALL, ReinformerConfig
from dtbench.models.parts.returns import expectile_loss
from dtbench.models.parts.tokens import ACTION_FROM, RETURN_FROM, TOKENS_PER_STEP, StateFirstEmbedding, by_length
from dtbench.models.parts.trunk import Trunk
from dtbench.spaces import Continuous, Spaces

_LOG_STD_RANGE = (-20.0, 2.0)


class Reinformer(SequencePolicy):
    """Predicts the largest return that the data continue with, then the action that goes with it.

    Tokens are s R̂ a. A head on the states' tokens learns the return-to-go by expectile regression (eq. 5), the head on
    the returns' tokens the mean of a Gaussian action. To act, the model puts its own predictions in the returns' place;
    no return is asked for.
    """

    Config = ReinformerConfig
    options: ReinformerConfig
    embedding: StateFirstEmbedding

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options, action = self.options, self.spaces.action
        self.embedding = StateFirstEmbedding(self.spaces, options.width)
        self.trunk = Trunk(options.trunk(), lambda trunk, layer: HeadDropoutAttention(trunk))
        self.is_continuous = isinstance(action, Continuous)
        tanh = options.tanh and self.is_continuous  # logits are not bounded
        self.head = ActionHead(options.width, action.size, tanh)
        self.return_head = Float32Linear(options.width, 1)
        if self.is_continuous:
            self.log_std = nn.Parameter(torch.zeros(action.size))
            self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head, self.return_head)

    @property
    def stackable(self) -> bool:
        return False  # its temperature is not clipped

    def outputs(self, batch: Window) -> tuple[Tensor, Tensor]:
        """Predict from a window that holds the data's returns.

        Returns:
            The largest returns-to-go (B, K), and actions or their logits (B, K, action size).
        """
        tokens, token_mask = self.embedding(batch)
        features = self.trunk(tokens, token_mask)
        return self.return_head(features[:, RETURN_FROM])[..., 0], self.head(features[:, ACTION_FROM])

    def compile_training(self, **options: Any) -> bool:
        compiled: Any = torch.compile(self.outputs, dynamic=False, **options)
        self.outputs = compiled  # type: ignore[method-assign]
        return True

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["padding_mask"]
        returns, predicted = self.outputs(batch)
        return_loss = self.return_loss(returns, batch["returns_to_go"], real)
        cloning, metrics = action_loss(self.spaces.action, predicted, batch["actions"], real)
        if self.is_continuous:
            cloning, more = self.likelihood_loss(predicted, batch["actions"], real)
            metrics |= more
        return self.options.return_weight * return_loss + cloning, {**metrics, "return_loss": return_loss.detach()}

    def return_loss(self, predicted: Tensor, returns: Tensor, real: Tensor) -> Tensor:
        """Return the expectile loss of returns (B, K), in units of the batch's mean |return|."""
        unit = mean_over_processes(mean_over_real(returns.abs(), real))
        unit = torch.where(unit > 0, unit, 1.0)  # a batch without any reward
        return mean_over_real(expectile_loss((returns - predicted) / unit, self.options.expectile), real)

    def likelihood_loss(self, mean: Tensor, actions: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return −log π(a) − λ H(π), and the loss of the temperature λ, which moves H to −(numbers per action).

        Args:
            mean: (B, K, action size).
            actions: (B, K, action size), of the data.
            real: (B, K) bool.
        """
        policy = Normal(mean, self.log_std.clamp(*_LOG_STD_RANGE).exp())
        log_likelihood = mean_over_real(policy.log_prob(actions).sum(-1), real)
        entropy = mean_over_real(policy.entropy().sum(-1), real)
        temperature = self.log_temperature.exp()
        loss = -(log_likelihood + temperature.detach() * entropy)
        loss = loss + temperature * (entropy.detach() + mean.shape[-1])
        return loss, {"log_likelihood": log_likelihood.detach(), "temperature": temperature.detach()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = self.divided_by_decay(self.clipped_parameters())
        if self.is_continuous:
            rate = self.options.temperature_learning_rate
            groups.append({"params": [self.log_temperature], "lr": rate, "weight_decay": 0.0})
        return groups

    def clipped_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but the temperature."""
        return [parameter for name, parameter in self.named_parameters() if name != "log_temperature"]

    def act(self, window: Window) -> Tensor:
        """Predict the return of each step from the first on, and the last step's action with the last of them."""
        mask = window["padding_mask"]
        actions = torch.zeros(len(mask), self.spaces.action.size, device=mask.device)
        for rows, count in by_length(mask):
            actions[rows] = self._last_actions({name: value[rows, -count:] for name, value in window.items()}).float()
        return actions

    @torch.no_grad()
    def _last_actions(self, window: Window) -> Tensor:
        """Do as `act` with windows (B, K) without padding; each token is computed once: (B, action size)."""
        timesteps, steps = window["timesteps"], window["timesteps"].shape[1]
        tokens, _ = self.embedding(window)  # those of the returns are replaced
        cache = KeyValueCache(len(self.trunk.blocks), tokens.shape[1])
        new = tokens[:, :1]
        for step in range(steps):
            of_state = self.trunk.extend(new, cache, [False] * new.shape[1])[:, -1]
            asked = self.embedding.return_token(self.return_head(of_state)[:, 0], timesteps[:, step])
            after = TOKENS_PER_STEP * step + 2  # this step's action, and the next state
            new = torch.cat((asked, tokens[:, after : after + 2]), dim=1)
        return self.head(self.trunk.extend(new[:, :1], cache, [False])[:, 0])
