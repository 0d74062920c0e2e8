"""Evaluation against gymnasium stepped singly, and together against singly."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError, DataError, DtbenchError
from dtbench.evaluation.acting import BLOCK
from dtbench.evaluation.rollout import EvaluationProtocol, episode_seeds, evaluate, evaluate_together
from dtbench.models.base import OfflineModule
from dtbench.registry import model_entry
from dtbench.testing import model_config


def rows_are_alike() -> bool:
    """Return whether this processor rounds a product's rows alike: on a Xeon with AMX it does not (`acting.py`)."""
    product = torch.ones(BLOCK, 1) @ torch.linspace(-1, 1, 128)[None] @ torch.linspace(-1, 1, 384).reshape(128, 3)
    return bool((product == product[0]).all())


#: How far returns may differ if episodes are evaluated beside others: elsewhere by up to 1.5e-8 of their size.
SAME = 0 if rows_are_alike() else 1e-6
RNG = np.random.default_rng(0)
HOPPER = EvaluationProtocol(
    env_id="Hopper-v5",
    max_episode_steps=120,
    return_scale=1000.0,
    state_mean=RNG.normal(size=11).astype(np.float32),
    state_std=RNG.uniform(0.5, 2, size=11).astype(np.float32),
)


def policy(name: str = "dt", **config) -> OfflineModule:
    """Return a real model with random weights, large enough that its matrix products are blocked."""
    dims = {"observation_dim": 11, "action_dim": 3, "max_timesteps": 1000}
    settings = model_config(name, width=64, **config)
    settings.training.context_length = 7
    return model_entry(name).load()(settings, dims).eval()


def singly(model, protocol: EvaluationProtocol, target: float, seed: int) -> tuple[float, int]:
    """Evaluate one episode by hand: lists, a new window for each step, gymnasium stepped one by one."""
    env = gym.make(protocol.env_id, max_episode_steps=protocol.max_episode_steps)
    observation, _ = env.reset(seed=seed)
    states, actions, to_go, rewards = [], [], [target / protocol.return_scale], []
    K = model.context_length
    while True:
        states.append((observation - protocol.state_mean) / protocol.state_std)
        window = {
            "observations": np.zeros((K, 11)), "actions": np.zeros((K, 3)), "rewards": np.zeros(K),
            "returns_to_go": np.zeros(K), "timesteps": np.zeros(K), "padding_mask": np.zeros(K),
        }  # fmt: skip
        for back in range(min(K, len(states))):
            step, place = len(states) - 1 - back, K - 1 - back
            window["observations"][place] = states[step]
            window["returns_to_go"][place] = to_go[step]
            window["timesteps"][place] = step
            window["padding_mask"][place] = 1
            if back:
                window["actions"][place] = actions[step]
                window["rewards"][place] = 0 if protocol.delayed_reward else rewards[step]
        tensors = {key: torch.tensor(value, dtype=torch.float32)[None] for key, value in window.items()}
        tensors["timesteps"], tensors["padding_mask"] = tensors["timesteps"].long(), tensors["padding_mask"].bool()
        block = {key: value.expand(BLOCK, *value.shape[1:]) for key, value in tensors.items()}
        with torch.no_grad():
            action = model.act(block)[0].numpy()
        actions.append(action)
        observation, reward, terminated, truncated, _ = env.step(np.clip(action, -1, 1))
        rewards.append(reward / protocol.return_scale)
        to_go.append(to_go[-1] - (0 if protocol.delayed_reward else reward / protocol.return_scale))
        if terminated or truncated:
            return float(np.sum(rewards) * protocol.return_scale), len(rewards)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("delayed", [False, True])
def test_equals_gymnasium_stepped_singly(delayed, one_thread):
    """The same returns and lengths, episode by episode, as from a hand-written loop."""
    protocol, model = replace(HOPPER, delayed_reward=delayed), policy()
    done = evaluate(model, protocol, target=3600, episodes=4, seed=0)
    for index, seed in enumerate(done.seeds):
        expected, length = singly(model, protocol, 3600, seed)
        assert done.lengths[index] == length
        assert done.returns[index] == pytest.approx(expected, rel=max(SAME, 1e-9))  # summed in another order


class Recorder:
    """A policy that keeps what it is shown of the rewards."""

    context_length = 3

    def __init__(self) -> None:
        self.rewards: list[list[float]] = []

    def act(self, window: dict[str, torch.Tensor]) -> torch.Tensor:
        self.rewards.append(window["rewards"][0].tolist())
        return torch.zeros(len(window["rewards"]), 3)


@pytest.mark.parametrize("delayed", [False, True])
def test_windows_show_rewards_as_in_training(delayed):
    """The last steps' rewards, scaled; of a delayed return nothing comes before the last step."""
    protocol, model = replace(HOPPER, delayed_reward=delayed), Recorder()
    done = evaluate(model, protocol, target=0, episodes=1)
    shown = [window[-2] for window in model.rewards[1:]]
    assert all(window[-1] == 0 for window in model.rewards)  # not paid yet
    if delayed:
        assert shown == [0.0] * (done.lengths[0] - 1)
    else:
        last = done.returns[0] / protocol.return_scale - sum(shown)
        assert min(shown) > 0
        assert 0 < last < 2 * max(shown)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_together_and_singly_are_identical(precision):
    """Bit for bit, although a matrix product may round differently for another number of rows."""
    model = policy()
    together = evaluate(model, HOPPER, target=3600, episodes=13, seed=8, precision=precision)
    assert len(set(together.lengths)) > 1
    for episodes in (1, 3):
        part = evaluate(model, HOPPER, target=3600, episodes=episodes, seed=8, precision=precision)
        assert part.seeds == together.seeds[:episodes]
        assert part.returns == together.returns[:episodes]
        assert part.lengths == together.lengths[:episodes]


class Remembers:
    """Acts on the sum of all observations of its episode so far, in the order in which they came."""

    context_length = 120  # as many steps as an episode has

    def act(self, window):
        total = torch.zeros(len(window["observations"]), 11)
        for step in range(self.context_length):
            total = total + window["observations"][:, step] * window["padding_mask"][:, step, None]
        return self.chosen(total, window["actions"][:, -2])

    def chosen(self, total, before):
        return torch.tanh(0.02 * total[:, :3] - 0.5 * before)


class Carries(Remembers):
    """Acts as `Remembers`, on a sum that it carries."""

    def initial_state(self, count):
        return (torch.zeros(1, 11).expand(count, 11),)

    def act_step(self, last, state):
        assert last["padding_mask"].shape == (BLOCK, 2)
        total = state[0] + last["observations"][:, 1]
        return self.chosen(total, last["actions"][:, 0]), (total,)


@pytest.mark.parametrize("episodes", [1, 13])
def test_a_state_goes_with_its_episode(episodes):
    """Bit for bit what a window of the whole episode gives: idle rows and rows of ended episodes leave no trace."""
    windows = evaluate(Remembers(), HOPPER, target=3600, episodes=episodes, seed=8)
    assert evaluate(Carries(), HOPPER, target=3600, episodes=episodes, seed=8) == windows
    assert episodes == 1 or len(set(windows.lengths)) > 1


@pytest.mark.parametrize("name", ["ds4", "dmamba", "dlstm"])
def test_recurrent_policies_act_alike_together_and_singly(name):
    model = policy(name, memory="episode")
    together = evaluate(model, HOPPER, target=3600, episodes=13, seed=8)
    part = evaluate(model, HOPPER, target=3600, episodes=3, seed=8)
    assert (part.returns, part.lengths) == (together.returns[:3], together.lengths[:3])
    assert evaluate(model, HOPPER, target=3600, episodes=3, seed=8) == part  # each evaluation begins anew


def test_what_act_step_returns_is_checked():
    class Odd(Carries):
        def act_step(self, last, state):
            return torch.zeros(BLOCK, 1), state

    with pytest.raises(DtbenchError, match=r"Odd.act_step returned shape \(10, 1\)"):
        evaluate(Odd(), HOPPER, 0, 3)


def test_random_numbers_of_an_environment_are_its_own():
    """A policy that draws gets new numbers in every step, the same however many environments there are."""

    class Drawing:
        context_length, draws = 2, 3

        def __init__(self):
            self.seen = []

        def act(self, window):
            self.seen.append(window["draws"][:3].clone())
            return 2 * window["draws"] - 1

    many, few = Drawing(), Drawing()
    together = evaluate(many, HOPPER, 0, episodes=13, seed=8)
    assert evaluate(few, HOPPER, 0, episodes=3, seed=8).returns == together.returns[:3]
    assert torch.equal(many.seen[0], few.seen[0])
    numbers = torch.stack(few.seen[:10])  # before the first episode ends
    assert len(numbers.unique()) == numbers.numel()
    assert 0 <= numbers.min() < numbers.max() < 1
    assert evaluate(Drawing(), HOPPER, 0, episodes=3, seed=9).returns != together.returns[:3]


def test_exactly_n_episodes_each_environments_first():
    done = evaluate(policy(), HOPPER, target=3600, episodes=11, seed=0)
    assert len(done.returns) == len(done.lengths) == len(set(done.seeds)) == 11
    assert max(done.lengths) <= 120


def test_the_target_is_asked_for():
    """The return-to-go reaches the model: another target, other behaviour."""
    model = policy()
    assert evaluate(model, HOPPER, 3600, 2, 0).returns != evaluate(model, HOPPER, -9000, 2, 0).returns


def test_seeds_do_not_depend_on_the_count_and_zero_is_a_seed():
    assert episode_seeds(0, 3) == episode_seeds(0, 10)[:3]
    assert episode_seeds(0, 3) != episode_seeds(1, 3)


def test_actions_outside_the_space_are_clipped():
    class Wild:
        context_length = 2

        def act(self, window):
            return torch.full((len(window["observations"]), 3), 50.0)

    class Bound(Wild):
        def act(self, window):
            return torch.ones(len(window["observations"]), 3)

    assert evaluate(Wild(), HOPPER, 0, 1).returns == evaluate(Bound(), HOPPER, 0, 1).returns


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_policy_is_an_error_at_once(value):
    """MuJoCo would go on and return NaN, which no result can hold."""

    class Diverged:
        context_length = 2

        def act(self, window):
            actions = torch.zeros(len(window["observations"]), 3)
            actions[1] = value if window["timesteps"].max() == 2 else 0
            return actions

    with pytest.raises(DtbenchError, match="NaN or infinite at step 2"):
        evaluate(Diverged(), HOPPER, 0, 3)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda batch: torch.zeros(batch, 1), r"shape \(10, 1\)"),  # would be broadcast to all three joints
        (lambda batch: torch.zeros(3), r"shape \(3,\)"),
        (lambda batch: torch.zeros(batch, 1, 3), r"shape \(10, 1, 3\)"),
        (lambda batch: torch.zeros(1, 3), r"shape \(1, 3\)"),
        (lambda batch: np.zeros((batch, 3)), "a numpy.ndarray"),
    ],
)
def test_actions_of_another_shape_are_refused(wrong, found):
    class Odd:
        context_length = 2

        def act(self, window):
            return wrong(len(window["observations"]))

    with pytest.raises(DtbenchError, match=rf"Odd.act returned {found}, .*\(B, action size\) = \(10, 3\)"):
        evaluate(Odd(), HOPPER, 0, 3)


def test_a_protocol_is_rebuilt_from_plain_values():
    protocol = replace(HOPPER, env_kwargs={"reset_noise_scale": 0.1}, delayed_reward=True)
    again = EvaluationProtocol.from_dict(json.loads(json.dumps(protocol.to_dict())))
    assert again.to_dict() == protocol.to_dict()
    for name in ("state_mean", "state_std"):
        assert np.array_equal(getattr(again, name), getattr(protocol, name))
        assert getattr(again, name).dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": None}, "env_id"),
        ({"max_episode_steps": "many"}, "max_episode_steps"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"max_episode_steps": True}, "max_episode_steps"),
        ({"return_scale": 0}, "return_scale"),
        ({"return_scale": float("nan")}, "return_scale"),
        ({"state_mean": ["x"]}, "state_mean"),
        ({"state_std": [1.0]}, "state_std"),
        ({"state_std": [0.0] * 11}, "state_std"),
        ({"env_kwargs": [1]}, "env_kwargs"),
        ({"delayed_reward": "no"}, "delayed_reward"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_damaged_protocol_is_one_sentence(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        EvaluationProtocol.from_dict({**HOPPER.to_dict(), **change})
    assert "\n" not in str(caught.value)
    without = {key: value for key, value in HOPPER.to_dict().items() if key != "return_scale"}
    with pytest.raises(ConfigError, match="return_scale"):
        EvaluationProtocol.from_dict(without)


@pytest.mark.parametrize(("episodes", "processes"), [(5, 2), (3, 3), (2, 4)])
def test_processes_share_the_episodes_of_an_evaluation(monkeypatch, episodes, processes):
    """Each rolls out its own; added up, they are one process's."""
    model, shares = policy(), []
    alone = evaluate_together(model, HOPPER, 3600.0, episodes, seed=4)
    assert alone == evaluate(model, HOPPER, 3600.0, episodes, seed=4)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda found: shares.append(found.clone()))
        evaluate_together(model, HOPPER, 3600.0, episodes, seed=4)
    assert all((share != 0).any(0).sum() == len(range(rank, episodes, processes)) for rank, share in enumerate(shares))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda found: found.copy_(sum(shares)))
    shared = evaluate_together(model, HOPPER, 3600.0, episodes, seed=4)
    assert shared.returns == pytest.approx(alone.returns, rel=SAME, abs=0)
    assert (shared.lengths, shared.seeds) == (alone.lengths, alone.seeds)


def test_mistakes_are_named():
    with pytest.raises(DataError, match=r"shape \(11,\), the data have \(4,\)"):
        evaluate(policy(), replace(HOPPER, state_mean=np.zeros(4, np.float32)), 0, 1)
    with pytest.raises(ConfigError, match="Hoper-v5"):
        make_environment("Hoper-v5", 10)
    with pytest.raises(DataError, match=r"shape \(4,\)"):
        evaluate(policy(), replace(HOPPER, env_id="CartPole-v1"), 0, 1)
    with pytest.raises(ConfigError, match="neither vectors nor"):
        evaluate(policy(), replace(HOPPER, env_id="Blackjack-v1"), 0, 1)
