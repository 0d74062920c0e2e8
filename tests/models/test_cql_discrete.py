"""Discrete CQL against plain loops over its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dtbench.data.store import TrajectoryStore
from dtbench.models.parts.discrete_critics import DiscreteCql, HistogramCritic, QuantileCritic, quantile_huber_loss
from dtbench.models.parts.histogram import Histogram
from dtbench.registry import model_entry
from dtbench.spaces import Discrete, Frames, Spaces, Vector
from dtbench.testing import fit_steps, model_config, windows

GENERATOR = np.random.default_rng(0)


def huber_by_hand(quantiles, targets) -> float:
    """Equation 10 of QR-DQN, one pair at a time."""
    total = 0.0
    for index, predicted in enumerate(quantiles):
        midpoint = (index + 0.5) / len(quantiles)
        row = 0.0
        for target in targets:
            error = target - predicted
            size = 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5
            row += abs(midpoint - (1.0 if error < 0 else 0.0)) * size
        total += row / len(targets)
    return total


def test_quantile_regression_is_the_equation():
    quantiles, targets = GENERATOR.normal(size=(4, 5)) * 2, GENERATOR.normal(size=(4, 7)) * 2
    found = quantile_huber_loss(torch.tensor(quantiles), torch.tensor(targets))
    expected = [huber_by_hand(*pair) for pair in zip(quantiles, targets, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_quantile_regression_finds_the_quantiles():
    """At the minimum over many samples, θ_i is near the τ_i-quantile; κ = 1 is small beside a spread of 100."""
    samples = torch.tensor(GENERATOR.uniform(0, 100, size=(1, 4001)))
    quantiles = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=1.0)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 1.0 - step / 600
        optimizer.zero_grad()
        quantile_huber_loss(quantiles, samples).sum().backward()
        optimizer.step()
    expected = np.quantile(samples.numpy(), [0.125, 0.375, 0.625, 0.875])
    assert quantiles.detach().numpy()[0] == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("space", [Vector(3), Frames(2, 36, 36)])
def test_losses_are_the_equations(space, double):
    torch.manual_seed(1)
    critic = QuantileCritic(space, 3, outputs=4, width=16, layers=2)
    cql = DiscreteCql(critic, discount=0.9, double=double)
    with torch.no_grad():
        for weight in cql.target.parameters():
            weight.add_(0.3 * torch.randn_like(weight))

    def seen() -> torch.Tensor:
        if isinstance(space, Frames):
            return torch.randint(256, (6, *space.shape), dtype=torch.uint8)
        return torch.randn(6, space.size)

    now, following = seen(), seen()
    actions, rewards = torch.randint(3, (6,)), torch.randn(6)
    ended = torch.tensor([0.0, 1, 0, 0, 1, 0])
    td_loss, difference = cql.losses(now, actions, rewards, following, ended)
    bellman, conservative = [], []
    for row in range(6):
        target, critics = cql.target(following[row, None])[0], cql.critic(following[row, None])[0]
        best = int((critics if double else target).mean(dim=1).argmax())
        wanted = [float(rewards[row]) + 0.9 * (1 - float(ended[row])) * float(value) for value in target[best]]
        quantiles = cql.critic(now[row, None])[0]
        bellman.append(huber_by_hand(quantiles[actions[row]].tolist(), wanted))
        values = quantiles.mean(dim=1).tolist()
        conservative.append(math.log(sum(math.exp(value) for value in values)) - values[actions[row]])
    assert float(td_loss) == pytest.approx(np.mean(bellman), rel=1e-5)
    assert float(difference) == pytest.approx(np.mean(conservative), rel=1e-5)


@pytest.mark.parametrize("double", [False, True])
def test_losses_by_classification_are_the_equations(double):
    """The target is the value r + γ max Q′, not a distribution of returns (arXiv 2403.03950, equation 3.3)."""
    torch.manual_seed(1)
    histogram = Histogram(9, 0.75)
    histogram.set_range(-2.0, 3.0)
    critic = HistogramCritic(Vector(3), 3, histogram, width=16, layers=2)
    cql = DiscreteCql(critic, discount=0.9, double=double)
    with torch.no_grad():
        for weight in (*cql.target.parameters(), *cql.critic.parameters()):
            weight.add_(0.3 * torch.randn_like(weight))
    edges = np.linspace(-2, 3, 10)
    centres = (edges[:-1] + edges[1:]) / 2

    def shares(network, observation) -> np.ndarray:
        weights = np.exp(network(observation[None])[0].detach().numpy().astype(float))
        return weights / weights.sum(axis=1, keepdims=True)  # (3, 9)

    now, following = torch.randn(6, 3), torch.randn(6, 3)
    actions, rewards = torch.randint(3, (6,)), torch.randn(6)
    ended = torch.tensor([0.0, 1, 0, 0, 1, 0])
    td_loss, difference = cql.losses(now, actions, rewards, following, ended)
    bellman, conservative = [], []
    for row in range(6):
        backed_up = shares(cql.target, following[row]) @ centres
        judge = shares(cql.critic, following[row]) @ centres if double else backed_up
        wanted = float(rewards[row]) + 0.9 * (1 - float(ended[row])) * backed_up[judge.argmax()]
        mass = np.diff(norm.cdf(edges, np.clip(wanted, -2, 3), 0.75 * 5 / 9))
        predicted = shares(cql.critic, now[row])
        bellman.append(-(mass / mass.sum()) @ np.log(predicted[actions[row]]))
        values = predicted @ centres
        conservative.append(math.log(np.exp(values).sum()) - values[actions[row]])
    assert td_loss.item() == pytest.approx(np.mean(bellman), rel=1e-5)
    assert difference.item() == pytest.approx(np.mean(conservative), rel=1e-5)


def test_bins_span_the_clipped_returns_of_the_data(tmp_path):
    module = discrete_cql(value_loss="hl_gauss", clip_rewards="true", discount=0.5)
    fit_steps(module, tmp_path, 1)
    store = TrajectoryStore.open(tmp_path / "store")
    rewards, found = np.clip(store.rewards.astype(float), -1, 1), []
    for begin, end in zip(store.episode_offsets[:-1], store.episode_offsets[1:], strict=True):  # all of them terminate
        for step in range(begin, end):
            found.append(sum(0.5**k * reward for k, reward in enumerate(rewards[step:end])))
    for critic in (module.discrete.critic, module.discrete.target):
        ends = (critic.histogram.low.item(), critic.histogram.high.item())
        assert ends == pytest.approx((min(found), max(found)), rel=1e-5)


def discrete_cql(**options):
    return model_entry("cql").load()(model_config("cql", **options), Spaces(Vector(5), Discrete(3), 30))


def test_the_loss_adds_the_weighted_difference_and_clips_rewards():
    module = discrete_cql(penalty_weight=4.0, clip_rewards="true")
    window = windows(module)
    window["rewards"] = 3 * window["rewards"]
    loss, metrics = module.loss(window)
    assert float(loss) == pytest.approx(float(metrics["td_loss"] + 4 * metrics["conservative_difference"]), rel=1e-6)
    clipped = {**window, "rewards": window["rewards"].clamp(-1, 1)}
    assert torch.equal(loss, module.loss(clipped)[0])
    assert not torch.equal(loss, discrete_cql(penalty_weight=4.0).loss(window)[0])


def test_the_target_is_renewed_after_every_interval():
    module = discrete_cql(target_interval=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    changed = []
    for step in range(7):
        module.step = step
        before = [weight.clone() for weight in module.discrete.target.parameters()]
        optimizer.zero_grad()
        module.loss(windows(module, seed=step))[0].backward()
        module.optimizer_step(0, step, optimizer)
        target = list(module.discrete.target.parameters())
        changed.append(any(not torch.equal(a, b) for a, b in zip(before, target, strict=True)))
        if changed[-1]:
            assert all(torch.equal(a, b) for a, b in zip(target, module.discrete.critic.parameters(), strict=True))
    assert changed == [False, False, True, False, False, True, False]
    assert all(weight.grad is None for weight in module.discrete.target.parameters())
