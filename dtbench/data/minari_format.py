"""Write a store as a genuine Minari dataset, which `minari.load_dataset` opens and `recover_environment` works on."""

from __future__ import annotations

import warnings

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from dtbench.data.store import Episode, TrajectoryStore
from dtbench.errors import DataError


def minari_id(store: TrajectoryStore) -> str:
    """Return the Minari id of a store: `dtbench/<dataset>-v0`."""
    return "dtbench/" + str(store.metadata["dataset_id"]).removeprefix("local/").replace("/", "-") + "-v0"


def write_minari(store: TrajectoryStore, dataset_id: str | None = None, *, force: bool = False) -> str:
    """Write `store` to Minari's local folder (`MINARI_DATASETS_PATH`) and return the dataset's id.

    Raises:
        DataError: a dataset of that id is there and `force` is not given.
    """
    dataset_id = dataset_id or minari_id(store)
    if dataset_id in minari.list_local_datasets():
        if not force:
            raise DataError(f"Minari dataset {dataset_id} is there already; write it again with --force.")
        minari.delete_dataset(dataset_id)
    env = gym.make(store.metadata["env_id"])
    try:
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # advice on e-mail and permalink
        minari.create_dataset_from_buffers(
            dataset_id,
            [_buffer(index, store.episode(index)) for index in range(store.num_episodes)],
            env=env,
            algorithm_name="Soft Actor-Critic snapshots",
            author="dtbench",
            description=f"Rolled out by dtbench: {store.metadata['recipe']}",
            code_permalink=None,
        )
    finally:
        env.close()
    return dataset_id


def _buffer(index: int, episode: Episode) -> EpisodeBuffer:
    # The environment's observation space is float64, and Minari checks against it.
    return EpisodeBuffer(
        id=index,
        observations=episode.observations.astype(np.float64),
        actions=episode.actions,
        rewards=episode.rewards.astype(np.float64).tolist(),
        terminations=episode.terminations.tolist(),
        truncations=episode.truncations.tolist(),
    )
