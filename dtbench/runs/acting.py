"""A finished run as a policy for a plain loop over a gymnasium environment."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from dtbench.determinism import one_thread
from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError, DtbenchError
from dtbench.evaluation.acting import Actors
from dtbench.evaluation.rollout import episode_seeds
from dtbench.hardware import autocast
from dtbench.runs.reopen import OpenedRun, open_run

_CPU = torch.device("cpu")
#: The place of the one environment among the actors'.
_ONE = np.array([0])


class RunPolicy:
    """A trained run as a policy for one environment, which the caller steps.

    It sees what it saw in the run's own evaluation: observations are normalised, returns scaled and windows built as
    there, so that the same environment and seed give the same return. It acts on the CPU.

    Attributes:
        run: the opened run: its record, configuration, module and evaluation protocol.
        target: the return that the current episode asks for, in units of the environment's return.
    """

    def __init__(self, run: OpenedRun) -> None:
        self.run = run
        self.target = run.record.task.score_target
        self._actors: Actors | None = None
        self._owes_reward = False

    def __repr__(self) -> str:
        record = self.run.record
        return f"RunPolicy({record.model.name} on {record.task.id}, seed {record.seed})"

    @property
    def env_id(self) -> str:
        """Id of the environment in which the run was evaluated."""
        return self.run.protocol.env_id

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make the environment of the run's evaluation, with its time limit and its constructor's arguments.

        Raises:
            ConfigError: it cannot be made, e.g. because a package is missing.
        """
        protocol = self.run.protocol
        return make_environment(protocol.env_id, protocol.max_episode_steps, render_mode, protocol.env_kwargs)

    def env_seeds(self, episodes: int | None = None) -> list[int]:
        """Return the seeds of the environments in the run's own evaluation, one per episode.

        Args:
            episodes: how many; None takes as many as the run's configuration says.
        """
        return episode_seeds(self.run.record.seed, episodes or self.run.config.evaluation.episodes)

    def reset(self, target: float | None = None, seed: int = 0) -> None:
        """Begin an episode: forget the last one.

        Args:
            target: return to ask for, in units of the environment's return; None takes the task's score target.
            seed: of the environment. Policies that draw random numbers draw them as in an evaluation with this seed;
                others do not use it.

        Raises:
            ConfigError: the target is not finite.
        """
        wanted = self.run.record.task.score_target if target is None else float(target)
        if not math.isfinite(wanted):
            raise ConfigError("A return target must be a finite number.")
        self.target, self._owes_reward = wanted, False
        self._actors = Actors(self.run.module, self.run.protocol, self._spaces_of, [seed], wanted, _CPU)

    def act(self, observation: NDArray[Any]) -> Any:
        """Choose an action: an array (action_dim,) float32 within the bounds, or a number where actions are discrete.

        Args:
            observation: what the environment returned, as it is: (obs_dim,) or frames.

        Raises:
            DtbenchError: `reset` was not called, the last action's reward was not told, the observation has another
                shape, or the policy's action is not finite.
        """
        actors = self._begun()
        if self._owes_reward:
            raise DtbenchError("Call observe(reward) after each step: the policy acts on the rewards so far.")
        seen = np.asarray(observation)
        shape = self.run.module.spaces.observation.shape
        if seen.shape != shape:
            raise DtbenchError(f"The observation has shape {seen.shape}, but {self.env_id} gives {shape}.")
        with one_thread(), torch.no_grad(), autocast(_CPU, self.run.config.hardware.precision):
            action = actors.act(seen[None], _ONE)[0]
        self._owes_reward = True
        return int(action) if np.ndim(action) == 0 else action

    def observe(self, reward: float) -> None:
        """Take the reward that came for the last action, in the environment's own units.

        Raises:
            DtbenchError: there was no action before it.
        """
        actors = self._begun()
        if not self._owes_reward:
            raise DtbenchError("observe(reward) follows an action: call act(observation) first.")
        actors.observe(np.array([float(reward)]), _ONE)
        self._owes_reward = False

    def _begun(self) -> Actors:
        if self._actors is None:
            raise DtbenchError("Call reset() at the beginning of each episode.")
        return self._actors

    @cached_property
    def _spaces_of(self) -> gym.Env[Any, Any]:
        """An environment whose spaces say what is seen and done; it is never stepped."""
        env = self.make_env()
        env.close()
        return env


def open_policy(folder: str | Path) -> RunPolicy:
    """Open a finished run as a policy.

    Raises:
        ConfigError: the folder holds no finished run, or one that cannot be read.
    """
    return RunPolicy(open_run(folder))
