"""A policy that acts: the windows it is shown, the state it carries, the actions it is asked for, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtbench.environments.make import action_space, observation_space
from dtbench.errors import DataError, DtbenchError
from dtbench.evaluation.actions import ActionChoice, Draws
from dtbench.spaces import Continuous, Discrete, Frames, Vector

if TYPE_CHECKING:
    from dtbench.evaluation.rollout import EvaluationProtocol, Policy

#: Rows per forward pass. A matrix product may round differently for another number of rows, and a MuJoCo episode
#: magnifies the last bit. With blocks of one size, filled up with idle rows, and one CPU thread, a row's result depends
#: only on the row where a product treats all rows alike, so that evaluating episodes together or one by one gives
#: identical returns. So it is on an AMD EPYC (Zen 4). On an Intel Xeon with AMX the product of a head of three actions
#: rounded by the row's place, and short episodes' returns differed by 1.5e-8 of their size; with
#: `MKL_CBWR=AVX512,STRICT` in the environment they did not.
BLOCK = 10
#: Steps of which windows are cut out before older ones are forgotten.
_KEPT = 256
#: Steps that a policy with a state sees: the one before the current, and that.
_LAST_STEPS = 2


class Actors:
    """One policy that acts in several environments side by side, each in its first episode.

    Args:
        policy: the policy, in evaluation mode.
        protocol: how it is evaluated.
        env: one of the environments.
        seeds: of the environments; what a policy or the choice of a discrete action draws is a function of them.
        target: the return to ask for, in units of the environment's return.
        device: device of the policy.

    Attributes:
        returns: (environments,) sums of the rewards so far.
        lengths: (environments,) steps so far.
        returns_to_go: (environments,) what the policy is asked for from here on, divided by the return scale.

    Raises:
        DataError: the environment has other observations than the data.
        ConfigError: it has observations or actions of a kind that no model takes.
    """

    def __init__(
        self,
        policy: Policy,
        protocol: EvaluationProtocol,
        env: gym.Env[Any, Any],
        seeds: Sequence[int],
        target: float,
        device: torch.device,
    ) -> None:
        seen, space = observation_space(env), action_space(env)
        if isinstance(seen, Vector) and seen.shape != protocol.state_mean.shape:
            raise DataError(
                f"{protocol.env_id} gives observations of shape {seen.shape}, the data have "
                f"{protocol.state_mean.shape}; use the environment that the data come from."
            )
        count = len(seeds)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, dtype=int)
        self.returns_to_go = np.full(count, target / protocol.return_scale)
        self._protocol, self._seen, self._size, self._step = protocol, seen, space.size, -1
        self._actor = _Actor(policy, count)
        self._history = _History(count, self._actor.context, seen, space, device)
        self._choose = ActionChoice(space, seeds, protocol.actions, protocol.random_actions)
        self._draw, self._device = Draws(seeds, getattr(policy, "draws", 0)), device

    def act(self, observations: NDArray[Any], alive: NDArray[np.int_]) -> NDArray[Any]:
        """Begin the next step and choose the actions of the environments that still run.

        Args:
            observations: (environments, …) what is seen before the step; rows of ended episodes are not read.
            alive: the running environments.

        Returns:
            (len(alive), …) the actions as the environments take them.

        Raises:
            DtbenchError: what the policy returns has another shape, or is not finite.
        """
        self._step += 1
        history = self._history
        history.observe(_normalized(observations, self._seen, self._protocol), self.returns_to_go)
        history.draws = self._draw().to(self._device) if self._draw.count else None
        outputs = _act(self._actor, history, self._size, self._step, alive)
        history.actions[alive, history.now], actions = self._choose(outputs, alive)
        return actions

    def observe(self, rewards: NDArray[np.float64], alive: NDArray[np.int_]) -> None:
        """End the step with its rewards: (environments,), of which those of the running ones are read."""
        self.returns[alive] += rewards[alive]
        self.lengths[alive] += 1
        if not self._protocol.delayed_reward:  # it is paid with the last step, after which nobody looks
            scaled = rewards[alive] / self._protocol.return_scale
            self.returns_to_go[alive] -= scaled
            self._history.rewards[alive, self._history.now] = torch.from_numpy(scaled).to(self._history.rewards)


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
