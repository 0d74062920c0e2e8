"""Evaluate a policy: N environments step together, exactly N episodes, each environment's first and only one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from typing import Protocol as Interface

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from dtbench.config import ACTIONS, require, require_one_of
from dtbench.determinism import one_thread
from dtbench.environments.make import action_space, make_environment, observation_space
from dtbench.errors import DataError, DtbenchError
from dtbench.evaluation.actions import ActionChoice, Draws
from dtbench.hardware import FLOAT32, autocast
from dtbench.spaces import Continuous, Discrete, Frames, Vector

#: Rows per forward pass. A matrix product may round differently for another number of rows, and a MuJoCo episode
#: magnifies the last bit. With blocks of one size, filled up with idle rows, and one CPU thread, a row's result depends
#: only on the row, so that evaluating episodes together or one by one gives identical returns.
BLOCK = 10
#: Steps of which windows are cut out before older ones are forgotten.
_KEPT = 256
#: Steps that a policy with a state sees: the one before the current, and that.
_LAST_STEPS = 2


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


def evaluate(
    policy: Policy,
    protocol: EvaluationProtocol,
    target: float,
    episodes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    watch: Callable[[gym.Env], None] | None = None,
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
        watch: called with the first environment before each of its steps; the environment then renders.
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
        with one_thread(), torch.no_grad(), autocast(torch.device(device), precision):
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
    watch: Callable[[gym.Env], None] | None,
) -> Episodes:
    seen, space = observation_space(envs[0]), action_space(envs[0])
    if isinstance(seen, Vector) and seen.shape != protocol.state_mean.shape:
        raise DataError(
            f"{protocol.env_id} gives observations of shape {seen.shape}, the data have "
            f"{protocol.state_mean.shape}; use the environment that the data come from."
        )
    count, steps = len(envs), protocol.max_episode_steps
    actor = _Actor(policy, count)
    history = _History(count, actor.context, seen, space, device)
    choose = ActionChoice(space, seeds, protocol.actions, protocol.random_actions)
    draw = Draws(seeds, getattr(policy, "draws", 0))
    observations = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    returns, lengths = np.zeros(count), np.zeros(count, dtype=int)
    to_go = np.full(count, target / protocol.return_scale)
    alive = np.arange(count)
    for step in range(steps):
        history.observe(_normalized(observations, seen, protocol), to_go)
        history.draws = draw().to(device) if draw.count else None
        outputs = _act(actor, history, space.size, step, alive)
        history.actions[alive, history.now], actions = choose(outputs, alive)
        still = []
        if watch is not None and 0 in alive:
            watch(envs[0])
        for row, env in enumerate(alive):
            observations[env], reward, terminated, truncated, _ = envs[env].step(actions[row])
            returns[env] += float(reward)
            lengths[env] += 1
            if not protocol.delayed_reward:  # it is paid with the last step, after which nobody looks
                to_go[env] -= float(reward) / protocol.return_scale
                history.rewards[env, history.now] = float(reward) / protocol.return_scale
            if not (terminated or truncated):
                still.append(env)
        alive = np.asarray(still, dtype=int)
        if not len(alive):
            break
    return Episodes(returns.tolist(), lengths.tolist(), seeds)


def episode_seeds(seed: int, count: int) -> list[int]:
    """Return the environments' reset seeds: the i-th is a function of (seed, i), however many there are."""
    return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(count)]


def _normalized(
    observations: NDArray[Any], space: Vector | Frames, protocol: EvaluationProtocol
) -> NDArray[np.float32] | NDArray[np.uint8]:
    if isinstance(space, Frames):
        return observations
    normalized: NDArray[np.float32] = ((observations - protocol.state_mean) / protocol.state_std).astype(np.float32)
    return normalized


class _History:
    """The steps so far, after K − 1 zero pads: the window of a step ends with it and begins K − 1 places before.

    Only the last `_KEPT` or more steps are kept: ten thousands of frames would fill the memory.

    Attributes:
        now: the current step's place.
        draws: (count, numbers), the current step's random numbers, of policies that draw.
    """

    def __init__(
        self, count: int, context: int, seen: Vector | Frames, space: Continuous | Discrete, device: torch.device
    ) -> None:
        self.context, self.pads = context, context - 1
        self.step, self.now = -1, self.pads - 1
        length = self.pads + max(_KEPT, context)
        frames, discrete = isinstance(seen, Frames), isinstance(space, Discrete)
        observations = torch.uint8 if frames else torch.float32
        self.observations = torch.zeros(count, length, *seen.shape, dtype=observations, device=device)
        actions = torch.int64 if discrete else torch.float32
        self.actions = torch.zeros(count, length, *space.shape, dtype=actions, device=device)
        self.rewards = torch.zeros(count, length, device=device)
        self.returns_to_go = torch.zeros(count, length, device=device)
        self.features: Tensor | None = None  # (count, length, features), of policies that encode observations
        self.draws: Tensor | None = None

    def observe(self, observations: NDArray[Any], returns_to_go: NDArray[np.float64]) -> None:
        """Begin the next step with what is seen before it: (count, …), and (count,)."""
        self.step, self.now = self.step + 1, self.now + 1
        if self.now == self.rewards.shape[1]:
            self._forget()
        self.observations[:, self.now] = torch.from_numpy(observations).to(self.observations)
        self.returns_to_go[:, self.now] = torch.from_numpy(returns_to_go).to(self.returns_to_go)

    def _forget(self) -> None:
        """Move the last K − 1 steps to the front, and empty what comes after them."""
        kept = [self.observations, self.actions, self.rewards, self.returns_to_go]
        for values in kept if self.features is None else [*kept, self.features]:
            values[:, : self.pads] = values[:, self.now - self.pads :].clone()
            values[:, self.pads :] = 0
        self.now = self.pads

    def encode(self, rows: Tensor, encode: Callable[[Tensor], Tensor | None]) -> None:
        """Keep what a policy makes of the current observations of the environments `rows`."""
        features = encode(self.observations[rows, self.now])
        if features is None:
            return
        if self.features is None:
            self.features = features.new_zeros(*self.rewards.shape, *features.shape[1:])
        self.features[rows, self.now] = features

    def window(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the current window of the environments `rows`; its last action and reward are still 0."""
        part = slice(self.now - self.pads, self.now + 1)
        timesteps = torch.arange(self.step - self.pads, self.step + 1, device=self.rewards.device)
        features = {} if self.features is None else {"features": self.features[rows, part]}
        draws = {} if self.draws is None else {"draws": self.draws[rows]}
        return {
            **features,
            **draws,
            "observations": self.observations[rows, part],
            "actions": self.actions[rows, part],
            "rewards": self.rewards[rows, part],
            "returns_to_go": self.returns_to_go[rows, part],
            "timesteps": timesteps.clamp(min=0).expand(len(rows), -1),
            "padding_mask": (timesteps >= 0).expand(len(rows), -1),
        }


class _Actor:
    """Asks a policy for actions, and owns the state of one that carries it: a row per environment.

    Attributes:
        context: steps of the windows that it asks about.
    """

    def __init__(self, policy: Policy, count: int) -> None:
        initial_state = getattr(policy, "initial_state", None)
        self.policy: Any = policy
        initial = None if initial_state is None else initial_state(count)
        self.state = None if initial is None else tuple(part.clone() for part in initial)
        self.context: int = policy.context_length if self.state is None else _LAST_STEPS
        self.encode: Callable[[Tensor], Tensor | None] | None = getattr(policy, "encode", None)

    def __call__(self, history: _History, rows: Tensor, size: int) -> Tensor:
        """Return the actions (len(rows), size) of at most `BLOCK` environments, from a forward pass of `BLOCK` rows."""
        block = torch.cat((rows, rows[:1].expand(BLOCK - len(rows))))
        if self.encode is not None:
            history.encode(block, self.encode)
        window, needed = history.window(block), (BLOCK, size)
        if self.state is None:
            return self._checked("act", self.policy.act(window), needed)[: len(rows)]
        actions, state = self.policy.act_step(window, tuple(part[block] for part in self.state))
        for kept, part in zip(self.state, state, strict=True):
            kept[rows] = part[: len(rows)].to(kept.dtype)  # an idle row must not take its environment's step again
        return self._checked("act_step", actions, needed)[: len(rows)]

    def _checked(self, method: str, actions: Any, needed: tuple[int, int]) -> Tensor:
        """Return the actions if they are a tensor of the needed shape."""
        if isinstance(actions, Tensor) and actions.shape == needed:
            return actions
        kind, where = type(actions), f"{type(self.policy).__name__}.{method}"
        found = f"a {kind.__module__}.{kind.__qualname__}"
        if isinstance(actions, Tensor):
            found = f"shape {tuple(actions.shape)}"
        raise DtbenchError(f"{where} returned {found}, but a tensor of shape (B, action size) = {needed} is needed.")


def _act(actor: _Actor, history: _History, size: int, step: int, alive: NDArray[np.int_]) -> Tensor:
    """Ask the policy about all running environments in forward passes of one size: (rows, action size).

    Raises:
        DtbenchError: what it returns has another shape, which would be broadcast, or is not finite, with which MuJoCo
            would continue and return NaN.
    """
    rows = torch.from_numpy(alive).to(history.rewards.device)
    actions = torch.cat([actor(history, block, size) for block in torch.split(rows, BLOCK)])
    if not torch.isfinite(actions).all():
        raise DtbenchError(
            f"The policy's action is NaN or infinite at step {step}: its training diverged; try a lower "
            "optimizer.learning_rate or a longer optimizer.warmup_steps."
        )
    return actions
