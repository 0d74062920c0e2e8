"""Film one episode of a policy (extra `video`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from dtbench.errors import ConfigError
from dtbench.evaluation.rollout import Episodes, EvaluationProtocol, Policy, evaluate


def record(policy: Policy, protocol: EvaluationProtocol, target: float, file: Path, seed: int = 0) -> Episodes:
    """Roll out one episode and write it as a video, in the environment's own frame rate.

    Raises:
        ConfigError: imageio is missing, the environment cannot render here, or the file cannot be written.
    """
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise ConfigError("Videos need imageio: pip install 'dtbench[video]'.") from error
    frames: list[Any] = []
    rate = 30

    def watch(env: gym.Env) -> None:
        nonlocal rate
        rate = int(env.metadata.get("render_fps", rate))
        frames.append(env.render())

    try:
        done = evaluate(policy, protocol, target, 1, seed, torch.device("cpu"), watch)
    except (gym.error.Error, ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"{protocol.env_id} cannot be rendered here ({type(error).__name__}: {error}); without a screen, set "
            "MUJOCO_GL=egl or MUJOCO_GL=osmesa and install that library."
        ) from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        imageio.mimwrite(file, frames, fps=rate, **({} if file.suffix == ".gif" else {"macro_block_size": None}))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The video {file} cannot be written: {error}.") from error
    return done
