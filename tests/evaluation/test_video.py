"""Videos of an environment that needs no screen."""

from __future__ import annotations

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.evaluation.rollout import EvaluationProtocol
from dtbench.evaluation.video import record


class Grey(gym.Env):
    """A box whose picture grows brighter with every step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode, self.steps = render_mode, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self):
        return np.full((64, 64, 3), 20 * self.steps, np.uint8)


class Still:
    context_length = 3

    def act(self, window):
        return torch.zeros(len(window["observations"]), 1)


def protocol(env_id: str) -> EvaluationProtocol:
    return EvaluationProtocol(env_id, 7, 1.0, np.zeros(2, np.float32), np.ones(2, np.float32))


@pytest.fixture
def grey():
    gym.register("Grey-v0", Grey)
    yield "Grey-v0"
    del gym.registry["Grey-v0"]


def test_one_frame_per_step(grey, tmp_path):
    done = record(Still(), protocol(grey), 1.0, tmp_path / "film.gif")
    assert done.lengths == [7]
    frames = imageio.mimread(tmp_path / "film.gif")
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 20, 40, 60, 80, 100, 120]


def test_mp4(grey, tmp_path):
    record(Still(), protocol(grey), 1.0, tmp_path / "film.mp4")
    assert imageio.get_reader(tmp_path / "film.mp4").count_frames() == 7


def test_a_file_that_is_no_video_is_named(grey, tmp_path):
    with pytest.raises(ConfigError, match=r"film\.txt cannot be written"):
        record(Still(), protocol(grey), 1.0, tmp_path / "film.txt")
