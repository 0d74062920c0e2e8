"""The `local` source: shipped policies and scripted behaviours rolled out in real environments, without a network.

A dataset is called `<environment>-<level>`, the levels meaning what D4RL's do: `medium` is the medium policy acting
stochastically; `medium-replay` a mixture, in equal parts, of the snapshots of its training up to medium;
`medium-expert` half medium, half the best snapshot. What each policy is worth stands in `behaviours/weights/README.md`.
Datasets of scripted behaviours (`behaviours/scripted.py`) are called what they are, e.g. `key-to-door`.

The steps are rolled out in shards of at most `SHARD_STEPS`, each with its own seed, so the data are a function of
(recipe version, dataset, seed, steps) and not of the number of workers. A shard has exactly its number of steps: its
last episode is cut there and marked as truncated. On another processor or with another version of MuJoCo the physics
may round differently; the fingerprint then says so.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from threadpoolctl import threadpool_limits

from dtbench.console import Progress
from dtbench.data.behaviours.policy import environment, load_actor, manifest
from dtbench.data.behaviours.scripted import SCRIPTED, Act
from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.environments.make import make_environment
from dtbench.errors import UnknownNameError
from dtbench.resources import datasets_home

HOST = None
#: Of the shipped policies' datasets; scripted ones have their own.
RECIPE_VERSION = 1
LEVELS = ("medium", "medium-replay", "medium-expert")
SHARD_STEPS = 10_000
#: Below this a pool of processes costs more than it brings.
_IN_PROCESS_STEPS = 20_000


@dataclass(frozen=True)
class Shard:
    """A piece of the rollout: so many steps of one snapshot's policy, or of a scripted behaviour, from one seed."""

    behaviour: str
    snapshot: int
    steps: int
    entropy: tuple[int, ...]


def known_datasets() -> list[str]:
    """Return the names of the datasets that can be built here."""
    return [f"{name}-{level}" for name in manifest() for level in LEVELS] + list(SCRIPTED)


def dataset_id(dataset: str, steps: int, seed: int = 0) -> str:
    """Return the id under which a build is recorded: name, recipe version, size and seed."""
    steps = whole_size(dataset, steps)
    return f"local/{dataset}-r{recipe_version(dataset)}-{steps}-s{seed}"


def recipe_version(dataset: str) -> int:
    """Return the version of a dataset's recipe, which changes whenever its content would."""
    return SCRIPTED[dataset].version if dataset in SCRIPTED else RECIPE_VERSION


def whole_size(dataset: str, steps: int) -> int:
    """Return how many of the steps asked for the dataset has: all, or whole episodes where they have one length."""
    behaviour = SCRIPTED.get(dataset)
    if behaviour is None or behaviour.horizon is None:
        return steps
    episodes = max(1, steps // behaviour.horizon)
    return behaviour.horizon * min(episodes, behaviour.most_episodes or episodes)


def store_path(dataset: str, steps: int, seed: int = 0) -> Path:
    """Return the folder of a built dataset."""
    return datasets_home() / dataset_id(dataset, steps, seed)


def locate(dataset: str, *, steps: int, seed: int = 0) -> TrajectoryStore | None:
    """Open a dataset that is built already, else return None."""
    _check_name(dataset)
    path = store_path(dataset, steps, seed)
    return TrajectoryStore.open(path) if path.is_dir() else None


def needs_network(dataset: str) -> bool:
    """Return False: local datasets never need a network."""
    _check_name(dataset)
    return False


def build(
    dataset: str,
    *,
    steps: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> TrajectoryStore:
    """Roll out a dataset of exactly `steps` steps (at most its `whole_size`), or open it if it is there.

    Args:
        workers: processes; None takes all cores. The data do not depend on it.
        progress: called with (steps done, steps in all) after each shard.
        force: build again what is there.

    Raises:
        UnknownNameError: no such dataset.
    """
    _check_name(dataset)
    found = None if force else locate(dataset, steps=steps, seed=seed)
    if found is not None:
        return found
    steps = whole_size(dataset, steps)
    shards = plan_shards(dataset, steps, seed)
    env_id, details = _describe(dataset)
    space = _action_space(env_id)
    if steps <= _IN_PROCESS_STEPS:
        rolled = _in_process(shards, steps, progress)
    else:
        rolled = _in_pool(shards, steps, workers or os.cpu_count() or 1, progress)
    return build_store(
        store_path(dataset, steps, seed),
        rolled,
        source="local",
        dataset_id=dataset_id(dataset, steps, seed),
        env_id=env_id,
        action_low=space.low,
        action_high=space.high,
        recipe={
            "version": recipe_version(dataset),
            "seed": seed,
            **details,
            "packages": {package: version(package) for package in ("gymnasium", "mujoco", "numpy")},
        },
        expected={"steps": steps},
        overwrite=force,
    )


def plan_shards(dataset: str, steps: int, seed: int) -> list[Shard]:
    """Decide who acts for how many steps, from which seed."""
    _check_name(dataset)
    name, snapshots = (dataset, [0]) if dataset in SCRIPTED else _snapshots(dataset)
    unit = (SCRIPTED[dataset].horizon if dataset in SCRIPTED else None) or 1
    shards: list[Shard] = []
    for snapshot, share in zip(snapshots, _equal_parts(steps, len(snapshots)), strict=True):
        count = -(-share // SHARD_STEPS)
        pieces = [unit * part for part in _equal_parts(share // unit, count)] if share else []
        for piece in pieces:
            entropy = (recipe_version(dataset), zlib.crc32(dataset.encode()), seed, len(shards))
            shards.append(Shard(name, snapshot, piece, entropy))
    return shards


def roll_out(shard: Shard) -> list[Episode]:
    """Step the real environment with the shard's behaviour for exactly its number of steps."""
    with threadpool_limits(1):  # one thread, or the last bits would depend on the machine's cores
        return list(_episodes(shard))


def _episodes(shard: Shard) -> Iterator[Episode]:
    env_id, begin = _behaviour(shard)
    env = make_environment(env_id)
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
            np.asarray(observations, dtype=np.float32),
            np.asarray(actions, dtype=np.float32),
            np.asarray(rewards, dtype=np.float32),
            terminations,
            truncations,
        )
        observation, _ = env.reset()
    env.close()


def _in_process(shards: list[Shard], steps: int, progress: Progress | None) -> Iterator[Episode]:
    yield from _report((roll_out(shard) for shard in shards), steps, progress)


def _in_pool(shards: list[Shard], steps: int, workers: int, progress: Progress | None) -> Iterator[Episode]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(shards)), initializer=_ignore_interrupt) as pool:  # leaving it ends the workers
        yield from _report(pool.imap(roll_out, shards), steps, progress)


def _report(rolled: Iterator[list[Episode]], steps: int, progress: Progress | None) -> Iterator[Episode]:
    done = 0
    for episodes in rolled:
        yield from episodes
        done += sum(len(episode.rewards) for episode in episodes)
        if progress is not None:
            progress(done, steps)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the pool


def _equal_parts(total: int, parts: int) -> list[int]:
    """Split a total into equal parts, the first ones one larger where it does not come out even."""
    each, rest = divmod(total, parts)
    return [each + (index < rest) for index in range(parts)]


def _check_name(dataset: str) -> None:
    if dataset not in known_datasets():
        raise UnknownNameError("local dataset", dataset, known_datasets())


def _snapshots(dataset: str) -> tuple[str, list[int]]:
    """Return the environment of a shipped policy's dataset and the snapshots that act in it, in equal parts."""
    name, _, level = dataset.partition("-")
    levels = environment(name)["levels"]
    mixed = {"medium-replay": levels["replay"], "medium-expert": [*levels["medium"], *levels["expert"]]}
    return name, mixed.get(level, levels["medium"])


def _describe(dataset: str) -> tuple[str, dict[str, Any]]:
    """Return a dataset's environment and what its recipe says of the behaviour."""
    if dataset in SCRIPTED:
        return SCRIPTED[dataset].env_id, {"behaviour": SCRIPTED[dataset].recipe}
    name, snapshots = _snapshots(dataset)
    entry = environment(name)
    details = {"level": dataset.partition("-")[2], "snapshots": sorted(snapshots), "behaviours_sha256": entry["sha256"]}
    return entry["env_id"], details


def _behaviour(shard: Shard) -> tuple[str, Callable[[np.random.Generator], Act]]:
    """Return where a shard is rolled out, and what begins each of its episodes."""
    if shard.behaviour in SCRIPTED:
        return SCRIPTED[shard.behaviour].env_id, SCRIPTED[shard.behaviour].begin
    actor = load_actor(shard.behaviour, shard.snapshot)
    return environment(shard.behaviour)["env_id"], lambda rng: lambda seen: actor.act(seen[None], rng)[0]


def _action_space(env_id: str) -> gym.spaces.Box:
    env = make_environment(env_id)
    env.close()
    assert isinstance(env.action_space, gym.spaces.Box)
    return env.action_space
