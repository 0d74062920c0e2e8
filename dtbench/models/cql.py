"""Conservative Q-Learning (Kumar et al., 2020, arXiv 2006.04779; young-geng/CQL, and cql.py of CORL).

With `calibrated` it is Cal-QL (Nakamoto et al., 2023, arXiv 2303.05479) before its online phase. On tasks with discrete
actions it is the paper's discrete CQL, on quantiles (`parts.discrete_critics`). With `value_loss: hl_gauss` critics
learn by classification (`parts.histogram`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.func import functional_call

from dtbench.config import RunConfig
from dtbench.models.base import OfflineModule, Window
from dtbench.models.parts.discrete_critics import DiscreteCql, DiscreteCritic, HistogramCritic, QuantileCritic
from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.histogram import Histogram
from dtbench.models.parts.memory import Numbers, mlp_bytes
from dtbench.models.parts.options import HL_GAUSS, ConservativeQLearningConfig
from dtbench.models.parts.targets import follow
from dtbench.spaces import Discrete, Spaces

if TYPE_CHECKING:
    from dtbench.data.windows import Windows

_LOG_STD_RANGE = (-20.0, 2.0)
#: Actions of the data are kept away from ±1, where a squashed Gaussian has no density.
_CLIP_ACTION = 0.999
_Rewards = TypeVar("_Rewards", Tensor, NDArray[np.float32])


class SquashedGaussianPolicy(nn.Module):
    """π(a|s): tanh of a Gaussian whose mean and log standard deviation an MLP gives.

    The log standard deviation is multiplied and shifted by two learnt numbers, as in young-geng's code.
    """

    def __init__(self, observation_dim: int, action_dim: int, width: int, layers: int, orthogonal: bool) -> None:
        super().__init__()
        self.network = mlp(observation_dim, 2 * action_dim, width, layers, orthogonal)
        self.log_std_multiplier = nn.Parameter(torch.ones(()))
        self.log_std_offset = nn.Parameter(-torch.ones(()))

    def distribution(self, observations: Tensor) -> TransformedDistribution:
        """(…, obs_dim) → a distribution over (…, action_dim)."""
        mean, log_std = self.network(observations).chunk(2, dim=-1)
        log_std = (self.log_std_multiplier * log_std + self.log_std_offset).clamp(*_LOG_STD_RANGE)
        return TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))

    def sample(self, observations: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """Draw with gradients: (N, obs_dim) → actions (N, count, action_dim) and log π (N, count)."""
        distribution = self.distribution(observations[:, None].expand(-1, count, -1))
        actions = distribution.rsample()
        return actions, distribution.log_prob(actions).sum(-1)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return log π(a|s) of given actions: (N,)."""
        bounded = actions.clamp(-_CLIP_ACTION, _CLIP_ACTION)
        return self.distribution(observations).log_prob(bounded).sum(-1)

    def mode(self, observations: Tensor) -> Tensor:
        """Return tanh of the mean: (N, action_dim)."""
        return torch.tanh(self.network(observations).chunk(2, dim=-1)[0])


class TwinCritics(nn.Module):
    """Two Q-functions, each an MLP over (s, a), whose output is the value, or the logits of a `histogram`'s bins."""

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        width: int,
        layers: int,
        orthogonal: bool,
        histogram: Histogram | None = None,
    ) -> None:
        super().__init__()
        inputs, outputs = observation_dim + action_dim, 1 if histogram is None else histogram.bins
        self.networks = nn.ModuleList(mlp(inputs, outputs, width, layers, orthogonal) for _ in range(2))
        self.histogram = histogram

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(N, obs_dim) and (N, M, action_dim) → (2, N, M): all M actions of a state in one pass."""
        return self.values(self.outputs(observations, actions))

    def outputs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """As `forward`, but return what `values` and `bellman_loss` take: (2, N, M, outputs)."""
        pairs = torch.cat((observations[:, None].expand(-1, actions.shape[1], -1), actions), dim=-1)
        return torch.stack([network(pairs) for network in self.networks])

    def values(self, outputs: Tensor) -> Tensor:
        """Return the values that outputs stand for: (…, outputs) → (…)."""
        return outputs[..., 0] if self.histogram is None else self.histogram.mean(outputs)

    def bellman_loss(self, outputs: Tensor, values: Tensor, targets: Tensor) -> Tensor:
        """Return squared errors, or cross-entropies: (2, N, outputs), their values (2, N), and (N,) → (2, N)."""
        return (values - targets).square() if self.histogram is None else self.histogram.loss(outputs, targets)


class ConservativeQLearning(OfflineModule):
    """CQL(H) on single transitions; bootstraps through everything but termination.

    The losses of critics, policy, temperature and multiplier are computed at the same weights and reach disjoint
    parameters, so that their sum needs one backward pass and one optimiser. This equals the reference, which also
    computes every loss before its first optimiser step, and lets CQL resume and run under DDP like every other model.
    """

    Config = ConservativeQLearningConfig

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options, spaces = self.options, self.spaces
        self.discrete: DiscreteCql | None = None
        if isinstance(spaces.action, Discrete):
            self.discrete = DiscreteCql(self._discrete_critic(spaces.action.count), options.discount, options.double)
            return
        sizes = (spaces["observation_dim"], spaces["action_dim"], options.width)
        self.policy = SquashedGaussianPolicy(*sizes, options.policy_layers, options.orthogonal_policy)
        self.critics = TwinCritics(*sizes, options.critic_layers, options.orthogonal, self._histogram())
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.log_multiplier = nn.Parameter(torch.ones(()), requires_grad=options.lagrange)
        self.target_entropy = -float(spaces["action_dim"])

    def _histogram(self) -> Histogram | None:
        """Return the bins of values, if they are learnt by classification."""
        options = self.options
        if options.value_loss != HL_GAUSS:
            return None
        made = Histogram(options.value_bins, options.value_smoothing)
        if options.value_min is not None and options.value_max is not None:
            made.set_range(options.value_min, options.value_max)
        return made

    def _discrete_critic(self, actions: int) -> DiscreteCritic:
        options, seen, histogram = self.options, self.spaces.observation, self._histogram()
        if histogram is not None:
            return HistogramCritic(seen, actions, histogram, options.width, options.critic_layers)
        return QuantileCritic(seen, actions, options.quantiles, options.width, options.critic_layers)

    def see_data(self, windows: Windows) -> None:
        """Spread the bins of `hl_gauss` over the data's discounted returns, unless their range is given."""
        low, high = self.options.value_min, self.options.value_max
        histograms = [module for module in self.modules() if isinstance(module, Histogram)]
        if not histograms or (low is not None and high is not None):
            return
        least, largest = windows.return_range(self.options.discount, self.changed_rewards)
        for histogram in histograms:  # those of critics and targets
            histogram.set_range(least if low is None else low, largest if high is None else high)

    def changed_rewards(self, rewards: _Rewards) -> _Rewards:
        """Return raw rewards (…) as the critics learn them: clipped, scaled and shifted."""
        if self.options.clip_rewards and self.discrete is not None:
            rewards = rewards.clip(-1, 1)
        changed: _Rewards = self.options.reward_scale * rewards + self.options.reward_bias
        return changed

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for CORL's transitions: raw rewards, std + 1e-3, no steps that a time limit cut."""
        wanted = {"next_observations": True, "return_scale": 1.0, "drop_timeouts": True, "state_std_floor": 1e-3}
        return {**wanted, "discount": self.options.discount} if self.options.calibrated else wanted

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["padding_mask"]
        names = ("observations", "actions", "rewards", "next_observations", "terminations")
        observations, actions, rewards, following, ended = (batch[name][real] for name in names)
        rewards = self.changed_rewards(rewards)
        if self.discrete is not None:
            td_loss, difference = self.discrete.losses(observations, actions, rewards, following, ended.float())
            metrics = {"td_loss": td_loss.detach(), "conservative_difference": difference.detach()}
            return td_loss + self.options.penalty_weight * difference, metrics
        alpha = self.log_alpha.exp().detach()
        new_actions, log_pi = self.policy.sample(observations)
        alpha_loss = -(self.log_alpha * (log_pi.detach() + self.target_entropy)).mean()
        policy_loss = self.policy_loss(observations, actions, new_actions, log_pi, alpha)
        least = None
        if self.options.calibrated:
            least = self.options.reward_scale * batch["discounted_returns"][real]
        transitions = (observations, actions, rewards, following, ended.float())
        td_loss, difference = self.critic_losses(*transitions, alpha, least)
        penalty, multiplier_loss = self.penalty(difference)
        total = policy_loss + alpha_loss + (td_loss + penalty).sum() + multiplier_loss
        return total, {
            "td_loss": td_loss.detach().mean(),
            "conservative_difference": difference.detach().mean(),
            "policy_loss": policy_loss.detach(),
            "alpha": alpha,
        }

    def policy_loss(
        self, observations: Tensor, actions: Tensor, new_actions: Tensor, log_pi: Tensor, alpha: Tensor
    ) -> Tensor:
        """α log π − min Q; in the first `clone_steps` steps α log π − log π(a of the data). The critics stay fixed."""
        if self.step < self.options.clone_steps:
            return (alpha * log_pi[:, 0] - self.policy.log_prob(observations, actions)).mean()
        fixed = {name: parameter.detach() for name, parameter in self.critics.named_parameters()}
        values = functional_call(self.critics, fixed, (observations, new_actions))
        return (alpha * log_pi - values.amin(dim=0)).mean()

    def critic_losses(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        following: Tensor,
        ended: Tensor,
        alpha: Tensor,
        least: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean Bellman loss and the mean conservative difference of each critic: (2,) and (2,).

        The difference is T logsumexp(… / T) − Q(s, a) over uniform actions, actions of π(·|s′) and actions of π(·|s).
        Q of the policy's actions is raised to `least` (N,), if given.
        """
        options, dim = self.options, actions.shape[1]
        with torch.no_grad():
            target = rewards + (1 - ended) * options.discount * self.next_value(following, alpha)
            uniform = self.uniform_actions(observations)
            current, log_current = self.policy.sample(observations, options.sampled_actions)
            next_, log_next = self.policy.sample(following, options.sampled_actions)
            log_uniform = torch.full_like(log_current, dim * math.log(0.5))
        outputs = self.critics.outputs(observations, torch.cat((actions[:, None], uniform, next_, current), dim=1))
        values = self.critics.values(outputs)
        if least is not None:
            others, of_policy = values.split([1 + options.sampled_actions, 2 * options.sampled_actions], dim=-1)
            values = torch.cat((others, torch.maximum(of_policy, least[:, None])), dim=-1)
        of_data, sampled = values[..., 0], values[..., 1:]
        if options.importance_sampling:
            sampled = sampled - torch.cat((log_uniform, log_next, log_current), dim=1)
        else:
            sampled = values
        soft_maximum = options.temperature * torch.logsumexp(sampled / options.temperature, dim=-1)
        difference = soft_maximum - of_data
        if options.clip_difference_min is not None:
            difference = difference.clamp(min=options.clip_difference_min)
        return self.critics.bellman_loss(outputs[:, :, 0], of_data, target).mean(dim=1), difference.mean(dim=1)

    def uniform_actions(self, observations: Tensor) -> Tensor:
        """Draw actions in [−1, 1] for each of N states: (N, sampled_actions, action_dim)."""
        shape = (len(observations), self.options.sampled_actions, self.spaces.action.size)
        return torch.rand(shape, device=observations.device) * 2 - 1

    def next_value(self, following: Tensor, alpha: Tensor) -> Tensor:
        """Return the target critics' value of the next state: (N,)."""
        count = self.options.sampled_actions if self.options.max_target_backup else 1
        actions, log_pi = self.policy.sample(following, count)
        value, best = self.target_critics(following, actions).amin(dim=0).max(dim=1)
        if self.options.backup_entropy:
            value = value - alpha * log_pi.gather(1, best[:, None])[:, 0]
        return value

    def penalty(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the conservative differences (2,); with `lagrange` by a multiplier, which has a loss of its own."""
        options = self.options
        if not options.lagrange:
            return options.penalty_weight * difference, difference.new_zeros(())
        multiplier = self.log_multiplier.exp().clamp(0.0, 1e6)
        excess = options.penalty_weight * (difference - options.target_gap)
        return multiplier.detach() * excess, -0.5 * (multiplier * excess.detach()).sum()

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.discrete is not None:
            return super().parameter_groups()
        rate = self.options.policy_learning_rate
        critics = list(self.critics.parameters())
        if self.options.lagrange:
            critics.append(self.log_multiplier)
        return [{"params": [*self.policy.parameters(), self.log_alpha], "lr": rate}, {"params": critics}]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.discrete is not None:
            if (self.step + 1) % self.options.target_interval == 0:
                self.discrete.update_target()
            return
        follow(self.target_critics, self.critics, self.options.target_rate)

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        """Estimate what the networks keep: the critics judge every sampled action of every state."""
        states, sampled = batch_size * self.context_length, self.options.sampled_actions
        if self.discrete is not None:
            return mlp_bytes(self.discrete.critic, 2 * states, numbers)
        return mlp_bytes(self.critics, states * (1 + 3 * sampled), numbers) + mlp_bytes(self.policy, states, numbers)

    def act(self, window: Window) -> Tensor:
        observations = window["observations"][:, -1]
        return (
            self.discrete(observations).float() if self.discrete is not None else self.policy.mode(observations).float()
        )


def mlp(inputs: int, outputs: int, width: int, layers: int, orthogonal: bool) -> nn.Sequential:
    """Build an MLP with ReLU; its last layer starts small (gain 0.01) and without bias, as in young-geng's code."""
    parts: list[nn.Module] = []
    for size in (inputs, *[width] * (layers - 1)):
        hidden = nn.Linear(size, width)
        if orthogonal:
            nn.init.orthogonal_(hidden.weight, gain=math.sqrt(2))
            nn.init.zeros_(hidden.bias)
        parts += [hidden, nn.ReLU()]
    last = Float32Linear(width, outputs)
    (nn.init.orthogonal_ if orthogonal else nn.init.xavier_uniform_)(last.weight, gain=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)
