"""Reacher2d, the sparse-reward arm of the Decision Transformer and LaMo papers, for gymnasium.

kzl/decision-transformer (gym/decision_transformer/envs/reacher_2d.py) has it for mujoco-py; sizes, damping, frame skip
and reward are the same here. The reward is 1 for each step that ends with the fingertip within 0.1 of the target (sum
over both axes). Importing this module registers `dtbench/Reacher2d-v0`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

#: Lengths from the shoulder to the elbow and from there to the fingertip, and the links' directions at joint angle 0.
LINKS, MOUNTED = (0.6, 0.45), np.array([0.785, -0.785])
_NEAR = 0.1
#: DT's horizon (gym/experiment.py, max_ep_len).
HORIZON = 100


class Reacher2d(MujocoEnv):
    """Observation (12,): sin and cos of both angles, both velocities × 0.15 s, fingertip, target, their difference."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        space = gym.spaces.Box(-np.inf, np.inf, (12,), np.float64)
        super().__init__(str(Path(__file__).with_name("reacher_2d.xml")), 15, space, render_mode=render_mode, **kwargs)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        self.do_simulation(np.clip(action, -1, 1), self.frame_skip)
        reward = float(np.abs(self._tip - self._target).sum() < _NEAR)
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), reward, False, False, {}

    @property
    def _tip(self) -> NDArray[np.float64]:
        position: NDArray[np.float64] = self.data.site("fingertip").xpos[:2]
        return position

    @property
    def _target(self) -> NDArray[np.float64]:
        position: NDArray[np.float64] = self.data.mocap_pos[0, :2]
        return position

    def _get_obs(self) -> NDArray[np.float64]:
        angles, tip, target = self.data.qpos, self._tip, self._target
        return np.concatenate((np.sin(angles), np.cos(angles), self.dt * self.data.qvel, tip, target, tip - target))

    def reset_model(self) -> NDArray[np.float64]:
        angles = self.np_random.uniform(-2, 2, size=2)
        while True:
            target = self.np_random.uniform(-1.5, 1.5, size=2)
            if 0.5 <= np.linalg.norm(target) <= 1:
                break
        self.data.mocap_pos[0, :2] = target
        self.set_state(angles, np.zeros(2))
        return self._get_obs()


gym.register("dtbench/Reacher2d-v0", "dtbench.environments.reacher2d:Reacher2d", max_episode_steps=HORIZON)
