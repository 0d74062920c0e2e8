"""Discrete CQL and its critics: of each action the quantiles of returns (QR-DQN, Dabney et al., 2018), or bins."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.histogram import Histogram
from dtbench.models.parts.observations import FrameEncoder
from dtbench.spaces import Frames, Vector


class DiscreteCritic(nn.Module, ABC):
    """Observation → `outputs` numbers for each of `actions` actions, through hidden layers with ReLU.

    The first hidden layer takes a vector, or the output of convolutions over frames: with one layer of 512 units it is
    the network of Mnih et al. (2015).
    """

    def __init__(self, space: Vector | Frames, actions: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        first = nn.Linear(space.size, width) if isinstance(space, Vector) else FrameEncoder(space, width)
        hidden: list[nn.Module] = [first, nn.ReLU()]
        for _ in range(layers - 1):
            hidden += [nn.Linear(width, width), nn.ReLU()]
        self.network = nn.Sequential(*hidden, Float32Linear(width, actions * outputs))
        self.actions = actions

    def forward(self, observations: Tensor) -> Tensor:
        """(N, …) → (N, actions, outputs)."""
        return self.network(observations).unflatten(-1, (self.actions, -1))

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Return the values that outputs stand for: (…, outputs) → (…)."""

    @abstractmethod
    def bellman_loss(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, following: Tensor) -> Tensor:
        """Judge the outputs for the actions of N transitions: (N,).

        Args:
            outputs: (N, outputs).
            rewards: (N,).
            discounts: (N,), γ, or 0 where the episode ended.
            following: (N, outputs), the target's for the next actions; without gradients.
        """


class QuantileCritic(DiscreteCritic):
    """A critic whose outputs are quantiles of the return."""

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.mean(dim=-1)

    def bellman_loss(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, following: Tensor) -> Tensor:
        return quantile_huber_loss(outputs, rewards[:, None] + discounts[:, None] * following)


class HistogramCritic(DiscreteCritic):
    """A critic whose outputs are the logits of a histogram's bins."""

    def __init__(self, space: Vector | Frames, actions: int, histogram: Histogram, width: int, layers: int) -> None:
        super().__init__(space, actions, histogram.bins, width, layers)
        self.histogram = histogram

    def values(self, outputs: Tensor) -> Tensor:
        return self.histogram.mean(outputs)

    def bellman_loss(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, following: Tensor) -> Tensor:
        return self.histogram.loss(outputs, rewards + discounts * self.values(following))


def quantile_huber_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Regress quantiles on samples of the target distribution: (N, Q) and (N, Q′) → (N,).

    Σ_i mean_j |τ_i − 1{y_j < θ_i}| · L(y_j − θ_i) with the midpoints τ_i = (i + ½) / Q, i = 0 … Q − 1, and Huber's loss
    L with κ = 1 (arXiv 1710.10044, equations 9 and 10).
    """
    count = quantiles.shape[-1]
    midpoints = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    excess = targets[:, :, None] - quantiles[:, None, :]  # (N, Q′, Q)
    size = excess.abs()
    huber = torch.where(size < 1, 0.5 * excess.square(), size - 0.5)
    weight = (midpoints - (excess.detach() < 0).to(quantiles.dtype)).abs()
    return (weight * huber).mean(dim=1).sum(dim=-1)


class DiscreteCql(nn.Module):
    """CQL over discrete actions: a Bellman loss and α · (logsumexp Q(s, ·) − Q(s, a)) (arXiv 2006.04779, eq. 4).

    Args:
        critic: the network; its target is a copy that `update_target` renews.
        discount: γ.
        double: whether the next action is the best one of the critic (Double DQN, d3rlpy) instead of its target's (the
            original code).
    """

    def __init__(self, critic: DiscreteCritic, discount: float, double: bool) -> None:
        super().__init__()
        self.critic, self.discount, self.is_double = critic, discount, double
        self.target = copy.deepcopy(critic).requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """Return Q: (N, …) → (N, actions)."""
        return self.critic.values(self.critic(observations))

    def losses(
        self, observations: Tensor, actions: Tensor, rewards: Tensor, following: Tensor, ended: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the Bellman loss and the conservative difference of N transitions, both scalar.

        Args:
            observations: (N, …).
            actions: (N,) int64.
            rewards: (N,).
            following: (N, …), the next observations.
            ended: (N,) float, 1 where the environment ended the episode.
        """
        rows = torch.arange(len(actions), device=actions.device)
        with torch.no_grad():
            backed_up = self.target(following)
            judge = self.critic(following) if self.is_double else backed_up
            best = self.critic.values(judge).argmax(dim=-1)
        outputs, discounts = self.critic(observations), self.discount * (1 - ended)
        values = self.critic.values(outputs)
        difference = torch.logsumexp(values, dim=-1) - values[rows, actions]
        td_loss = self.critic.bellman_loss(outputs[rows, actions], rewards, discounts, backed_up[rows, best])
        return td_loss.mean(), difference.mean()

    @torch.no_grad()
    def update_target(self) -> None:
        """Copy the critic's weights to its target."""
        for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            old.copy_(new)
