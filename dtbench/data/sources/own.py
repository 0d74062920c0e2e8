"""The `own` source: data of your own, from a file or from NumPy arrays, for any registered environment.

`import_file` takes an HDF5 or .npz file, `make_dataset` arrays; both in the layout of `columns.py`. The spaces are
those of the environment that is named, and observations and actions are compared with them. A suite names such a
dataset as `sources: {own: NAME}`. Nothing is downloaded or built: what was not imported is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dtbench.console import Progress
from dtbench.data.episodes import Block, Episode
from dtbench.data.sources import d4rl, dqn_replay, local
from dtbench.data.sources.columns import Layout, episodes_in, episodes_of, groups, named, opened
from dtbench.data.sources.content import sha256_of
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.data.store_files import digest
from dtbench.environments.make import action_space, make_environment, observation_space, require_registered
from dtbench.errors import ConfigError, DataError, SourceError
from dtbench.resources import datasets_home
from dtbench.spaces import Discrete, Frames
from dtbench.suites import fields

HOST = None


def store_path(dataset: str) -> Path:
    """Return the folder of a dataset of one's own.

    Raises:
        ConfigError: the name is not one of letters, digits and `._-`, or is that of a dataset of another source.
    """
    name = fields.name(dataset, "the name of a dataset")
    if name in d4rl.DATASETS or dqn_replay.is_id(name):
        raise ConfigError(
            f"{name} is the name of a public dataset; call yours otherwise, or import its file without --env."
        )
    if name in local.known_datasets():
        raise ConfigError(f"{name} is the name of a dataset of the source `local`; call yours otherwise.")
    return datasets_home() / "own" / name


def locate(dataset: str, *, steps: int = 0) -> TrajectoryStore | None:
    """Open a dataset that is imported already, else return None."""
    path = store_path(dataset)
    return TrajectoryStore.open(path) if path.is_dir() else None


def needs_network(dataset: str) -> bool:
    """Report whether the dataset is not imported; no network can bring it (`HOST` is None)."""
    return not store_path(dataset).is_dir()


def build(dataset: str, *, steps: int = 0, progress: Progress | None = None, force: bool = False) -> TrajectoryStore:
    """Open a dataset that is imported already.

    Raises:
        SourceError: it is not.
    """
    found = locate(dataset)
    if found is None:
        raise SourceError(f"There is no dataset {dataset} of your own. {how_to_import(dataset)}")
    return found


def how_to_import(dataset: str) -> str:
    """Say how a dataset gets here."""
    return f"Import it: `dtbench data import FILE --as {dataset} --env ENV`, or `dtbench.make_dataset` from arrays."


def datasets() -> list[str]:
    """Return the names of all datasets that are imported already."""
    return sorted(file.parent.name for file in (datasets_home() / "own").glob("*/metadata.json"))


def import_file(
    file: Path, dataset: str, env_id: str, *, env_kwargs: Mapping[str, Any] | None = None, force: bool = False
) -> TrajectoryStore:
    """Turn an HDF5 or .npz file in the layout of `columns.py` into a store under the name `dataset`.

    If the dataset is imported already, from the same content and for the same environment, it is opened.

    Args:
        file: what to read.
        dataset: its name here: letters, digits and `._-`, and no other source's.
        env_id: the registered environment that the data come from.
        env_kwargs: arguments of its constructor.
        force: replace what is imported already.

    Raises:
        ConfigError: no such environment, another source's name, or a file of another kind.
        DataError: a field is missing, or its content cannot be trusted; field and episode are named.
    """
    with opened(file) as content:
        names = groups(content)
        columns, unused = ({}, []) if names else named(content)
        layout = _layout(str(file), env_id, env_kwargs)
        episodes = episodes_in(content, names, layout) if names else episodes_of(columns, layout)
        recipe = {"file": file.name, "sha256": sha256_of(file), "unused": unused}
        return _stored(dataset, episodes, layout, env_kwargs, recipe, overwrite=force)


def make_dataset(
    name: str,
    *,
    env_id: str,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminations: ArrayLike,
    truncations: ArrayLike | None = None,
    next_observations: ArrayLike | None = None,
    final_observations: ArrayLike | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> TrajectoryStore:
    """Store arrays of your own as a dataset that suites can name: `sources: {own: NAME}`.

    The N steps of E episodes follow one another; an episode ends where a termination or truncation is set. Everything
    is stored raw and in float32: scaling and normalisation belong to the task.

    Args:
        name: of the dataset: letters, digits and `._-`.
        env_id: the registered gymnasium environment that the data come from, in which models will act.
        observations: (N, obs_dim), what the agent saw before each step; of a game, single frames (N, height, width)
            uint8.
        actions: (N, action_dim) within the environment's bounds, or (N,) whole numbers.
        rewards: (N,) raw rewards.
        terminations: (N,) of 0 and 1: the environment ended the episode.
        truncations: (N,) of 0 and 1: a time limit or the end of the recording ended it.
        next_observations: (N, obs_dim), what the agent saw after each step; the last one of each episode is stored.
        final_observations: (E, obs_dim) instead: what it saw after the last step of each episode. Without both, the
            observation before that step takes its place, which matters for bootstrapping through a time limit only.
        env_kwargs: arguments of the environment's constructor.
        overwrite: replace a dataset of this name. Otherwise the same arrays are stored once, and others are refused.

    Returns:
        The store: memory-mapped arrays with a fingerprint over their content.

    Raises:
        ConfigError: no such environment, or a name that another source has.
        DataError: arrays that do not fit each other or the environment, NaN, an episode without an end; the message
            names field and episode, and nothing is stored.
    """
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "next_observations": next_observations,
        "final_observations": final_observations,
    }
    columns = {field: np.asarray(values) for field, values in given.items() if values is not None}
    for field, array in columns.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{name}: {field} hold {array.dtype}; give arrays of plain numbers, of equal lengths.")
    layout = _layout(name, env_id, env_kwargs)
    recipe = {"made": "from arrays", "sha256": _sha256_of(columns)}
    return _stored(name, episodes_of(columns, layout), layout, env_kwargs, recipe, overwrite=overwrite)


def _sha256_of(columns: Mapping[str, NDArray[Any]]) -> str:
    listing = "".join(f"{field} {digest(field, columns[field])}\n" for field in sorted(columns))
    return hashlib.sha256(listing.encode("ascii")).hexdigest()


def _layout(where: str, env_id: str, env_kwargs: Mapping[str, Any] | None) -> Layout:
    require_registered(env_id)
    env = make_environment(env_id, kwargs=env_kwargs)
    try:
        return Layout(where, env_id, observation_space(env), action_space(env))
    finally:
        env.close()


def _stored(
    dataset: str,
    episodes: Iterable[Episode | Block],
    layout: Layout,
    env_kwargs: Mapping[str, Any] | None,
    recipe: dict[str, Any],
    *,
    overwrite: bool,
) -> TrajectoryStore:
    action, observation = layout.action, layout.observation
    bounds: dict[str, Any] = {}
    if isinstance(action, Discrete):
        bounds["action_count"] = action.count
    else:
        bounds |= {"action_low": np.asarray(action.low), "action_high": np.asarray(action.high)}
    if isinstance(observation, Frames):
        bounds["frame_stack"] = observation.stack
    store = build_store(
        store_path(dataset),
        episodes,
        source="own",
        dataset_id=f"own/{dataset}",
        env_id=layout.env_id,
        env_kwargs=env_kwargs,
        recipe=recipe,
        overwrite=overwrite,
        **bounds,
    )
    made_for = (store.metadata["env_id"], store.metadata["env_kwargs"])
    if store.metadata["recipe"].get("sha256") != recipe["sha256"] or made_for != (
        layout.env_id,
        dict(env_kwargs or {}),
    ):
        raise DataError(
            f"There is a dataset {dataset} already, of other content or for another environment; choose another name, "
            "or replace it with --force (in Python overwrite=True)."
        )
    return store
