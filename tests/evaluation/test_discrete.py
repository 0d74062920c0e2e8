"""Evaluation with discrete actions, and with frames, against loops written by hand."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from dtbench.evaluation.acting import BLOCK
from dtbench.evaluation.actions import ActionChoice
from dtbench.evaluation.rollout import EvaluationProtocol, episode_seeds, evaluate
from dtbench.spaces import Discrete, Frames, Spaces, Vector, unit_box
from dtbench.testing import model_config, windows

CARTPOLE = EvaluationProtocol("CartPole-v1", 200, 10.0, np.zeros(4, np.float32), np.ones(4, np.float32))
SEEN = Frames(2, 36, 36)


class Stripes(gym.Env):
    """Shows stacks of two random frames for `horizon` steps; pays 1 for the action that its newest frame names."""

    observation_space = gym.spaces.Box(0, 255, SEEN.shape, np.uint8)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, render_mode=None):
        super().__init__()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = np.zeros(SEEN.shape, np.uint8)
        return self._next(), {}

    def _next(self):
        new = self.np_random.integers(256, size=(1, *SEEN.shape[1:]), dtype=np.uint8)
        self.seen = np.concatenate((self.seen[1:], new))
        return self.seen

    def step(self, action):
        reward = float(action == self.seen[-1, 0, 0] % 3)
        return self._next(), reward, False, False, {}


gym.register("dtbench-test/Stripes-v0", Stripes)
STRIPES = replace(CARTPOLE, env_id="dtbench-test/Stripes-v0", max_episode_steps=600)


def build(name: str, spaces: Spaces, context: int = 4, **options):
    from dtbench.registry import model_entry

    config = model_config(name, **options)
    config.training.context_length = context
    return model_entry(name).load()(config, spaces).eval()


def in_cartpole() -> torch.nn.Module:
    return build("dt", Spaces(Vector(4), Discrete(2), 200), tanh="false")


def singly(model, seed: int) -> tuple[float, int]:
    """Evaluate one greedy episode of CartPole by hand."""
    env, steps = gym.make("CartPole-v1", max_episode_steps=200), []
    observation, _ = env.reset(seed=seed)
    context, to_go = model.context_length, 50.0 / 10
    while True:
        steps.append({"observations": observation, "actions": 0, "rewards": 0.0, "returns_to_go": to_go})
        kept = steps[-context:]
        pads, first = context - len(kept), len(steps) - len(kept)
        window = {
            name: torch.tensor(np.stack([np.zeros_like(kept[0][name])] * pads + [step[name] for step in kept]))
            for name in kept[0]
        }
        window = {
            name: (value.long() if name == "actions" else value.float())[None].expand(BLOCK, *[-1] * value.dim())
            for name, value in window.items()
        }
        times = torch.tensor([0] * pads + list(range(first, len(steps))))
        window["timesteps"] = times.expand(BLOCK, -1)
        window["padding_mask"] = torch.tensor([False] * pads + [True] * len(kept)).expand(BLOCK, -1)
        with torch.no_grad():
            action = int(model.act(window)[0].argmax())
        observation, reward, terminated, truncated, _ = env.step(action)
        steps[-1].update(actions=action, rewards=reward / 10)
        to_go -= reward / 10
        if terminated or truncated:
            return 10 * sum(step["rewards"] for step in steps), len(steps)


def test_greedy_episodes_equal_stepping_by_hand():
    model = in_cartpole()
    done = evaluate(model, CARTPOLE, 50.0, 3, seed=5)
    for index, seed in enumerate(episode_seeds(5, 3)):
        returned, length = singly(model, seed)
        assert done.lengths[index] == length
        assert done.returns[index] == pytest.approx(returned)


@pytest.mark.parametrize("options", [{"actions": "sampled"}, {"random_actions": 0.3}])
def test_drawn_actions_do_not_depend_on_the_other_episodes(options):
    model, protocol = in_cartpole(), replace(CARTPOLE, **options)
    together = evaluate(model, protocol, 50.0, 13, seed=1)
    assert evaluate(model, protocol, 50.0, 2, seed=1).returns == together.returns[:2]
    assert len(set(together.returns)) > 3
    assert evaluate(model, protocol, 50.0, 13, seed=2).returns != together.returns


def frequencies(how: str, random_share: float) -> np.ndarray:
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    choose = ActionChoice(Discrete(3), [7], how, random_share)
    return np.bincount([choose(logits, np.array([0]))[1][0] for _ in range(20_000)], minlength=3) / 20_000


@pytest.mark.parametrize("random_share", [0.0, 0.25])
def test_drawn_actions_have_the_policys_frequencies(random_share):
    softmax = np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum()
    wanted = (1 - random_share) * softmax + random_share / 3
    # Four standard deviations of a share of 20,000 draws are at most 0.0142.
    assert np.abs(frequencies("sampled", random_share) - wanted).max() < 0.0142
    greedy = np.array([1 - random_share, 0, 0]) + random_share / 3
    assert np.abs(frequencies("greedy", random_share) - greedy).max() < 0.0142


def test_continuous_actions_are_clipped_for_the_environment_only():
    outputs = torch.tensor([[3.0, -0.5]])
    shown, taken = ActionChoice(unit_box(2), [0], "greedy", 0.0)(outputs, np.array([0]))
    assert torch.equal(shown, outputs)
    assert taken.tolist() == [[1.0, -0.5]]


class Watcher:
    """Chooses actions in turn and keeps the windows of the first environment."""

    context_length = 5

    def __init__(self):
        self.windows = []

    def act(self, window):
        self.windows.append({name: value[0].clone() for name, value in window.items()})
        return torch.nn.functional.one_hot(torch.full((BLOCK,), len(self.windows) % 3), 3).float()


def test_windows_of_frames_are_the_last_steps_however_long_an_episode_is():
    """600 steps are more than the rollout keeps."""
    watcher = Watcher()
    done = evaluate(watcher, STRIPES, 100.0, 1, seed=3)
    assert done.lengths == [600]
    env = gym.make("dtbench-test/Stripes-v0")
    observation, _ = env.reset(seed=episode_seeds(3, 1)[0])
    seen, actions, rewards, to_go = [], [], [], [10.0]
    for step, window in enumerate(watcher.windows):
        seen.append(observation.copy())
        first, pads = max(0, step - 4), max(0, 4 - step)
        assert window["observations"].dtype == torch.uint8
        assert np.array_equal(window["observations"][pads:].numpy(), np.stack(seen[first:]))
        assert not window["observations"][:pads].any()
        assert window["timesteps"][pads:].tolist() == list(range(first, step + 1))
        assert window["padding_mask"].tolist() == [False] * pads + [True] * (5 - pads)
        assert window["actions"].dtype == torch.int64
        assert window["actions"][pads:].tolist() == [*actions[first:], 0]
        assert window["rewards"][pads:].tolist() == pytest.approx([*rewards[first:], 0])
        assert window["returns_to_go"][pads:].tolist() == pytest.approx(to_go[first:], abs=1e-5)
        actions.append((step + 1) % 3)
        observation, reward, *_ = env.step(actions[-1])
        rewards.append(reward / 10)
        to_go.append(to_go[-1] - reward / 10)
    assert done.returns == [pytest.approx(10 * sum(rewards))]


@pytest.mark.parametrize("name", ["dt", "dc", "ds4", "lamo", "gpt2_dt", "gpt2_dtma"])
def test_observations_encoded_once_give_the_same_logits(name):
    """Rounding: a convolution over other rows adds in another order."""
    model = build(name, Spaces(SEEN, Discrete(3), 40))
    window = windows(model)
    seen = window["observations"]
    features = model.encode(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    features = features * window["padding_mask"][..., None]
    with torch.no_grad():
        assert torch.allclose(model.act({**window, "features": features}), model.act(window), atol=1e-6)


@pytest.mark.parametrize("name", ["dt", "bc", "cql"])
def test_models_act_on_frames(name):
    model = build(name, Spaces(SEEN, Discrete(3), 40), context=1 if name == "cql" else 4)
    done = evaluate(model, replace(STRIPES, max_episode_steps=40), 10.0, 12, seed=0)
    assert done.lengths == [40] * 12
    assert done.returns[:2] == evaluate(model, replace(STRIPES, max_episode_steps=40), 10.0, 2, seed=0).returns
