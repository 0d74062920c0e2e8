"""Evaluate a policy: N environments step together, exactly N episodes, each environment's first and only one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from typing import Protocol as Interface

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from dtbench.config import ACTIONS, require, require_one_of
from dtbench.determinism import fixed_order, one_thread
from dtbench.environments.make import make_environment
from dtbench.evaluation.acting import Actors
from dtbench.hardware import FLOAT32, autocast


class Policy(Interface):
    """What can be evaluated, e.g. an `OfflineModule`."""

    context_length: int

    def act(self, window: dict[str, Tensor]) -> Tensor:
        """Choose the actions of the last step of each window, or their logits: (B, action size) float32.

        A policy with a method `encode` is also given what that returns (`OfflineModule.encode`), one with a number
        `draws` as many random numbers (`OfflineModule.draws`). One whose method `initial_state` returns a state is
        asked by `act_step` instead (`OfflineModule.act_step`).
        """
        ...


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a policy is evaluated on a task: with the same scale and state normalisation as in training.

    Attributes:
        env_id: id of the environment.
        max_episode_steps: steps after which an episode is truncated.
        return_scale: rewards and returns-to-go are divided by it.
        state_mean: (obs_dim,) float32, subtracted from vectors before they enter the window. Frames enter as they are.
        state_std: (obs_dim,) float32, by which they are then divided.
        delayed_reward: whether the reward of an episode comes with its last step, so that the return-to-go does not
            change before.
        env_kwargs: arguments of the environment's constructor, from the task or the dataset's own specification.
        actions: how a discrete action is chosen, `greedy` or `sampled`.
        random_actions: share of discrete actions that are drawn uniformly instead.
    """

    env_id: str
    max_episode_steps: int
    return_scale: float
    state_mean: NDArray[np.float32]
    state_std: NDArray[np.float32]
    delayed_reward: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    actions: str = "greedy"
    random_actions: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **vars(self),
            "state_mean": self.state_mean.tolist(),
            "state_std": self.state_std.tolist(),
            "env_kwargs": dict(self.env_kwargs),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationProtocol:
        """Rebuild what `to_dict` returned.

        Raises:
            ConfigError: a field is missing, unknown or impossible.
        """
        names = [entry.name for entry in fields(cls)]
        for name in content:
            require(name in names, f"protocol.{name}", f"must be one of {', '.join(names)}", name)
        for name in names:
            require(name in content or name in _ADDED_LATER, f"protocol.{name}", "must be given", None)
        values = {**_ADDED_LATER, **content}
        for name, kind in _PLAIN_FIELDS.items():
            require(type(values[name]) in kind, f"protocol.{name}", f"must be a {kind[0].__name__}", values[name])
        steps = values["max_episode_steps"]
        require(steps > 0, "protocol.max_episode_steps", "must be positive", steps)
        scale = values["return_scale"]
        require(0 < scale < np.inf, "protocol.return_scale", "must be positive and finite", scale)
        require_one_of("protocol.actions", values["actions"], ACTIONS)
        share = values["random_actions"]
        require(0 <= share <= 1, "protocol.random_actions", "must lie in [0, 1]", share)
        for name in ("state_mean", "state_std"):
            values[name] = _numbers(f"protocol.{name}", values[name])
        mean, std = values["state_mean"], values["state_std"]
        require(len(std) == len(mean), "protocol.state_std", f"must hold {len(mean)} numbers", len(std))
        require(bool((std > 0).all()), "protocol.state_std", "must be positive", std.tolist())
        return cls(**values)


#: What JSON gives for the fields that are not arrays.
_PLAIN_FIELDS: dict[str, tuple[type, ...]] = {
    "env_id": (str,),
    "max_episode_steps": (int,),
    "return_scale": (float, int),
    "delayed_reward": (bool,),
    "env_kwargs": (dict,),
    "actions": (str,),
    "random_actions": (float, int),
}
#: Fields that records of older versions lack.
_ADDED_LATER = {"actions": "greedy", "random_actions": 0.0}


def _numbers(key: str, value: Any) -> NDArray[np.float32]:
    """Return a list of finite numbers as (n,) float32."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.empty((0, 0), dtype=np.float32)
    require(array.ndim == 1 and bool(np.isfinite(array).all()), key, "must be a list of finite numbers", value)
    return array


@dataclass(frozen=True)
class Episodes:
    """Raw undiscounted returns of N episodes, their lengths in steps, and the seeds of their environments."""

    returns: list[float]
    lengths: list[int]
    seeds: list[int]


class Watcher(Interface):
    """Who looks on while the first environment's episode goes by."""

    def before(self, env: gym.Env, return_to_go: float) -> None:
        """Look at the environment before its next step.

        Args:
            env: the environment, which can render.
            return_to_go: what the policy is asked for from here on, in units of the environment's return.
        """
        ...

    def after(self, reward: float) -> None:
        """Take the reward of the step."""
        ...


def evaluate(
    policy: Policy,
    protocol: EvaluationProtocol,
    target: float,
    episodes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    watch: Watcher | None = None,
    precision: str = FLOAT32,
    part: slice = slice(None),
) -> Episodes:
    """Roll out exactly `episodes` episodes, the first of as many environments.

    The return-to-go starts at target / scale and falls by reward / scale (DT, gym/evaluate_episodes.py).

    Args:
        policy: the policy, in evaluation mode.
        protocol: how it is evaluated.
        target: return that the policy is asked for, in the environment's own units.
        episodes: number of environments and of episodes.
        seed: environment i is reset with a function of (seed, i).
        device: device of the policy.
        watch: told of each step of the first environment, which then renders.
        precision: the training's, one of Lightning's names: with `bf16-mixed` the policy acts under autocast, too.
        part: roll out only these of the episodes.

    Raises:
        DataError: the environment has other observations than the data.
        ConfigError: it has observations or actions of a kind that no model takes.
        DtbenchError: the policy's actions have another shape, or are not finite.
    """
    seeds = episode_seeds(seed, episodes)[part]
    if not seeds:
        return Episodes([], [], [])
    mode = None if watch is None else "rgb_array"
    horizon, kwargs = protocol.max_episode_steps, protocol.env_kwargs
    envs = [make_environment(protocol.env_id, horizon, mode, kwargs) for _ in seeds]
    try:
        with one_thread(), fixed_order(), torch.no_grad(), autocast(torch.device(device), precision):
            return _roll_out(policy, protocol, target, envs, seeds, torch.device(device), watch)
    finally:
        for env in envs:
            env.close()


def evaluate_together(
    policy: Policy,
    protocol: EvaluationProtocol,
    target: float,
    episodes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = FLOAT32,
) -> Episodes:
    """As `evaluate`, with the episodes divided among the processes of a distributed training; each returns all of them.

    A process that trains alone does them all. Episodes are the same however many processes there are.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return evaluate(policy, protocol, target, episodes, seed, device, precision=precision)
    part = slice(distributed.get_rank(), None, distributed.get_world_size())
    mine = evaluate(policy, protocol, target, episodes, seed, device, precision=precision, part=part)
    found = torch.zeros(2, episodes, dtype=torch.float64, device=device)
    found[:, part] = torch.tensor([mine.returns, mine.lengths], dtype=torch.float64, device=device)
    distributed.all_reduce(found)  # all others added 0
    returns, lengths = found.tolist()
    return Episodes(returns, [int(length) for length in lengths], episode_seeds(seed, episodes))


def _roll_out(
    policy: Policy,
    protocol: EvaluationProtocol,
    target: float,
    envs: list[gym.Env],
    seeds: list[int],
    device: torch.device,
    watch: Watcher | None,
) -> Episodes:
    actors = Actors(policy, protocol, envs[0], seeds, target, device)
    observations = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    alive = np.arange(len(envs))
    for _ in range(protocol.max_episode_steps):
        if watch is not None and 0 in alive:
            watch.before(envs[0], float(actors.returns_to_go[0]) * protocol.return_scale)
        actions = actors.act(observations, alive)
        rewards, still = np.zeros(len(envs)), []
        for row, env in enumerate(alive):
            observations[env], reward, terminated, truncated, _ = envs[env].step(actions[row])
            rewards[env] = float(reward)
            if not (terminated or truncated):
                still.append(env)
        actors.observe(rewards, alive)
        if watch is not None and 0 in alive:
            watch.after(rewards[0])
        alive = np.asarray(still, dtype=int)
        if not len(alive):
            break
    return Episodes(actors.returns.tolist(), actors.lengths.tolist(), seeds)


def episode_seeds(seed: int, count: int) -> list[int]:
    """Return the environments' reset seeds: the i-th is a function of (seed, i), however many there are."""
    return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(count)]
