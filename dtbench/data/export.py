"""Write a store in the public formats: a genuine Minari dataset, or an HDF5 file like D4RL's. Nothing is lost.

Stores of frames are refused: D4RL's files hold vectors, and Minari's of games hold colour images.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dtbench import atomic
from dtbench.data.episodes import Episode
from dtbench.data.sources import d4rl
from dtbench.data.sources.minari import minari_folder
from dtbench.data.store import TrajectoryStore
from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError, DataError
from dtbench.spaces import Frames

FORMATS = ("minari", "d4rl")


def minari_id(store: TrajectoryStore) -> str:
    """Return the Minari id of a store: `dtbench/<dataset>-v0`."""
    return (
        "dtbench/"
        + str(store.metadata["dataset_id"]).removeprefix("local/").removeprefix("own/").replace("/", "-")
        + "-v0"
    )


def write_minari(store: TrajectoryStore, dataset_id: str | None = None, *, force: bool = False) -> str:
    """Write `store` to Minari's local folder (`MINARI_DATASETS_PATH`) and return the dataset's id.

    Args:
        store: what to write.
        dataset_id: the id to write it under; None takes `minari_id`.
        force: replace a dataset of that id; if writing fails, the old one stays.

    Raises:
        ConfigError: not an id of Minari's form, or that of the dataset which the store was imported from; or frames.
        DataError: a dataset of that id exists and `force` is not given.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    def buffer(index: int, episode: Episode) -> EpisodeBuffer:
        # The environment's observation space is float64, and Minari checks against it.
        return EpisodeBuffer(
            id=index,
            observations=episode.observations.astype(np.float64),
            actions=episode.actions,
            rewards=episode.rewards.astype(np.float64).tolist(),
            terminations=episode.terminations.tolist(),
            truncations=episode.truncations.tolist(),
        )

    _refuse_frames(store)
    dataset_id = dataset_id or minari_id(store)
    _check_minari_id(dataset_id)
    if store.metadata["dataset_id"] == f"minari/{dataset_id}":
        raise ConfigError(f"Minari's {dataset_id} is what {dataset_id} was imported from; choose another --as.")
    folder = minari_folder(dataset_id)
    if folder.is_dir() and not force:
        raise DataError(f"Minari dataset {dataset_id} exists already; replace it with --force.")
    with _replacing_folder(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on e-mail and permalink
        minari.create_dataset_from_buffers(
            dataset_id,
            [buffer(index, store.episode(index)) for index in range(store.num_episodes)],
            env=_environment(store),
            observation_space=gym.spaces.Box(-np.inf, np.inf, (store.observation_dim,), np.float64),
            action_space=_action_space(store),
            algorithm_name=_algorithm(store),
            author="dtbench",
            description=_description(store),
            code_permalink=None,
        )
    return dataset_id


def _is_ours(store: TrajectoryStore) -> bool:
    return str(store.metadata["source"]) == "local"


def _algorithm(store: TrajectoryStore) -> str:
    """Return what the data were made with, as far as it is recorded."""
    recipe = store.metadata["recipe"]
    unnamed = "Soft Actor-Critic snapshots" if _is_ours(store) else "unknown"
    return str(recipe.get("behaviour") or recipe.get("algorithm") or unnamed)


def _description(store: TrajectoryStore) -> str:
    return f"{'Rolled out' if _is_ours(store) else 'Exported'} by dtbench: {json.dumps(store.metadata['recipe'])}"


def _check_minari_id(dataset_id: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError) as error:  # the former where the version is missing
        raise ConfigError(f"{dataset_id!r} is not an id of Minari's form, e.g. mine/hopper-medium-v0.") from error


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[None]:
    """Let a new folder be made; if that fails, the old one is put back."""
    aside = folder.with_name(f".{folder.name}.replaced")
    if aside.is_dir() and not folder.is_dir():  # a process was killed here
        aside.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)
    existed = folder.is_dir()
    try:
        if existed:
            folder.replace(aside)
        yield
    except BaseException:
        if aside.is_dir() or not existed:
            shutil.rmtree(folder, ignore_errors=True)
        if aside.is_dir():
            aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_d4rl(store: TrajectoryStore, file: Path, *, force: bool = False) -> Path:
    """Write `store` as one HDF5 file with D4RL's keys, `next_observations` among them.

    Args:
        store: what to write.
        file: the file to write; its folder must exist.
        force: replace the file if it exists.

    Raises:
        DataError: the file exists and `force` is not given.
        ConfigError: frames, or discrete actions, which D4RL's files do not have; or the file cannot be written, or must
            not be.
    """
    import h5py

    _refuse_frames(store)
    _check_output(store, file)
    if file.exists() and not force:
        raise DataError(f"{file} exists already; replace it with --force.")
    if store.actions.ndim != 2:
        raise ConfigError("D4RL's files hold continuous actions; export discrete ones with --format minari.")
    columns = {
        "observations": store.observations,
        "next_observations": _next_observations(store),
        "actions": store.actions,
        "rewards": store.rewards,
        "terminals": store.terminations,
        "timeouts": store.truncations,
    }
    try:
        with atomic.replacing(file) as part, h5py.File(part, "w") as content:
            for key, values in columns.items():
                content.create_dataset(key, data=values, compression="gzip")
            content.attrs["dtbench"] = str(store.metadata["dataset_id"])
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}.") from error
    return file


def _refuse_frames(store: TrajectoryStore) -> None:
    if isinstance(store.observation_space, Frames):
        raise ConfigError(
            f"{store.metadata['dataset_id']} holds {store.observation_space}, which are not exported; read the arrays "
            f"in {store.path} with numpy."
        )


def _check_output(store: TrajectoryStore, file: Path) -> None:
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file, e.g. {file / 'hopper-medium.hdf5'}.")
    if not file.parent.is_dir():
        raise ConfigError(f"There is no folder {file.parent}.")
    if file.resolve().is_relative_to(store.path.resolve()):
        raise ConfigError(f"{file} is inside the store that is exported; choose another file.")
    dataset = str(store.metadata["dataset_id"]).removeprefix("d4rl/")
    if dataset in d4rl.DATASETS and file.resolve() == d4rl.raw_file(dataset).resolve():
        raise ConfigError(f"{file} is what {dataset} was imported from; choose another file.")


def _next_observations(store: TrajectoryStore) -> NDArray[np.float32]:
    following: NDArray[np.float32] = np.roll(np.asarray(store.observations), -1, axis=0)
    following[store.episode_offsets[1:] - 1] = store.final_observations
    return following


def _action_space(store: TrajectoryStore) -> gym.Space[Any]:
    bounds = store.metadata["action_space"]
    if "n" in bounds:
        return gym.spaces.Discrete(bounds["n"])
    low, high = (np.asarray(bounds[side], dtype=np.float32) for side in ("low", "high"))
    return gym.spaces.Box(low, high, dtype=np.float32)


def _environment(store: TrajectoryStore) -> Any:
    """Return the specification of the store's environment, as it is before goals are flattened."""
    env = make_environment(store.metadata["env_id"], kwargs=store.metadata.get("env_kwargs", {}))
    env.close()
    spec = env.unwrapped.spec
    assert spec is not None
    return spec
