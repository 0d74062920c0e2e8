"""Roll a behaviour out in its environment, in shards that are each a function of their own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from threadpoolctl import threadpool_limits

from dtbench.data.behaviours.policy import SacActor, environment, load_actor
from dtbench.data.behaviours.ram import RamPlayer
from dtbench.data.behaviours.scripted import SCRIPTED
from dtbench.data.episodes import Episode
from dtbench.environments.make import make_environment

#: Atari's frames are recorded one by one; a store's `frame_stack` says how many of them an observation has.
RECORDED = {"stack": 0}
#: Starts an episode: returns what chooses an action from each of its observations.
Begin = Callable[[np.random.Generator], Callable[[Any], Any]]


@dataclass(frozen=True)
class Shard:
    """A piece of a dataset: `steps` steps of one snapshot's policy, or of a scripted behaviour, from one seed."""

    behaviour: str
    snapshot: int
    steps: int
    entropy: tuple[int, ...]


def roll_out(shard: Shard) -> list[Episode]:
    """Step the real environment with the shard's behaviour for exactly its number of steps.

    The last episode is cut there and marked as truncated.
    """
    with threadpool_limits(1):  # one thread, or the last bits would depend on the machine's cores
        return list(_episodes(shard))


def _episodes(shard: Shard) -> Iterator[Episode]:
    env, begin = _behaviour(shard)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    frames = env.observation_space.dtype == np.uint8
    sequence = np.random.SeedSequence(shard.entropy)
    rng = np.random.default_rng(sequence)
    observation, _ = env.reset(seed=int(sequence.generate_state(1)[0]))
    left = shard.steps
    while left:
        act = begin(rng)
        observations, actions, rewards = [observation], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            action = act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
            left -= 1
            truncated = truncated or (left == 0 and not terminated)
        terminations = np.zeros(len(rewards), dtype=bool)
        truncations = terminations.copy()
        terminations[-1], truncations[-1] = terminated, truncated
        yield Episode(
            np.asarray(observations, dtype=np.uint8 if frames else np.float32),
            np.asarray(actions, dtype=np.int64 if discrete else np.float32),
            np.asarray(rewards, dtype=np.float32),
            terminations,
            truncations,
        )
        observation, _ = env.reset()
    env.close()


def _behaviour(shard: Shard) -> tuple[gym.Env, Begin]:
    """Return a shard's environment, and what starts each of its episodes."""
    if shard.behaviour in SCRIPTED:
        return make_environment(SCRIPTED[shard.behaviour].env_id), SCRIPTED[shard.behaviour].begin
    entry, actor = environment(shard.behaviour), load_actor(shard.behaviour, shard.snapshot)
    if isinstance(actor, SacActor):
        return make_environment(entry["env_id"]), lambda rng: lambda observation: actor.act(observation[None], rng)[0]
    env = make_environment(entry["env_id"], kwargs=RECORDED)
    console: Any = env.unwrapped

    def begin(rng: np.random.Generator) -> Callable[[Any], int]:
        player = RamPlayer(actor, entry["serves"], rng)
        return lambda frame: player.act(console.ale.getRAM(), console.ale.lives())

    return env, begin
