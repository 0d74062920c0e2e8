"""Franka Kitchen as D4RL has it: what is shown, how noisy it is, and what is paid."""

from __future__ import annotations

import numpy as np
import pytest

from dtbench.environments.kitchen import TASKS
from dtbench.environments.make import make_environment

#: D4RL (d4rl/kitchen/adept_envs/franka): noise is uniform, 0.1 × the amplitude of each joint in franka_config.xml.
AMPLITUDES = np.array(
    [0.1] * 9  # the robot
    + [0.005] * 2  # qpos9, 10
    + [0.0005] * 6  # qpos11 to 16
    + [0.005] * 3  # qpos17 to 19
    + [0.1] * 3  # qpos20 to 22
    + [0.005] * 3  # qpos23 to 25: the kettle's position
    + [0.1] * 3  # qpos26 to 28
    + [0.005]  # qpos29
)
MICROWAVE, MICROWAVE_OPEN, THRESHOLD = 22, -0.75, 0.3


def make(task: str = "complete"):
    return make_environment(f"dtbench/Kitchen-{task}-v1")


@pytest.mark.parametrize("task", list(TASKS))
def test_it_shows_what_d4rl_shows(task):
    env = make(task)
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (60,)
    kitchen = env.unwrapped
    assert len(kitchen.goal) == 4
    assert np.count_nonzero(observation[30:]) == sum(np.count_nonzero(goal) for goal in kitchen.goal.values())
    assert env.spec.max_episode_steps == 280


def test_noise_is_uniform_with_d4rls_amplitudes():
    """Every joint's noise stays within its bound, comes near it, and has a uniform's standard deviation."""
    env = make()
    seen = [env.reset(seed=0)[0]]
    truth = [env.unwrapped.data.qpos[:30].copy()]
    for _ in range(279):
        seen.append(env.step(np.zeros(9))[0])
        truth.append(env.unwrapped.data.qpos[:30].copy())
    noise = (np.array(seen)[:, :30] - np.array(truth)) / (0.1 * AMPLITUDES)
    assert np.abs(noise).max() <= 1 + 1e-9
    assert (np.abs(noise).max(axis=0) > 0.95).all()  # 280 draws all within 0.95: probability 6e-7 per joint
    assert noise.std(axis=0) == pytest.approx(np.full(30, 3**-0.5), abs=0.1)
    assert np.abs(noise[0]).min() > 0  # the first observation is noisy, too


def test_what_is_seen_decides_what_is_paid():
    """D4RL pays for elements whose observed, noisy place is within the threshold."""
    env = make()
    kitchen = env.unwrapped
    outcomes = set()
    for seed in range(20):
        env.reset(seed=seed)
        kitchen.data.qpos[MICROWAVE] = MICROWAVE_OPEN + THRESHOLD  # on the border; the noise decides
        kitchen.data.qvel[:] = 0
        kitchen.robot_env.model.opt.timestep = 1e-9
        observation, reward, *_ = env.step(np.zeros(9))
        kitchen.robot_env.model.opt.timestep = 0.002
        assert reward == float(abs(observation[MICROWAVE] - MICROWAVE_OPEN) < THRESHOLD)
        outcomes.add(reward)
    assert outcomes == {0.0, 1.0}


def test_episodes_are_a_function_of_their_seed():
    first, again, other = (make().reset(seed=seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_each_element_is_paid_once_and_the_fourth_ends_the_episode():
    env = make()
    kitchen = env.unwrapped
    env.reset(seed=0)
    paid = []
    for element, goal in kitchen.goal.items():
        kitchen.data.qpos[_joints(element)] = goal
        kitchen.data.qvel[:] = 0
        _, reward, terminated, *_ = env.step(np.zeros(9))
        paid.append((reward, terminated))
    assert [reward for reward, _ in paid] == [1.0] * 4
    assert [terminated for _, terminated in paid] == [False, False, False, True]


def _joints(element: str) -> np.ndarray:
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_INDICES

    return OBS_ELEMENT_INDICES[element]
