"""Film one episode of a policy (extra `video`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError, DtbenchError
from dtbench.evaluation.rollout import Episodes, EvaluationProtocol, Policy, evaluate
from dtbench.hardware import FLOAT32

#: What MuJoCo can render with where there is no screen, best first.
_OFFSCREEN = ("egl", "osmesa")
_PROBE_TIMEOUT_S = 60


def record(
    policy: Policy,
    protocol: EvaluationProtocol,
    target: float,
    file: Path,
    seed: int = 0,
    precision: str = FLOAT32,
    *,
    overlay: bool = False,
) -> Episodes:
    """Roll out one episode and write it as a video, in the environment's own frame rate.

    Args:
        policy: the policy, in evaluation mode.
        protocol: how it is evaluated.
        target: return to ask for, in units of the environment's return.
        file: the video; its suffix decides the format.
        seed: the environment is reset with a function of it.
        precision: the training's.
        overlay: show the return-to-go and the rewards beside the environment.

    Raises:
        ConfigError: imageio is missing, the environment cannot render here, or the file cannot be written.
    """
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise ConfigError("Videos need imageio: pip install 'dtbench[video]'.") from error
    film = _Film(protocol.env_id)
    prepare_rendering()
    try:
        make_environment(protocol.env_id, protocol.max_episode_steps, "rgb_array", protocol.env_kwargs).close()
    except DtbenchError:
        raise
    except Exception as error:  # e.g. MuJoCo's own import fails where MUJOCO_GL names a library that is missing
        raise _cannot_render(protocol.env_id, error) from error
    done = evaluate(policy, protocol, target, 1, seed, torch.device("cpu"), film, precision)
    frames: Iterable[Any] = film.frames
    if overlay:
        from dtbench.evaluation.overlay import beside_curves

        frames = beside_curves(film.frames, film.returns_to_go, film.rewards)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {} if file.suffix == ".gif" else {"macro_block_size": None}
        writer: Any  # imageio types the writers of one of its plugins only
        with imageio.get_writer(file, mode="I", fps=film.rate, **options) as writer:
            for frame in frames:
                writer.append_data(frame)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The video {file} cannot be written: {error}.") from error
    return done


class _Film:
    """Keeps the picture before each step, what the policy is asked for there, and the reward that the step brings."""

    def __init__(self, env_id: str) -> None:
        self.env_id, self.rate = env_id, 30
        self.frames: list[NDArray[np.uint8]] = []
        self.returns_to_go: list[float] = []
        self.rewards: list[float] = []

    def before(self, env: gym.Env[Any, Any], return_to_go: float) -> None:
        self.rate = int(env.metadata.get("render_fps", self.rate))
        try:
            self.frames.append(np.asarray(env.render(), dtype=np.uint8))
        except Exception as error:
            raise _cannot_render(self.env_id, error) from error
        self.returns_to_go.append(return_to_go)

    def after(self, reward: float) -> None:
        self.rewards.append(float(reward))


def prepare_rendering() -> None:
    """Let MuJoCo render without a screen: set `MUJOCO_GL` to the first library that works.

    Nothing happens outside Linux, with a screen, or where `MUJOCO_GL` is set already. Call it before MuJoCo draws for
    the first time in a process.
    """
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not sys.platform.startswith("linux") or has_screen or os.environ.get("MUJOCO_GL"):
        return
    for library in _OFFSCREEN:
        if _works(library):
            os.environ["MUJOCO_GL"] = library
            return


def _works(library: str) -> bool:
    """Try to draw with a library in a process of its own: in this one, a failed attempt would rule out the next."""
    program = f"from mujoco.{library} import GLContext; context = GLContext(8, 8); context.make_current()"
    environment = {**os.environ, "MUJOCO_GL": library}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, timeout=_PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _cannot_render(env_id: str, error: Exception) -> ConfigError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    chosen = os.environ.get("MUJOCO_GL")
    advice = (
        f"MUJOCO_GL={chosen} may be the wrong library for this machine"
        if chosen
        else "without a screen, MuJoCo needs EGL (package libegl1) or OSMesa (package libosmesa6)"
    )
    return ConfigError(f"{env_id} cannot be rendered here ({reason}); {advice}.")
