"""Write a store in the public formats: a genuine Minari dataset, or an HDF5 file as D4RL's. Nothing is lost."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore
from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError, DataError

FORMATS = ("minari", "d4rl")


def minari_id(store: TrajectoryStore) -> str:
    """Return the Minari id of a store: `dtbench/<dataset>-v0`."""
    return "dtbench/" + str(store.metadata["dataset_id"]).removeprefix("local/").replace("/", "-") + "-v0"


def write_minari(store: TrajectoryStore, dataset_id: str | None = None, *, force: bool = False) -> str:
    """Write `store` to Minari's local folder (`MINARI_DATASETS_PATH`) and return the dataset's id.

    Raises:
        DataError: a dataset of that id is there and `force` is not given.
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

    dataset_id = dataset_id or minari_id(store)
    if dataset_id in minari.list_local_datasets():
        if not force:
            raise DataError(f"Minari dataset {dataset_id} is there already; write it again with --force.")
        minari.delete_dataset(dataset_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on e-mail and permalink
        minari.create_dataset_from_buffers(
            dataset_id,
            [buffer(index, store.episode(index)) for index in range(store.num_episodes)],
            env=_environment(store),
            observation_space=gym.spaces.Box(-np.inf, np.inf, (store.observation_dim,), np.float64),
            action_space=_action_space(store),
            algorithm_name=str(store.metadata["recipe"].get("behaviour", "Soft Actor-Critic snapshots")),
            author="dtbench",
            description=f"Rolled out by dtbench: {json.dumps(store.metadata['recipe'])}",
            code_permalink=None,
        )
    return dataset_id


def write_d4rl(store: TrajectoryStore, file: Path, *, force: bool = False) -> Path:
    """Write `store` as one HDF5 file with D4RL's keys, `next_observations` among them.

    Raises:
        DataError: the file is there and `force` is not given.
        ConfigError: discrete actions, which D4RL's files do not have; or the file cannot be written.
    """
    import h5py

    if file.exists() and not force:
        raise DataError(f"{file} is there already; write it again with --force.")
    if store.actions.ndim != 2:
        raise ConfigError("D4RL's files hold continuous actions; export discrete ones with --format minari.")
    part = file.with_name(f".{file.name}.part")
    try:
        with h5py.File(part, "w") as content:
            write: Any = lambda key, values: content.create_dataset(key, data=values, compression="gzip")  # noqa: E731
            write("observations", store.observations)
            write("next_observations", _next_observations(store))
            write("actions", store.actions)
            write("rewards", store.rewards)
            write("terminals", store.terminations)
            write("timeouts", store.truncations)
            content.attrs["dtbench"] = str(store.metadata["dataset_id"])
        part.replace(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _next_observations(store: TrajectoryStore) -> np.ndarray:
    following = np.roll(np.asarray(store.observations), -1, axis=0)
    following[store.episode_offsets[1:] - 1] = store.final_observations
    return following


def _action_space(store: TrajectoryStore) -> gym.Space:
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
