"""Franka Kitchen with D4RL's observation of 60 numbers; gymnasium-robotics' environment has 59 and a goal.

D4RL's observation (d4rl/kitchen/kitchen_envs.py) holds the robot's 9 positions, the objects' 21, and a goal of 30
numbers, zero except for the elements that the task is about; it has no velocities. gymnasium-robotics ported the same
scene and the same goals, so its positions can be put in D4RL's order. Importing this module registers
`dtbench/Kitchen-{complete,partial,mixed}-v0`; `make_environment` imports it.
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


class D4rlObservation(gym.ObservationWrapper):
    """Turns gymnasium-robotics' observation into D4RL's: (60,) float64."""

    def __init__(self, env: gym.Env, goal: NDArray[np.float64]) -> None:
        super().__init__(env)
        self.goal = goal
        self.observation_space = spaces.Box(-np.inf, np.inf, (2 * _POSITIONS,), np.float64)

    def observation(self, observation: dict[str, Any]) -> NDArray[np.float64]:
        state = observation["observation"]
        return np.concatenate((state[_ROBOT], state[_OBJECTS], self.goal))


def kitchen(task: str, render_mode: str | None = None) -> gym.Env:
    """Make the kitchen of one of `TASKS`: 1 is paid for each element brought to its goal, the fourth ends it."""
    from dtbench.environments.make import import_robotics

    import_robotics()
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
        OBS_ELEMENT_GOALS,
        OBS_ELEMENT_INDICES,
        KitchenEnv,
    )

    goal = np.zeros(_POSITIONS)
    for element in TASKS[task]:
        goal[OBS_ELEMENT_INDICES[element]] = OBS_ELEMENT_GOALS[element]
    return D4rlObservation(KitchenEnv(tasks_to_complete=list(TASKS[task]), render_mode=render_mode), goal)


for _task in TASKS:
    gym.register(
        f"dtbench/Kitchen-{_task}-v0",
        "dtbench.environments.kitchen:kitchen",
        max_episode_steps=280,
        kwargs={"task": _task},
    )
