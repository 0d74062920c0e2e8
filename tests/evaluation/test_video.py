"""Videos of an environment that needs no screen."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.evaluation import video
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


@pytest.fixture
def no_screen(monkeypatch):
    """Linux without a screen, and nothing chosen yet; what a test sets is taken back."""
    monkeypatch.setattr(sys, "platform", "linux")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(variable, "")
    return monkeypatch


@pytest.mark.parametrize(("working", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa"), (set(), "")])
def test_the_first_library_that_works_is_chosen(no_screen, working, chosen):
    no_screen.setattr(video, "_works", lambda library: library in working)
    video.prepare_rendering()
    assert os.environ["MUJOCO_GL"] == chosen


@pytest.mark.parametrize(
    ("variable", "value"), [("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0"), ("MUJOCO_GL", "glfw")]
)
def test_a_screen_or_a_choice_of_the_user_is_left_alone(no_screen, variable, value):
    no_screen.setenv(variable, value)
    no_screen.setattr(video, "_works", lambda library: pytest.fail("tried to draw"))
    video.prepare_rendering()
    assert os.environ["MUJOCO_GL"] == (value if variable == "MUJOCO_GL" else "")


def test_a_library_that_does_not_exist_does_not_work():
    assert not video._works("no_such_library")


FILM = """
import sys
from pathlib import Path
import numpy as np, torch
from dtbench.evaluation.rollout import EvaluationProtocol
from dtbench.evaluation.video import record

class Still:
    context_length = 1
    def act(self, window):
        return torch.zeros(len(window["observations"]), 3)

protocol = EvaluationProtocol("Hopper-v5", 4, 1.0, np.zeros(11, np.float32), np.ones(11, np.float32))
record(Still(), protocol, 1.0, Path(sys.argv[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rendering without a screen is for Linux")
def test_mujoco_is_filmed_without_a_screen_or_refused_in_one_sentence(tmp_path):
    """In a process of its own, as `dtbench record` does."""
    film = tmp_path / "hopper.gif"
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    done = subprocess.run(
        [sys.executable, "-c", FILM, str(film)], env=environment, capture_output=True, text=True, timeout=120
    )
    if video._works("egl") or video._works("osmesa"):
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        frames = imageio.mimread(film)
        assert len(frames) >= 3
        assert np.std(frames[0]) > 10  # a picture, not one colour
    else:
        assert "ConfigError: Hopper-v5 cannot be rendered here" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MUJOCO_GL is Linux's")
def test_a_library_that_the_user_chose_wrongly_is_named(tmp_path):
    environment = {**os.environ, "MUJOCO_GL": "direct3d"}
    command = [sys.executable, "-c", FILM, str(tmp_path / "a.gif")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigError: Hopper-v5 cannot be rendered here" in last
    assert "MUJOCO_GL=direct3d" in last


def test_what_cannot_be_rendered_is_one_sentence(grey, tmp_path, no_screen):
    no_screen.setattr(video, "_works", lambda library: False)

    def fail(self):
        raise RuntimeError("no OpenGL\nfor many reasons")

    no_screen.setattr(Grey, "render", fail)
    with pytest.raises(
        ConfigError, match=r"^Grey-v0 cannot be rendered here \(no OpenGL\); without a screen, .*EGL.*\.$"
    ):
        record(Still(), protocol(grey), 1.0, tmp_path / "film.gif")
