"""The `d4rl` source: D4RL's HDF5 files, and the pickles that the Decision Transformer repository makes of them.

Files are looked for where D4RL keeps them (`$D4RL_DATASET_DIR`, default `~/.d4rl/datasets`) and otherwise downloaded
from its server. A file is one long sequence of steps, split into episodes by `terminals` and `timeouts`; without
`timeouts` an episode also ends at the environment's horizon. Steps after the last end belong to an episode that the
recording cut: they are left out, as in D4RL's `sequence_dataset`.

If the file has `next_observations`, an episode's last one is stored; if it has none (AntMaze, Maze2d, Kitchen, Adroit),
the observation before the last step takes its place. This matters only for bootstrapping through a time limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.console import Progress
from dtbench.data.download import download
from dtbench.data.episodes import Block, Episode
from dtbench.data.sources.content import require_same, sha256_of
from dtbench.data.sources.pickles import read_pickle
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.errors import DataError, SourceError, UnknownNameError
from dtbench.resources import datasets_home

HOST = "rail.eecs.berkeley.edu"
_SERVER = f"https://{HOST}/datasets/offline_rl"
#: Steps read at a time.
_BLOCK_STEPS = 100_000


@dataclass(frozen=True)
class Dataset:
    """A file on D4RL's server, and what it must look like.

    `env_id` is gymnasium's environment with the same observations and actions, or None.
    """

    file: str
    env_id: str | None
    observation_dim: int
    action_dim: int
    horizon: int


def _datasets() -> dict[str, Dataset]:
    """Return all datasets by D4RL's names (d4rl/infos.py and its gym_mujoco, hand_manipulation_suite)."""
    known: dict[str, Dataset] = {}
    locomotion: dict[str, tuple[str | None, int, int]] = {
        "hopper": ("Hopper-v4", 11, 3),
        "halfcheetah": ("HalfCheetah-v4", 17, 6),
    }
    locomotion |= {"walker2d": ("Walker2d-v4", 17, 6), "ant": (None, 111, 8)}
    for name, (env_id, observations, actions) in locomotion.items():
        for level in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            file = f"gym_mujoco_v2/{name}_{level.replace('-', '_')}-v2.hdf5"
            known[f"{name}-{level}-v2"] = Dataset(file, env_id, observations, actions, 1000)
    ants = {"umaze": ("u-maze", "False", "False", 700), "umaze-diverse": ("u-maze", "True", "True", 700)}
    ants |= {"medium-play": ("big-maze", "True", "False", 1000), "medium-diverse": ("big-maze", "True", "True", 1000)}
    ants |= {"large-play": ("hardest-maze", "True", "False", 1000)}
    ants |= {"large-diverse": ("hardest-maze", "True", "True", 1000)}
    for name, (maze, starts, goals, horizon) in ants.items():
        file = f"ant_maze_v2/Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse_fixed.hdf5"
        known[f"antmaze-{name}-v2"] = Dataset(file, None, 29, 8, horizon)
    for size, horizon in (("umaze", 300), ("medium", 600), ("large", 800)):
        known[f"maze2d-{size}-v1"] = Dataset(f"maze2d/maze2d-{size}-sparse-v1.hdf5", None, 4, 2, horizon)
        known[f"maze2d-{size}-dense-v1"] = Dataset(f"maze2d/maze2d-{size}-dense-v1.hdf5", None, 4, 2, horizon)
    kitchens = {"complete": "mini_kitchen_microwave_kettle_light_slider-v0"}
    kitchens |= {"partial": "kitchen_microwave_kettle_light_slider-v0"}
    kitchens |= {"mixed": "kitchen_microwave_kettle_bottomburner_light-v0"}
    for name, file in kitchens.items():
        env_id = f"dtbench/Kitchen-{name}-v1"
        known[f"kitchen-{name}-v0"] = Dataset(f"kitchen/{file}.hdf5", env_id, 60, 9, 280)
    hands = {"pen": ("AdroitHandPen-v1", 45, 24, 100), "door": ("AdroitHandDoor-v1", 39, 28, 200)}
    hands |= {"hammer": ("AdroitHandHammer-v1", 46, 26, 200), "relocate": ("AdroitHandRelocate-v1", 39, 30, 200)}
    for name, (env_id, observations, actions, horizon) in hands.items():
        for level in ("human", "cloned", "expert"):
            file = f"hand_dapg_v1/{name}-{level}-v1.hdf5"
            known[f"{name}-{level}-v1"] = Dataset(file, env_id, observations, actions, horizon)
    return known


DATASETS = _datasets()


def store_path(dataset: str) -> Path:
    """Return the folder of an imported dataset."""
    return datasets_home() / "d4rl" / dataset


def raw_file(dataset: str) -> Path:
    """Return where D4RL itself keeps the file of a dataset."""
    folder = os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets")
    return Path(folder).expanduser() / Path(_known(dataset).file).name


def locate(dataset: str, *, steps: int = 0) -> TrajectoryStore | None:
    """Open a dataset that is imported already, else return None."""
    _known(dataset)
    path = store_path(dataset)
    return TrajectoryStore.open(path) if path.is_dir() else None


def needs_network(dataset: str) -> bool:
    """Report whether the dataset is neither imported, nor is its file where D4RL keeps it."""
    return not (store_path(dataset).is_dir() or raw_file(dataset).is_file())


def build(dataset: str, *, steps: int = 0, progress: Progress | None = None, force: bool = False) -> TrajectoryStore:
    """Open a dataset, importing its file first, which is downloaded if it is missing; `steps` has no meaning here.

    Raises:
        SourceError: the file cannot be downloaded.
        DataError: it cannot be trusted.
    """
    found = None if force else locate(dataset)
    if found is not None:
        return found
    file = raw_file(dataset)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        download(f"{_SERVER}/{_known(dataset).file}", file, progress=progress)
    except OSError as error:
        raise SourceError(f"{file} cannot be written: {error}; set D4RL_DATASET_DIR to another folder.") from error
    return import_file(file, dataset, force=force)


def import_file(file: Path, dataset: str, *, force: bool = False) -> TrajectoryStore:
    """Turn an HDF5 file or a trajectory pickle into a store under D4RL's name `dataset`.

    If the dataset is imported already, from the same content, it is opened.

    Args:
        file: `.pkl` or `.pickle` is read as a pickle, anything else as HDF5.
        dataset: D4RL's name, which decides what the file must look like.
        force: replace what is imported already.

    Raises:
        DataError: a truncated or foreign file, a missing key, NaN, ragged lengths, or data of another environment; or
            the dataset is imported already from other content.
    """
    spec = _known(dataset)
    clipped = _Clipped()
    episodes: Iterator[Episode | Block]
    if file.suffix in (".pkl", ".pickle"):
        episodes = (_refit(spec, file, clipped, episode) for episode in read_pickle(file))
    else:
        episodes = _read_hdf5(file, spec, clipped)
    one = np.ones(spec.action_dim, dtype=np.float32)
    recipe: dict[str, Any] = {"file": file.name, "sha256": sha256_of(file), "clipped_actions": clipped.counts}
    store = build_store(
        store_path(dataset),
        episodes,
        source="d4rl",
        dataset_id=f"d4rl/{dataset}",
        env_id=spec.env_id or f"{dataset} (D4RL)",
        action_low=-one,
        action_high=one,
        recipe=recipe,
        overwrite=force,
    )
    return require_same(store, recipe["sha256"], file, dataset)


class _Clipped:
    """Counts the actions beyond [−1, 1], where D4RL's environments clip them: here they are stored clipped."""

    def __init__(self) -> None:
        self.counts = {"steps": 0, "largest": 1.0}

    def __call__(self, actions: NDArray[Any]) -> NDArray[Any]:
        largest = float(np.abs(actions).max(initial=0.0))
        if largest > 1:
            self.counts["steps"] += int((np.abs(actions) > 1).any(axis=-1).sum())
            self.counts["largest"] = max(self.counts["largest"], largest)
            clipped: NDArray[Any] = np.clip(actions, -1, 1)
            return clipped
        return actions


def _read_hdf5(file: Path, spec: Dataset, clip: _Clipped) -> Iterator[Block]:
    """Yield the file's episodes in blocks of about `_BLOCK_STEPS` steps."""
    import h5py

    try:
        with h5py.File(file, "r") as content:
            columns = {key: _column(content, key, file) for key in ("observations", "actions", "rewards", "terminals")}
            steps = len(columns["rewards"])
            for key, column in columns.items():
                if len(column) != steps:
                    raise DataError(f"{file}: {key} has {len(column):,} steps, rewards {steps:,}; download it again.")
            _check_width(file, "observations", columns["observations"].shape, spec.observation_dim)
            _check_width(file, "actions", columns["actions"].shape, spec.action_dim)
            terminals = np.asarray(columns["terminals"][:]).reshape(-1).astype(bool)
            timeouts = (
                None if "timeouts" not in content else np.asarray(content["timeouts"][:]).reshape(-1).astype(bool)
            )
            ends, truncations = _episode_ends(terminals, timeouts, spec.horizon)
            following = content.get("next_observations")
            for start, stop in _pieces(ends):
                here = ends[(ends > start) & (ends <= stop)]
                observations = columns["observations"][start:stop]
                after = observations if following is None else following[start:stop]
                yield Block(
                    observations,
                    after[here - 1 - start],
                    clip(columns["actions"][start:stop]),
                    np.asarray(columns["rewards"][start:stop]).reshape(-1),
                    terminals[start:stop],
                    truncations[start:stop],
                    np.diff(np.concatenate(([start], here))),
                )
    except OSError as error:
        raise DataError(
            f"{file} is not a whole HDF5 file ({' '.join(str(error).split())}); download it again."
        ) from error


def _column(content: Any, key: str, file: Path) -> Any:
    if key not in content:
        raise DataError(f"{file} has no {key!r}; it holds {', '.join(content)}. It is not a D4RL dataset.")
    return content[key]


def _check_width(file: Path, key: str, shape: tuple[int, ...], width: int) -> None:
    if len(shape) != 2 or shape[1] != width:
        raise DataError(
            f"{file}: {key} has shape {shape}, not (steps, {width}); it is another environment's data: check --as."
        )


def _episode_ends(
    terminals: NDArray[np.bool_], timeouts: NDArray[np.bool_] | None, horizon: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the step after each episode's end, (E,), and the truncations of all steps.

    Without `timeouts`, an episode of `horizon` steps ends there, and the next one begins.
    """
    if timeouts is None:
        natural = np.concatenate(([0], np.flatnonzero(terminals) + 1, [len(terminals)]))
        cuts = [np.arange(a + horizon, b + 1, horizon) for a, b in pairwise(natural)]
        timeouts = np.zeros_like(terminals)
        timeouts[np.concatenate(cuts) - 1] = True
        timeouts &= ~terminals
    ends = np.flatnonzero(terminals | timeouts) + 1
    if not len(ends):
        raise DataError("No episode ends in the file: neither terminals nor timeouts are set.")
    return ends, timeouts


def _pieces(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Split the steps up to the last end into pieces of whole episodes."""
    start = 0
    while start < ends[-1]:
        index = min(int(np.searchsorted(ends, start + _BLOCK_STEPS)), len(ends) - 1)
        yield start, int(ends[index])
        start = int(ends[index])


def _refit(spec: Dataset, file: Path, clip: _Clipped, episode: Episode) -> Episode:
    _check_width(file, "observations", np.shape(episode.observations), spec.observation_dim)
    _check_width(file, "actions", np.shape(episode.actions), spec.action_dim)
    actions = clip(episode.actions)
    return Episode(episode.observations, actions, episode.rewards, episode.terminations, episode.truncations)


def _known(dataset: str) -> Dataset:
    if dataset not in DATASETS:
        raise UnknownNameError("D4RL dataset", dataset, DATASETS)
    return DATASETS[dataset]
