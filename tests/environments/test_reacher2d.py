"""Reacher2d against the closed form of its arm, and its scripted data."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dtbench.data.behaviours.scripted import _joint_angles
from dtbench.data.sources import local
from dtbench.environments.make import make_environment
from dtbench.environments.reacher2d import LINKS, MOUNTED


@pytest.fixture
def env():
    return make_environment("dtbench/Reacher2d-v0")


def fingertip(angles):
    upper, lower = angles[0] + MOUNTED[0], angles.sum() + MOUNTED.sum()
    return LINKS[0] * np.array([np.cos(upper), np.sin(upper)]) + LINKS[1] * np.array([np.cos(lower), np.sin(lower)])


def test_observation_and_reward(env):
    observation, _ = env.reset(seed=0)
    reacher = env.unwrapped
    for _ in range(30):
        angles = reacher.data.qpos
        assert np.allclose(observation[:4], [*np.sin(angles), *np.cos(angles)])
        assert np.allclose(observation[6:8], fingertip(angles), atol=1e-6)
        assert np.allclose(observation[10:], observation[6:8] - observation[8:10])
        assert 0.5 <= np.linalg.norm(observation[8:10]) <= 1
        observation, reward, terminated, _, _ = env.step(env.action_space.sample())
        assert not terminated
        assert reward == float(np.abs(observation[10:]).sum() < 0.1)
    assert reacher.dt == pytest.approx(0.15)
    assert env.spec.max_episode_steps == 100


def test_environment_follows_gymnasiums_rules(env):
    check_env(env.unwrapped, skip_render_check=True)


def test_joint_angles_reach_the_target(env):
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = rng.uniform(0.5, 1) * np.array([np.cos(a := rng.uniform(-np.pi, np.pi)), np.sin(a)])
        assert np.allclose(fingertip(_joint_angles(target)), target)


def test_data_are_of_medium_worth(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    store = local.build("reacher2d-medium", steps=1_000_000)
    assert store.episode_lengths.tolist() == [100] * 50
    assert store.episode_returns.mean() == pytest.approx(40.3, abs=1)  # as scripted.py says
    assert store.episode_returns.max() > 76  # the papers' target is in the data
