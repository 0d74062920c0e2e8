"""Q-Transformer: its loss against loops over the equations, what sees what, how it acts, and what it learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dtbench.data.store import TrajectoryStore
from dtbench.errors import ConfigError
from dtbench.models.q_transformer import QTransformer
from dtbench.registry import model_entry
from dtbench.spaces import Discrete, Spaces, Vector, unit_box
from dtbench.testing import DIMS, build_model, fit_steps, model_config, windows

DISCRETE = Spaces(Vector(5), Discrete(3), 30)
THREE = Spaces(Vector(5), unit_box(3), 30)


def build(spaces: Spaces = DIMS, **options) -> QTransformer:
    torch.manual_seed(0)
    module = QTransformer(model_config("q_transformer", **{"bins": 6, **options}), spaces).double().eval()
    with torch.no_grad():  # far from each other, so that a maximum is clear
        for weight in (*module.critic.parameters(), *module.target.parameters()):
            weight.add_(0.3 * torch.randn_like(weight))
    return module


def window_of(module: QTransformer) -> dict[str, Tensor]:
    window = windows(module)
    window["terminations"][0, -1] = False
    window["terminations"][1, -2] = True  # inside the window
    return {name: value.double() if value.is_floating_point() else value for name, value in window.items()}


def q(critic, observations: Tensor, prefix: list[int]) -> np.ndarray:
    """Q of the bins behind a prefix, in the last of a few states, from a pass of its own without padding."""
    seen = torch.zeros(1, 5, 5, dtype=torch.float64)  # what stands in the padding does not matter
    mask = torch.zeros(1, 5, dtype=torch.bool)
    seen[0, 5 - len(observations) :], mask[0, 5 - len(observations) :] = observations, True
    state = critic.encode({"observations": seen, "padding_mask": mask})[:, -1]
    bins = torch.tensor([prefix], dtype=torch.int64).reshape(1, len(prefix))
    return critic(state, bins)[0, -1].detach().numpy()


@pytest.mark.parametrize("spaces", [DIMS, THREE, DISCRETE], ids=["two", "three", "discrete"])
@pytest.mark.parametrize(
    "options",
    [
        {"penalty_weight": 0.7, "monte_carlo": "false"},
        {"value_min": -2, "value_max": 3},
        {"n_step": 3, "monte_carlo": "false", "value_min": -2, "value_max": 3},
    ],
    ids=["plain", "monte-carlo", "n-step"],
)
def test_the_loss_is_the_equations(spaces, options):
    module = build(spaces, discount=0.9, **options)
    low, high = module.options.value_min or 0.0, module.options.value_max or 1.0
    batch = window_of(module)
    total, metrics = module.loss(batch)
    errors, unseen = [], []
    for row in range(len(batch["padding_mask"])):
        steps = [k for k in range(5) if batch["padding_mask"][row, k]]
        now, following = batch["observations"][row, steps], batch["next_observations"][row, steps]
        rewards = batch["rewards"][row, steps].tolist()
        ended = batch["terminations"][row, steps].tolist()
        for k, step in enumerate(steps):
            action = batch["actions"][row, step]
            bins = [int(action)] if spaces is DISCRETE else [min(int((a + 1) / 2 * 6), 5) for a in action.tolist()]
            value, weight = 0.0, 1.0  # Σ γʲ r, and then γⁿ max Q′ of the first dimension
            for behind in range(k, min(k + module.options.n_step, len(steps))):
                value += weight * rewards[behind]
                weight *= 0.0 if ended[behind] else 0.9
            last = min(k + module.options.n_step, len(steps)) - 1
            value += weight * (low + (high - low) * q(module.target, following[: last + 1], []).max())
            targets = [q(module.target, now[: k + 1], bins[:i]).max() for i in range(1, len(bins))]
            targets.append((value - low) / (high - low))
            if module.options.monte_carlo:
                least = (batch["discounted_returns"][row, step].item() - low) / (high - low)
                targets = [max(target, least) for target in targets]
            for i, target in enumerate(targets):
                values = q(module.critic, now[: k + 1], bins[:i])
                errors.append((values[bins[i]] - min(max(target, 0.0), 1.0)) ** 2)
                others = [value**2 for index, value in enumerate(values) if index != bins[i]]
                unseen.append(sum(others) / len(others))
    assert metrics["td_loss"].item() == pytest.approx(np.mean(errors), rel=1e-9)
    assert metrics["unseen_loss"].item() == pytest.approx(np.mean(unseen), rel=1e-9)
    expected = 0.5 * np.mean(errors) + 0.5 * module.options.penalty_weight * np.mean(unseen)
    assert total.item() == pytest.approx(expected, rel=1e-9)


def test_a_dimension_sees_those_before_it_only():
    module = build(THREE)
    states, bins = torch.randn(4, 32).double(), torch.randint(6, (4, 2))
    together = module.critic(states, bins)
    assert together.shape == (4, 3, 6)
    for count in range(3):
        alone = module.critic(states, bins[:, :count], slice(-1, None))[:, 0]
        assert torch.allclose(together[:, count], alone, atol=1e-12)
    other = module.critic(states, (bins + torch.tensor([0, 1])) % 6)
    assert torch.equal(other[:, :2], together[:, :2])
    assert not torch.allclose(other[:, 2], together[:, 2], atol=1e-4)


def test_a_state_sees_those_before_it_only():
    module = build()
    window = window_of(module)
    before = module.critic.encode(window)
    window["observations"][:, 3:] += 1.0
    after = module.critic.encode(window)
    real = window["padding_mask"]
    assert torch.equal(before[:, :3][real[:, :3]], after[:, :3][real[:, :3]])
    assert not torch.allclose(before[:, 3:][real[:, 3:]], after[:, 3:][real[:, 3:]], atol=1e-4)


class Table(torch.nn.Module):
    """A critic that knows the value of every whole action, and of a prefix the best that can follow."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.table = values  # (states, bins, bins, bins)

    def encode(self, window: dict[str, Tensor], select: slice) -> Tensor:
        return window["observations"][:, select, :1]

    def forward(self, states: Tensor, bins: Tensor, select: slice) -> Tensor:
        rows = []
        for state, prefix in zip(states[:, 0].long(), bins.tolist(), strict=True):
            left = self.table[state][tuple(prefix)]
            rows.append(left.flatten(1).amax(dim=1) if left.dim() > 1 else left)
        return torch.stack(rows)[:, None]


def test_acting_finds_the_best_of_all_actions():
    """With consistent values the best bin of each dimension in turn is what an exhaustive search finds."""
    module = build(THREE, bins=4)
    values = torch.rand(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    module.critic = Table(values)
    observations = torch.zeros(5, 5, 5)
    observations[:, -1, 0] = torch.arange(5)
    actions = module.act({"observations": observations, "padding_mask": torch.ones(5, 5, dtype=torch.bool)})
    assert actions.dtype == torch.float32
    for state in range(5):
        best = max(itertools.product(range(4), repeat=3), key=lambda bins, state=state: values[state][bins])
        assert actions[state].tolist() == pytest.approx([-1 + 2 * (index + 0.5) / 4 for index in best])


def test_discrete_actions_have_their_values():
    module = build(DISCRETE, value_min=-2, value_max=3)
    window = window_of(module)
    values = module.act(window)
    for row in range(len(values)):
        seen = window["observations"][row][window["padding_mask"][row]]
        assert values[row].tolist() == pytest.approx((-2 + 5 * q(module.critic, seen, [])).tolist(), rel=1e-5)


def test_the_target_follows_slowly_and_without_dropout(tmp_path):
    module = build_model("q_transformer")
    before = [weight.clone() for weight in module.target.parameters()]
    fit_steps(module, tmp_path, 1)
    for old, target, critic in zip(before, module.target.parameters(), module.critic.parameters(), strict=True):
        assert torch.allclose(target, 0.99 * old + 0.01 * critic, atol=1e-7)
    assert all(weight.grad is None for weight in module.target.parameters())
    module.train()
    assert module.critic.training
    assert not any(part.training for part in module.target.modules())


def test_values_span_the_returns_of_the_data(tmp_path):
    """And the range is in the checkpoint: untrained windows know nothing of it."""
    module = model_entry("q_transformer").load()(model_config("q_transformer", discount=0.5, value_max=90), DIMS)
    assert module.window_options == {"next_observations": True, "return_scale": 1.0, "discount": 0.5}
    fit_steps(module, tmp_path, 1, checkpoint_every=1)
    store, found = TrajectoryStore.open(tmp_path / "store"), []
    for begin, end in zip(store.episode_offsets[:-1], store.episode_offsets[1:], strict=True):  # all of them terminate
        for step in range(begin, end):
            found.append(sum(0.5**k * float(reward) for k, reward in enumerate(store.rewards[step:end])))
    again = QTransformer.from_checkpoint(next(tmp_path.glob("*.ckpt")))
    for one in (module, again):
        assert one.value_low.item() == pytest.approx(min(found), rel=1e-5)
        assert one.value_high.item() == 90.0
    values = torch.tensor([-3.0, 0.0, 41.0])
    assert torch.allclose(again.unscaled(again.scaled(values)), values, atol=1e-4)


def test_training_finds_the_best_action_of_the_data():
    """A bandit of four actions in two dimensions, whose best one is no combination of the best means of each."""
    module = build(dropout=0.0).float()
    g = torch.Generator().manual_seed(0)
    arms = torch.tensor([[-0.9, -0.9], [-0.9, 0.6], [0.6, -0.9], [0.6, 0.6]])
    rewards = torch.tensor([1.0, 0.0, 0.8, 0.7])
    drawn = torch.randint(4, (16,), generator=g)
    batch = {
        "observations": torch.zeros(16, 5, 5),
        "next_observations": torch.zeros(16, 5, 5),
        "actions": torch.zeros(16, 5, 2),
        "rewards": torch.zeros(16, 5),
        "padding_mask": torch.zeros(16, 5, dtype=torch.bool),
        "terminations": torch.ones(16, 5, dtype=torch.bool),
    }
    batch["padding_mask"][:, -1], batch["actions"][:, -1], batch["rewards"][:, -1] = True, arms[drawn], rewards[drawn]
    batch["discounted_returns"] = batch["rewards"]
    optimizer = torch.optim.Adam(module.critic.parameters(), lr=3e-3)
    module.train()
    for _ in range(120):
        optimizer.zero_grad()
        module.loss(batch)[0].backward()
        optimizer.step()
        for old, new in zip(module.target.parameters(), module.critic.parameters(), strict=True):
            old.data.lerp_(new.data, 0.1)
    module.eval()
    chosen = module.bins_of(module.act(batch))[0].tolist()
    assert chosen == module.bins_of(arms[0]).tolist()
    with torch.no_grad():
        first = module.critic(module.critic.encode(batch)[:, -1], torch.empty(16, 0, dtype=torch.int64))[0, 0]
    seen = {int(module.bins_of(arm)[0]) for arm in arms}
    assert first[[index for index in range(6) if index not in seen]].max() < 0.1  # unseen ones are pulled to 0


def test_impossible_options_are_refused():
    for bad in (
        {"bins": 1}, {"discount": 1.0}, {"target_rate": 0}, {"n_step": 0}, {"heads": 3}, {"action_layers": 0},
        {"penalty_weight": -1}, {"dropout": 1}, {"activation": "swish"}, {"value_min": 2, "value_max": 1},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="model"):
            build(**bad)
