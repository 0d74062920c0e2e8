"""Discrete CQL's critic: a distribution of returns per action, by its quantiles (QR-DQN, Dabney et al., 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.observations import FrameEncoder
from dtbench.spaces import Frames, Vector


class QuantileCritic(nn.Module):
    """Observation → `quantiles` quantiles of the return of each of `actions` actions, through hidden layers with ReLU.

    The first hidden layer takes a vector, or the output of convolutions over frames: with one layer of 512 units it is
    the network of Mnih et al. (2015).
    """

    def __init__(self, space: Vector | Frames, actions: int, quantiles: int, width: int, layers: int) -> None:
        super().__init__()
        first = nn.Linear(space.size, width) if isinstance(space, Vector) else FrameEncoder(space, width)
        hidden: list[nn.Module] = [first, nn.ReLU()]
        for _ in range(layers - 1):
            hidden += [nn.Linear(width, width), nn.ReLU()]
        self.network = nn.Sequential(*hidden, Float32Linear(width, actions * quantiles))
        self.actions = actions

    def forward(self, observations: Tensor) -> Tensor:
        """(N, …) → (N, actions, quantiles)."""
        return self.network(observations).unflatten(-1, (self.actions, -1))


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
    """CQL over discrete actions: quantile regression and α · (logsumexp Q(s, ·) − Q(s, a)) (arXiv 2006.04779, eq. 4).

    Args:
        critic: the network; its target is a copy that `update_target` renews.
        discount: γ.
        double: whether the next action is the best one of the critic (Double DQN, d3rlpy) instead of its target's (the
            original code).
    """

    def __init__(self, critic: QuantileCritic, discount: float, double: bool) -> None:
        super().__init__()
        self.critic, self.discount, self.is_double = critic, discount, double
        self.target = copy.deepcopy(critic).requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """Return Q, the mean of the quantiles: (N, …) → (N, actions)."""
        values: Tensor = self.critic(observations).mean(dim=-1)
        return values

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
            next_quantiles = self.target(following)
            judge = self.critic(following) if self.is_double else next_quantiles
            best = judge.mean(dim=-1).argmax(dim=-1)
            targets = rewards[:, None] + self.discount * (1 - ended)[:, None] * next_quantiles[rows, best]
        quantiles = self.critic(observations)
        values = quantiles.mean(dim=-1)
        difference = torch.logsumexp(values, dim=-1) - values[rows, actions]
        return quantile_huber_loss(quantiles[rows, actions], targets).mean(), difference.mean()

    @torch.no_grad()
    def update_target(self) -> None:
        """Copy the critic's weights to its target."""
        for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            old.copy_(new)
