"""Franka Kitchen as D4RL has it: its observation of 60 numbers, its noise and its reward.

gymnasium-robotics ported D4RL's scene, controller and goals (d4rl/kitchen/kitchen_envs.py), but shows 59 numbers and a
goal, has a tenth of D4RL's noise on the robot and a two-hundredth of it on the objects, and compares noiseless
positions with the goals. D4RL's observation holds the robot's 9 positions, the objects' 21, and a goal of 30 numbers,
zero except for the elements of the task; it has no velocities. Importing this module registers
`dtbench/Kitchen-{complete,partial,mixed}-v1`; `make_environment` imports it.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_ROBOT, _OBJECTS = slice(0, 9), slice(18, 39)
_POSITIONS = 30

#: The elements of each task (d4rl/kitchen/__init__.py).
TASKS = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
#: D4RL's noise on every position: uniform in ± ratio × amplitude (kitchen_multitask_v0.py, franka_config.xml).
NOISE_RATIO = 0.1
#: The amplitudes of the objects' 21 positions. gymnasium-robotics shifts them by one joint, so its own noise is off.
OBJECT_AMPLITUDES = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])


class D4rlKitchen(gym.Wrapper):
    """Turns gymnasium-robotics' kitchen, made without noise on the objects, into D4RL's: (60,) float64.

    An element is paid, once, when its observed place is within the threshold of its goal; the last one ends the
    episode. The robot's noise is the inner environment's: its controller starts from the observed positions.
    """

    def __init__(self, env: gym.Env, goals: dict[str, NDArray[np.float64]], threshold: float) -> None:
        """Wrap an environment whose elements have goals of 30 numbers, NaN for the joints of others."""
        super().__init__(env)
        self.goals, self.threshold = goals, threshold
        self.goal = np.nansum(list(goals.values()), axis=0)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2 * _POSITIONS,), np.float64)

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float64], dict[str, Any]]:
        observation, _ = self.env.reset(**kwargs)
        self.left = set(self.goals)
        return self._observe(observation["observation"]), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, _ = self.env.step(action)
        seen = self._observe(observation["observation"])
        reached = {element for element in self.left if self._is_reached(element, seen[:_POSITIONS])}
        self.left -= reached
        return seen, float(len(reached)), not self.left, truncated, {}

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        robot: Any = self.env.unwrapped
        drawn = robot.robot_env.np_random.uniform(-1, 1, len(OBJECT_AMPLITUDES))
        return np.concatenate((state[_ROBOT], state[_OBJECTS] + NOISE_RATIO * OBJECT_AMPLITUDES * drawn, self.goal))

    def _is_reached(self, element: str, positions: NDArray[np.float64]) -> bool:
        return bool(np.sqrt(np.nansum((positions - self.goals[element]) ** 2)) < self.threshold)


def kitchen(task: str, render_mode: str | None = None) -> gym.Env:
    """Make the kitchen of one of `TASKS`: 1 is paid for each element brought to its goal, the fourth ends it."""
    from dtbench.environments.make import import_robotics

    import_robotics()
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
        BONUS_THRESH,
        OBS_ELEMENT_GOALS,
        OBS_ELEMENT_INDICES,
        KitchenEnv,
    )

    goals = {element: np.full(_POSITIONS, np.nan) for element in TASKS[task]}
    for element, goal in goals.items():
        goal[OBS_ELEMENT_INDICES[element]] = OBS_ELEMENT_GOALS[element]
    noise = {"robot_noise_ratio": NOISE_RATIO, "object_noise_ratio": 0.0}
    env = KitchenEnv(tasks_to_complete=list(TASKS[task]), render_mode=render_mode, **noise)
    return D4rlKitchen(env, goals, BONUS_THRESH)


for _task in TASKS:
    gym.register(
        f"dtbench/Kitchen-{_task}-v1",
        "dtbench.environments.kitchen:kitchen",
        max_episode_steps=280,
        kwargs={"task": _task},
    )
