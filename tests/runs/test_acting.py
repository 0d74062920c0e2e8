"""A run as a policy in a plain loop: the oracle is the run's own evaluation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from dtbench.errors import ConfigError, DtbenchError
from dtbench.evaluation.rollout import episode_seeds, evaluate
from dtbench.runs import reopen
from dtbench.runs.acting import RunPolicy, open_policy
from dtbench.runs.folder import RunFolder
from dtbench.runs.reopen import evaluate_again
from dtbench.spaces import Discrete, Spaces, Vector
from tests.commands import dtbench, only_result
from tests.evaluation.test_discrete import CARTPOLE


def loop(policy: RunPolicy, env: gym.Env, seed: int, target: float | None = None) -> float:
    """What a user would write."""
    observation, _ = env.reset(seed=seed)
    policy.reset(target, seed=seed)
    total, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        policy.observe(reward)
        total += reward
        done = terminated or truncated
    return total


def test_a_plain_loop_gets_the_returns_of_the_runs_own_evaluation(finished_run):
    policy, record = open_policy(finished_run), only_result(finished_run.parents[5])
    assert policy.env_seeds() == record.evaluation.env_seeds
    env = policy.make_env()
    assert [loop(policy, env, seed) for seed in policy.env_seeds()] == record.scores.returns


def test_another_target(finished_run):
    policy = open_policy(finished_run)
    (expected,) = evaluate_again(finished_run, targets=[500.0], episodes=1, seed=4)
    env = gym.make("Hopper-v5")  # not ours: the user's own
    assert loop(policy, env, episode_seeds(4, 1)[0], target=500.0) == expected["returns"][0]
    assert policy.target == 500.0
    assert loop(policy, env, 11) == loop(policy, env, 11)  # nothing is left of the episode before


@pytest.mark.parametrize(
    ("trained_on", "cuda", "expected"),
    [("NVIDIA H100", True, "cuda"), ("NVIDIA H100", False, "cpu"), ("cpu", True, "cpu"), ("mps", True, "cpu")],
)
def test_an_evaluation_is_repeated_on_the_device_of_the_run(trained_on, cuda, expected, tmp_path, monkeypatch):
    training = SimpleNamespace(training=SimpleNamespace(device=trained_on))
    monkeypatch.setattr(reopen, "read_result", lambda path: training)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert reopen.evaluation_device(RunFolder(tmp_path)).type == expected


def test_without_a_result_it_is_repeated_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert reopen.evaluation_device(RunFolder(tmp_path / "seed-0")).type == "cpu"


class Drawing:
    """Acts on the numbers that it is given, and on the step before."""

    context_length, draws = 3, 2

    def __init__(self, spaces):
        self.spaces = spaces

    def act(self, window):
        seen = window["observations"][:, -1].sum(-1, keepdim=True) + window["rewards"].sum(-1, keepdim=True)
        return torch.cat((window["draws"][:, :1] + seen.sin(), window["draws"][:, 1:]), dim=-1)


def test_policies_that_draw_and_actions_that_are_sampled():
    """In CartPole, against `evaluate`: random numbers are a function of the environment's seed."""
    protocol = replace(CARTPOLE, actions="sampled", random_actions=0.1)
    record = SimpleNamespace(seed=5, task=SimpleNamespace(score_target=50.0))
    config = SimpleNamespace(evaluation=SimpleNamespace(episodes=4), hardware=SimpleNamespace(precision="32-true"))
    module = Drawing(Spaces(Vector(4), Discrete(2), 200))
    policy = RunPolicy(SimpleNamespace(record=record, config=config, module=module, protocol=protocol))
    expected = evaluate(module, protocol, 50.0, 4, seed=5)
    assert len(set(expected.returns)) > 1
    env = policy.make_env()
    assert [loop(policy, env, seed) for seed in policy.env_seeds()] == expected.returns
    policy.reset(seed=0)
    assert type(policy.act(env.reset(seed=0)[0])) is int


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dlstm", "edt"])
def test_models_that_carry_a_state_or_draw(tmp_path, model):
    dtbench("run", "--suite", "sanity", "--preset", "smoke", "--source", "local", "--task", "key-to-door",
            "--model", model, "--output", tmp_path, "--set", "evaluation.episodes=3")  # fmt: skip
    (folder,) = tmp_path.glob("*@*/*/*/*/*/seed-0")
    policy, record = open_policy(folder), only_result(tmp_path)
    env = policy.make_env()
    assert [loop(policy, env, seed) for seed in policy.env_seeds()] == record.scores.returns


def test_mistakes_are_named(finished_run):
    policy = open_policy(finished_run)
    env = policy.make_env()
    observation, _ = env.reset(seed=0)
    with pytest.raises(DtbenchError, match="reset"):
        policy.act(observation)
    policy.reset()
    with pytest.raises(DtbenchError, match=r"observe.*follows an action"):
        policy.observe(1.0)
    with pytest.raises(DtbenchError, match=r"shape \(3,\)"):
        policy.act(observation[:3])
    action = policy.act(observation)
    assert env.action_space.contains(action)
    with pytest.raises(DtbenchError, match=r"observe\(reward\)"):
        policy.act(observation)
    with pytest.raises(ConfigError, match="finite"):
        policy.reset(target=np.nan)
    assert repr(policy) == "RunPolicy(dt on hopper-medium, seed 0)"
