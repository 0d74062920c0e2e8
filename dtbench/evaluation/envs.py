"""The environments that models are evaluated in, and their seeds."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from dtbench.errors import ConfigError


def make_environment(env_id: str, max_episode_steps: int, render_mode: str | None = None) -> gym.Env:
    """Make one plain gymnasium environment with the task's horizon.

    Plain ones, not gymnasium's vector environments: those reset on the step after an episode's end, which counts a dead
    step as data and favours short episodes.

    Raises:
        ConfigError: no such environment, or what it needs is not installed.
    """
    try:
        return gym.make(env_id, max_episode_steps=max_episode_steps, render_mode=render_mode)
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(f"Environment {env_id!r} needs a package that is not installed: {error}.") from error
    except gym.error.Error as error:
        raise ConfigError(f"Environment {env_id!r} cannot be made: {error}.") from error


def episode_seeds(seed: int, count: int) -> list[int]:
    """Return the environments' reset seeds: the i-th is a function of (seed, i), however many there are."""
    return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(count)]
