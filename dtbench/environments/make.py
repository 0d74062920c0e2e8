"""The environments that models act in: made by id, their observations flattened to plain vectors."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dtbench.environments import atari
from dtbench.errors import ConfigError
from dtbench.spaces import Continuous, Discrete, Frames, Vector


def make_environment(
    env_id: str,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> gym.Env:
    """Make one plain gymnasium environment; a goal-conditioned one returns its `policy_space` as one vector.

    Gymnasium's vector environments are avoided: they reset on the step after an episode's end, which counts a dead step
    as data and favours short episodes.

    Args:
        env_id: gymnasium's id, or one of dtbench's own, e.g. `dtbench/PointMaze-large-v0`.
        max_episode_steps: the task's horizon; None keeps the environment's own.
        render_mode: gymnasium's render mode.
        kwargs: arguments of the environment's constructor, e.g. a maze's map.

    Raises:
        ConfigError: no such environment, a package that it needs is not installed, or it does not take the arguments.
    """
    env_id = canonical_id(env_id)
    try:
        _register(env_id)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")  # the version is the data's, on purpose
            env = gym.make(env_id, max_episode_steps=max_episode_steps, render_mode=render_mode, **(kwargs or {}))
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        how = f"{str(error).rstrip('.')}; `{atari.INSTALL}`" if _is_atari(env_id) else error
        raise ConfigError(f"Environment {env_id!r} needs a package that is not installed: {how}.") from error
    except gym.error.Error as error:
        raise ConfigError(f"Environment {env_id!r} cannot be made: {error}.") from error
    except TypeError as error:
        if not kwargs:
            raise
        raise ConfigError(f"Environment {env_id!r} does not take the arguments {dict(kwargs)}: {error}.") from error
    return FlatObservation(env) if isinstance(env.observation_space, spaces.Dict) else env


def require_registered(env_id: str) -> None:
    """Refuse an id that gymnasium does not know; `module:Env-v0` is left to gymnasium, which imports the module.

    Raises:
        ConfigError: with the id that is closest.
    """
    try:
        _register(canonical_id(env_id))
    except ImportError:  # `make_environment` says which package is missing
        return
    if ":" not in env_id and env_id not in gym.registry:
        close = difflib.get_close_matches(env_id, gym.registry, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"Unknown environment {env_id!r}: {hint}`gymnasium.pprint_registry()` lists all; one of your own is named "
            "with the module that registers it, e.g. my_module:MyEnv-v0."
        )


class FlatObservation(gym.ObservationWrapper):
    """Returns the `policy_space` of a Dict observation as one vector."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert env.spec is not None
        self.policy_space = policy_space(env.observation_space, env.spec.id)
        self.observation_space = spaces.Box(-np.inf, np.inf, (flat_width(self.policy_space),), np.float64)

    def observation(self, observation: Any) -> NDArray[np.float64]:
        vector: NDArray[np.float64] = flatten(self.policy_space, _batched(observation))[0]
        return vector


def observation_space(env: gym.Env) -> Vector | Frames:
    """Return what a policy sees of an environment that `make_environment` made.

    Raises:
        ConfigError: neither vectors nor stacks of frames.
    """
    space = env.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return Vector(space.shape[0])
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8:
        return Frames(*space.shape)
    raise ConfigError(
        f"Observations of {space} are neither vectors nor stacks of frames (stack, height, width) of uint8."
    )


def action_space(env: gym.Env) -> Continuous | Discrete:
    """Return what a policy does in an environment.

    Raises:
        ConfigError: neither a box of one axis nor a number of actions 0 … n − 1.
    """
    space = env.action_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return Continuous(tuple(space.low.tolist()), tuple(space.high.tolist()))
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Discrete(int(space.n))
    raise ConfigError(f"Actions of {space} are neither a box of one axis nor numbered from 0.")


def policy_space(space: spaces.Space[Any], env_id: str) -> spaces.Space[Any]:
    """Return the part of an observation space that a policy sees, in the order in which it sees it.

    Of a goal-conditioned Dict it is observation ‖ desired goal, as the observation contains the achieved goal already.
    AntMaze is the exception: its observation lacks the ant's position, which D4RL's observations have in front, so its
    part is achieved goal ‖ observation ‖ desired goal. Of all other spaces it is the whole space.
    """
    if not (isinstance(space, spaces.Dict) and {"observation", "desired_goal"} <= set(space)):
        return space
    parts = ["observation", "desired_goal"]
    if env_id.startswith("AntMaze"):
        parts.insert(0, "achieved_goal")
    return spaces.Dict([(part, space[part]) for part in parts])


def flatten(space: spaces.Space[Any], values: Any) -> NDArray[np.float64]:
    """Flatten T observations, nested as `space`, to vectors: (T, width) float64.

    A Dict becomes its parts in the space's order, without parts that the space lacks; a discrete value becomes a
    one-hot vector.

    Raises:
        ConfigError: a space that has no such form, e.g. text.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(space[key], values[key]) for key in space], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([flatten(part, value) for part, value in zip(space, values, strict=True)], axis=1)
    if isinstance(space, spaces.Box):
        array = np.asarray(values, dtype=np.float64)
        return array.reshape(len(array), -1)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n))[np.asarray(values, dtype=np.int64).reshape(-1) - int(space.start)]
    raise ConfigError(f"Observations of {space} cannot be flattened to vectors; use boxes, discrete values or dicts.")


def flat_width(space: spaces.Space[Any]) -> int:
    """Return the width of `flatten`'s vectors."""
    if isinstance(space, spaces.Dict):
        return sum(flat_width(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return sum(flat_width(part) for part in space)
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ConfigError(f"Observations of {space} cannot be flattened to vectors; use boxes, discrete values or dicts.")


def _batched(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _batched(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_batched(part) for part in value)
    return np.asarray(value)[None]


def import_robotics() -> None:
    """Import gymnasium-robotics, which registers its environments, without the notices that it prints.

    Raises:
        ImportError: it is not installed.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        gym.register_envs(importlib.import_module("gymnasium_robotics"))


def canonical_id(env_id: str) -> str:
    """Return an environment's id without the module name in front, which old ids of dtbench's environments have.

    >>> canonical_id("dtbench.mazes:dtbench/PointMaze-large-v0"), canonical_id("Hopper-v5")
    ('dtbench/PointMaze-large-v0', 'Hopper-v5')
    """
    module, colon, name = env_id.partition(":")
    return name if colon and module.startswith("dtbench.") else env_id


def _is_atari(env_id: str) -> bool:
    return env_id.startswith((atari.PREFIX, "ALE/"))


def _register(env_id: str) -> None:
    """Import the modules that may register an id which gymnasium does not know yet."""
    if _is_atari(env_id):
        atari.register()
        importlib.import_module("cv2")
    elif env_id.startswith("dtbench/"):
        for module in ("kitchen", "pointmaze", "reacher2d", "toys"):
            importlib.import_module(f"dtbench.environments.{module}")
    for module in ("gymnasium_robotics", "ale_py"):
        if ":" in env_id or env_id in gym.registry:
            return
        with contextlib.suppress(ImportError):
            import_robotics() if module == "gymnasium_robotics" else gym.register_envs(importlib.import_module(module))
