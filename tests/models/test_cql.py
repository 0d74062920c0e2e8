"""CQL: its loss against loops written from the equation, where gradients go, and what the penalty is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dtbench.config import compose, load_preset
from dtbench.data.store import TrajectoryStore
from dtbench.errors import ConfigError
from dtbench.models.cql import ConservativeQLearning, SquashedGaussianPolicy
from dtbench.registry import model_entry
from dtbench.suites.suites import load_suite
from dtbench.testing import DIMS, build_model, fit_steps, model_config

N, SAMPLES, DIM = 4, 10, DIMS["action_dim"]


def build(**model) -> ConservativeQLearning:
    return ConservativeQLearning(model_config("cql", **model), DIMS).double()


def transitions(seed: int = 0) -> dict[str, torch.Tensor]:
    """Windows of one step; the first two end the episode, so that nothing is backed up behind them."""
    g = torch.Generator().manual_seed(seed)
    observation = (N, 1, DIMS["observation_dim"])
    return {
        "observations": torch.randn(observation, generator=g, dtype=torch.float64),
        "next_observations": torch.randn(observation, generator=g, dtype=torch.float64),
        "actions": torch.rand(N, 1, DIM, generator=g, dtype=torch.float64) * 1.8 - 0.9,
        "rewards": torch.randn(N, 1, generator=g, dtype=torch.float64),
        "terminations": torch.tensor([[True], [True], [False], [False]]),
        "discounted_returns": torch.randn(N, 1, generator=g, dtype=torch.float64),
        "padding_mask": torch.ones(N, 1, dtype=torch.bool),
    }


def forward(network: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            x = np.maximum(x, 0)
    return x


def log_density(module, observation: np.ndarray, action: np.ndarray) -> float:
    """log π(a|s) by the change of variables a = tanh u: Σ log N(u; μ, σ) − log(1 − a²)."""
    mean, log_std = np.split(forward(module.policy.network, observation), 2)
    scale, offset = module.policy.log_std_multiplier.item(), module.policy.log_std_offset.item()
    std, u = np.exp(np.clip(scale * log_std + offset, -20, 2)), np.arctanh(action)
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return float((normal - np.log(1 - action**2)).sum())


def bins_of(module) -> np.ndarray:
    """The edges of the bins of values."""
    return np.linspace(module.options.value_min, module.options.value_max, module.options.value_bins + 1)


def probabilities(network: torch.nn.Sequential, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    weights = np.exp(forward(network, np.concatenate((observation, action))))
    return weights / weights.sum()


def q(module, network: torch.nn.Sequential, observation: np.ndarray, action: np.ndarray) -> float:
    if module.options.value_loss == "hl_gauss":
        edges = bins_of(module)
        return float(probabilities(network, observation, action) @ ((edges[:-1] + edges[1:]) / 2))
    return float(forward(network, np.concatenate((observation, action)))[0])


def bellman_error(module, network: torch.nn.Sequential, s: np.ndarray, a: np.ndarray, target: float) -> float:
    """The squared error; or arXiv 2403.03950, equations 3.1 and 3.3: cross-entropy against a Gaussian over the bins."""
    if module.options.value_loss != "hl_gauss":
        return (q(module, network, s, a) - target) ** 2
    edges = bins_of(module)
    width = edges[1] - edges[0]
    mass = np.diff(norm.cdf(edges, np.clip(target, edges[0], edges[-1]), module.options.value_smoothing * width))
    return float(-(mass / mass.sum()) @ np.log(probabilities(network, s, a)))


@pytest.fixture
def draws(monkeypatch):
    """Record every draw: the policy's actions in the order of their use, and the uniform ones."""
    drawn: dict[str, list[np.ndarray]] = {"policy": [], "uniform": []}
    sample, rand = SquashedGaussianPolicy.sample, torch.rand

    def recorded_sample(self, observations, count=1):
        actions, log_pi = sample(self, observations, count)
        drawn["policy"].append(actions.detach().numpy())
        return actions, log_pi

    def recorded_rand(*shape, **options):
        if "generator" in options:  # this file's own
            return rand(*shape, **options)
        drawn["uniform"].append(rand(*shape, dtype=torch.float64))
        return drawn["uniform"][-1]

    monkeypatch.setattr(SquashedGaussianPolicy, "sample", recorded_sample)
    monkeypatch.setattr("dtbench.models.cql.torch.rand", recorded_rand)
    return drawn


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"importance_sampling": False},
        {"max_target_backup": True, "backup_entropy": True},
        {"lagrange": True, "target_gap": 0.8},
        {"clip_difference_min": 2.0, "reward_scale": 10.0, "reward_bias": -5.0},
        {"temperature": 0.5},
        {"calibrated": True, "reward_scale": 3.0},
        {"calibrated": True, "importance_sampling": False, "max_target_backup": True},
        {"value_loss": "hl_gauss", "value_min": -4, "value_max": 6, "value_bins": 7},
        {"value_loss": "hl_gauss", "value_min": -1, "value_max": 1, "importance_sampling": False, "lagrange": True},
    ],
)
def test_loss_is_the_equation(draws, options):
    batch, module = transitions(), build(**options)
    o = module.options
    with torch.no_grad():  # untrained critics are almost 0, which would hide a wrong sign
        for network in (*module.critics.networks, *module.target_critics.networks, module.policy.network):
            network[-1].weight.normal_(std=0.5)
        module.log_alpha.fill_(0.3)
        module.policy.log_std_multiplier.fill_(0.7)
        module.policy.log_std_offset.fill_(-0.4)
    total, _ = module.loss(batch)
    new, next_, current, at_next = draws["policy"]
    uniform = draws["uniform"][0].numpy() * 2 - 1
    s, s2, a = (batch[name][:, 0].numpy() for name in ("observations", "next_observations", "actions"))
    r, ended = batch["rewards"][:, 0].numpy(), batch["terminations"][:, 0].numpy()
    returns = batch["discounted_returns"][:, 0].numpy()
    alpha, gamma = math.exp(0.3), 0.99
    critics, targets = list(module.critics.networks), list(module.target_critics.networks)
    td, differences = np.zeros((2, N)), np.zeros((2, N))
    policy_loss = alpha_loss = 0.0
    for n in range(N):
        candidates = [min(q(module, net, s2[n], action) for net in targets) for action in next_[n]]
        best = int(np.argmax(candidates))
        value = candidates[best]
        if o.backup_entropy:
            value -= alpha * log_density(module, s2[n], next_[n, best])
        target = o.reward_scale * r[n] + o.reward_bias + (0.0 if ended[n] else gamma * value)
        for i, net in enumerate(critics):
            data = q(module, net, s[n], a[n])
            td[i, n] = bellman_error(module, net, s[n], a[n], target)
            terms = []
            for k in range(SAMPLES):
                at = [q(module, net, s[n], action[n, k]) for action in (uniform, current, at_next)]
                if o.calibrated:  # Cal-QL, arXiv 2303.05479, equation 5.1: never below the behaviour's return
                    at[1:] = [max(value, o.reward_scale * returns[n]) for value in at[1:]]
                if o.importance_sampling:
                    at[0] -= math.log(0.5**DIM)
                    at[1] -= log_density(module, s[n], current[n, k])
                    at[2] -= log_density(module, s2[n], at_next[n, k])  # its density is that of s′
                terms += at
            if not o.importance_sampling:
                terms.append(data)
            soft = o.temperature * math.log(sum(math.exp(term / o.temperature) for term in terms))
            differences[i, n] = soft - data
            if o.clip_difference_min is not None:
                differences[i, n] = max(differences[i, n], o.clip_difference_min)
        log_pi = log_density(module, s[n], new[n, 0])
        policy_loss += (alpha * log_pi - min(q(module, net, s[n], new[n, 0]) for net in critics)) / N
        alpha_loss += -0.3 * (log_pi - DIM) / N
    difference = differences.mean(axis=1)
    if o.lagrange:
        multiplier = math.e  # log starts at 1
        excess = o.penalty_weight * (difference - o.target_gap)
        conservative = (multiplier * excess).sum() - 0.5 * (multiplier * excess).sum()
    else:
        conservative = o.penalty_weight * difference.sum()
    expected = policy_loss + alpha_loss + td.mean(axis=1).sum() + conservative
    assert total.item() == pytest.approx(expected, rel=1e-6)  # float64; the loop sums in another order


def test_each_loss_reaches_its_own_parameters_only():
    """There is no gradient from the critics' loss into the policy, nor from the policy's into the critics."""
    module, batch = build(), transitions()
    o, a, r, o2 = (batch[name][:, 0] for name in ("observations", "actions", "rewards", "next_observations"))
    td, difference = module.critic_losses(o, a, r, o2, torch.zeros(N, dtype=torch.float64), torch.tensor(1.0))
    (td + difference).sum().backward()
    reached = {name.partition(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert reached == {"critics"}
    module.zero_grad(set_to_none=True)
    new, log_pi = module.policy.sample(o)
    module.policy_loss(o, a, new, log_pi, torch.tensor(1.0)).backward()
    reached = {name.partition(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert reached == {"policy"}


def test_cloning_uses_the_actions_of_the_data():
    module, batch = build(clone_steps=5), transitions()
    o, a = batch["observations"][:, 0], batch["actions"][:, 0]
    new, log_pi = module.policy.sample(o)
    found = module.policy_loss(o, a, new, log_pi, torch.tensor(0.5, dtype=torch.float64))
    expected = [0.5 * log_pi[n, 0].item() - log_density(module, o[n].numpy(), a[n].numpy()) for n in range(N)]
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-6)
    module.step = 5
    assert module.policy_loss(o, a, new, log_pi, torch.tensor(0.5)).item() != pytest.approx(found.item())


def train(module: ConservativeQLearning, batch: dict[str, torch.Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        module.loss(batch)[0].backward()
        optimizer.step()


@pytest.mark.parametrize(("weight", "unseen_looks_better"), [(0.0, True), (5.0, False)])
def test_unseen_actions_stay_below_seen_ones(weight, unseen_looks_better):
    """A bandit whose reward grows with the action, seen only in the middle: SAC's critics carry on upwards."""
    module = build(penalty_weight=weight)
    count = 64
    action = torch.linspace(-0.3, 0.3, count, dtype=torch.float64)[:, None, None].expand(-1, 1, DIM)
    zeros = torch.zeros(count, 1, DIMS["observation_dim"], dtype=torch.float64)
    true = torch.ones(count, 1, dtype=torch.bool)
    batch = {
        "observations": zeros, "next_observations": zeros, "actions": action, "rewards": 2 * action.mean(-1),
        "terminations": true, "padding_mask": true,
    }  # fmt: skip
    train(module, batch, 300)
    probe = torch.tensor([0.3, 1.0], dtype=torch.float64)[None, :, None].expand(1, 2, DIM)
    seen, unseen = module.critics(zeros[:1, 0], probe).amin(dim=0)[0].tolist()
    assert (unseen > seen) is unseen_looks_better


def test_targets_follow_slowly(tmp_path):
    module = build_model("cql")
    before = [parameter.clone() for parameter in module.target_critics.parameters()]
    fit_steps(module, tmp_path, 1)
    pairs = zip(before, module.target_critics.parameters(), module.critics.parameters(), strict=True)
    for old, target, critic in pairs:
        assert torch.allclose(target, 0.995 * old + 0.005 * critic, atol=1e-7)


def test_two_learning_rates():
    module = build()
    optimizer = module.configure_optimizers()["optimizer"]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [3e-5, 1e-3]  # smoke's own for the critics


def test_calibration_reads_the_discounted_returns_of_the_data(tmp_path):
    """From windows to the loss: returns below every Q change nothing, higher ones raise the penalty."""
    module = build(calibrated=True, discount=0.9)
    assert module.window_options["discount"] == 0.9
    assert "discount" not in build().window_options
    batch = transitions()
    losses = []
    for returns in (-1e6, 5.0):
        batch["discounted_returns"] = torch.full((N, 1), returns, dtype=torch.float64)
        torch.manual_seed(0)
        losses.append(module.loss(batch)[0].item())
    plain = build(discount=0.9)
    torch.manual_seed(0)
    assert losses[0] == pytest.approx(plain.loss(batch)[0].item(), rel=1e-9)
    assert losses[1] > losses[0]


def test_the_spread_of_the_policy_is_learnt_with_its_rate():
    """CORL and young-geng learn the multiplier (from 1) and the offset (from −1) of log σ."""
    module = build()
    assert (module.policy.log_std_multiplier.item(), module.policy.log_std_offset.item()) == (1.0, -1.0)
    policy_group = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    learnt = {id(parameter) for parameter in policy_group}
    assert {id(module.policy.log_std_multiplier), id(module.policy.log_std_offset)} <= learnt
    module.loss(transitions())[0].backward()
    assert module.policy.log_std_multiplier.grad.item() != 0
    assert module.policy.log_std_offset.grad.item() != 0


def test_bins_span_the_returns_of_the_data(tmp_path):
    """Of the rewards that the critics learn; one end may be given. Critics and targets have the same bins."""
    module = ConservativeQLearning(model_config("cql", value_loss="hl_gauss", value_max=1e3, reward_scale=2.0), DIMS)
    fit_steps(module, tmp_path, 1)
    store = TrajectoryStore.open(tmp_path / "store")
    least = math.inf
    for begin, end in zip(store.episode_offsets[:-1], store.episode_offsets[1:], strict=True):  # all of them terminate
        value = 0.0
        for reward in store.rewards[begin:end][::-1]:
            value = 2 * float(reward) + 0.99 * value
            least = min(least, value)
    for critics in (module.critics, module.target_critics):
        assert critics.histogram.low.item() == pytest.approx(least, rel=1e-5)
        assert critics.histogram.high.item() == 1e3
    assert torch.isfinite(module.recent_losses[0])


def test_the_range_of_values_is_in_the_checkpoint(tmp_path):
    module = ConservativeQLearning(model_config("cql", value_loss="hl_gauss"), DIMS)
    fit_steps(module, tmp_path, 2, checkpoint_every=2)
    again = ConservativeQLearning.from_checkpoint(next(tmp_path.glob("*.ckpt")))
    assert again.critics.histogram.high.item() == module.critics.histogram.high.item() != 10.0


def test_transitions_are_corls():
    """d4rl.qlearning_dataset drops the last step of an episode that a time limit cut; CORL's states: std + 1e-3."""
    wanted = build().window_options
    assert (wanted["drop_timeouts"], wanted["state_std_floor"]) == (True, 1e-3)


def test_kitchen_is_cal_qls():
    """nakamotoo/Cal-QL, branch dev/add-kitchen: scripts/run_kitchen.sh and JaxCQL's defaults."""
    entry = model_entry("cql")
    file = entry.defaults.with_name("kitchen.yaml")
    for name in ("kitchen", "lamo-sparse", "lamo-lowdata"):
        suite = load_suite(name)
        for task in suite.tasks:
            if not task.id.startswith("kitchen"):
                continue
            config = compose(entry.settings, preset=load_preset("paper"), suite=suite, task=task)
            model = config.model
            assert (model.policy_learning_rate, config.optimizer.learning_rate) == (1e-4, 3e-4)
            assert (model.width, model.policy_layers, model.critic_layers) == (512, 3, 3)
            assert (model.orthogonal, model.orthogonal_policy) == (True, True)
            assert (model.penalty_weight, model.importance_sampling, model.max_target_backup) == (5.0, False, True)
            assert (model.lagrange, model.backup_entropy, model.calibrated) == (False, False, False)
            assert config.data.normalize_states is False
            itself = compose(entry.settings, preset=load_preset("paper"), suite=suite, task=task, file=file)
            assert (itself.model.calibrated, itself.training.steps) == (True, 500_000)


def test_impossible_options_are_refused():
    bad_values = ({"value_loss": "l1"}, {"value_bins": 1}, {"value_smoothing": 0}, {"value_min": 1, "value_max": 1})
    ranges = ({"discount": 1.0}, {"target_rate": 0}, {"sampled_actions": 0}, {"calibrated": True, "reward_bias": 1})
    for bad in (*ranges, *bad_values):
        with pytest.raises(ConfigError, match="model"):
            build(**bad)
