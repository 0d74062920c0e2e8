"""The `local` source: shipped policies and scripted behaviours rolled out in real environments, without a network.

A dataset is called `<environment>-<level>`, with D4RL's levels: `medium` is the medium policy acting stochastically;
`medium-replay` a mixture, in equal parts, of the snapshots of its training up to medium; `medium-expert` half medium,
half the best snapshot. Of Atari games there are `medium`, `medium-replay` and `expert`, the best snapshot; a level that
scores less than a tenth of a human has a name that says what it is instead. The returns of each policy are listed in
`behaviours/weights/README.md`. Datasets of scripted behaviours (`behaviours/scripted.py`) have plain names, e.g.
`key-to-door`.

The steps are rolled out in shards of at most `SHARD_STEPS`, each with its own seed, so the data are a function of
(recipe version, dataset, seed, steps) and not of the number of workers. A shard has exactly its number of steps: its
last episode is cut there and marked as truncated. Games are longer than episodes of MuJoCo, several thousand steps in
Pong, so that their shards are longer, too (`ATARI_SHARD_STEPS`): fewer are cut, and the frames of a shard are 176 MB.
With another version of MuJoCo, gymnasium or numpy, or on a processor that is not x86, the physics or the policy may
round differently, which shows in the fingerprint; on x86, `policy.product` rounds as the published data were rounded.
ALE computes with integers, and only the policy may round: two datasets of Breakout were the same on an AMD EPYC and on
an Intel Xeon.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym

from dtbench.console import Progress
from dtbench.data.behaviours.policy import datasets, environment, is_atari, manifest
from dtbench.data.behaviours.roll_out import Shard, roll_out
from dtbench.data.behaviours.scripted import SCRIPTED
from dtbench.data.episodes import Block
from dtbench.data.sources.workers import rolled_out
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.environments.atari import STACK
from dtbench.environments.make import make_environment
from dtbench.errors import UnknownNameError
from dtbench.resources import datasets_home

HOST = None
#: Version of the shipped policies' datasets; scripted ones have their own.
RECIPE_VERSION = 1
SHARD_STEPS = 10_000
ATARI_SHARD_STEPS = 25_000
#: Up to this size, starting worker processes takes longer than they save.
_IN_PROCESS_STEPS = 20_000


def known_datasets() -> list[str]:
    """Return the names of the datasets that can be built here."""
    return [f"{name}-{level}" for name in manifest() for level in datasets(name)] + list(SCRIPTED)


def dataset_id(dataset: str, steps: int, seed: int = 0) -> str:
    """Return the id under which a build is recorded: name, recipe version, size and seed."""
    steps = whole_size(dataset, steps)
    return f"local/{dataset}-r{recipe_version(dataset)}-{steps}-s{seed}"


def recipe_version(dataset: str) -> int:
    """Return the version of a dataset's recipe, which changes whenever its content would."""
    return SCRIPTED[dataset].version if dataset in SCRIPTED else RECIPE_VERSION


def whole_size(dataset: str, steps: int) -> int:
    """Return how many steps a dataset has if `steps` are asked for: all, or whole episodes if all are equally long."""
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
    """Roll out a dataset of exactly `steps` steps (at most its `whole_size`), or open it if it exists.

    Args:
        dataset: one of `known_datasets`.
        steps: the size asked for.
        seed: of the rollout.
        workers: processes; None takes all cores. The data do not depend on it.
        progress: called with (steps done, steps in all) after each shard.
        force: replace a dataset that exists.

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
    spaces = _spaces(env_id)
    with _rolled_out(shards, steps, workers or os.cpu_count() or 1) as blocks:
        return build_store(
            store_path(dataset, steps, seed),
            _report(blocks, steps, progress),
            source="local",
            dataset_id=dataset_id(dataset, steps, seed),
            env_id=env_id,
            recipe={
                "version": recipe_version(dataset),
                "seed": seed,
                **details,
                "packages": _packages(dataset),
            },
            expected={"steps": steps},
            overwrite=force,
            **spaces,
        )


def plan_shards(dataset: str, steps: int, seed: int) -> list[Shard]:
    """Decide which behaviour acts for how many steps, and from which seed."""
    _check_name(dataset)
    name, snapshots = (dataset, [0]) if dataset in SCRIPTED else _snapshots(dataset)
    unit = (SCRIPTED[dataset].horizon if dataset in SCRIPTED else None) or 1
    longest = ATARI_SHARD_STEPS if dataset not in SCRIPTED and is_atari(name) else SHARD_STEPS
    shards: list[Shard] = []
    for snapshot, share in zip(snapshots, _equal_parts(steps, len(snapshots)), strict=True):
        count = -(-share // longest)
        pieces = [unit * part for part in _equal_parts(share // unit, count)] if share else []
        for piece in pieces:
            entropy = (recipe_version(dataset), zlib.crc32(dataset.encode()), seed, len(shards))
            shards.append(Shard(name, snapshot, piece, entropy))
    return shards


def _rolled_out(shards: list[Shard], steps: int, workers: int) -> AbstractContextManager[Iterator[Block]]:
    """Return the context of the shards' blocks: rolled out in this process if they are short, else in workers."""
    if steps <= _IN_PROCESS_STEPS:
        return nullcontext(Block.joined(roll_out(shard)) for shard in shards)
    return rolled_out(shards, workers)


def _report(blocks: Iterator[Block], steps: int, progress: Progress | None) -> Iterator[Block]:
    done = 0
    for block in blocks:
        yield block
        done += len(block.rewards)
        if progress is not None:
            progress(done, steps)


def _equal_parts(total: int, parts: int) -> list[int]:
    """Split a total into equal parts; if it does not divide evenly, the first parts are larger by one."""
    each, rest = divmod(total, parts)
    return [each + (index < rest) for index in range(parts)]


def _check_name(dataset: str) -> None:
    if dataset not in known_datasets():
        raise UnknownNameError("local dataset", dataset, known_datasets())


def _snapshots(dataset: str) -> tuple[str, list[int]]:
    """Return the environment of a shipped policy's dataset and the snapshots that act in it, in equal parts."""
    name, _, level = dataset.partition("-")
    return name, datasets(name)[level]


def _describe(dataset: str) -> tuple[str, dict[str, Any]]:
    """Return a dataset's environment and its recipe's description of the behaviour."""
    if dataset in SCRIPTED:
        return SCRIPTED[dataset].env_id, {"behaviour": SCRIPTED[dataset].recipe}
    name, snapshots = _snapshots(dataset)
    entry = environment(name)
    details = {"level": dataset.partition("-")[2], "snapshots": sorted(snapshots), "behaviours_sha256": entry["sha256"]}
    return entry["env_id"], details


def _packages(dataset: str) -> dict[str, str]:
    """Return the versions of what computes a dataset."""
    versions = {package: version(package) for package in ("gymnasium", "numpy")}
    if dataset in SCRIPTED or not is_atari(_snapshots(dataset)[0]):
        return {**versions, "mujoco": version("mujoco")}
    opencv = importlib.import_module("cv2").__version__  # several distributions have it
    return {**versions, "ale-py": version("ale-py"), "opencv": opencv}


def _spaces(env_id: str) -> dict[str, Any]:
    """Return `build_store`'s arguments for the actions of an environment, and for frames."""
    env = make_environment(env_id)
    env.close()
    if isinstance(env.action_space, gym.spaces.Box):
        return {"action_low": env.action_space.low, "action_high": env.action_space.high}
    assert isinstance(env.action_space, gym.spaces.Discrete)
    return {"action_count": int(env.action_space.n), "frame_stack": STACK}
