"""TrajectoryStore: a dataset as flat memory-mapped arrays, the one form in which trajectories reach a model.

A store is a folder in which the N steps of E episodes follow one another:

| file | shape, dtype | content |
|---|---|---|
| observations.npy | (N, obs_dim) float32 | what the agent saw before each step |
| actions.npy | (N, action_dim) float32, or (N,) int64 | what it did |
| rewards.npy | (N,) float32 | raw rewards: scaling, delay and returns-to-go belong to the task |
| terminations.npy | (N,) bool | the environment ended the episode: no bootstrapping |
| truncations.npy | (N,) bool | a time limit or a cut ended it: bootstrapping continues |
| final_observations.npy | (E, obs_dim) float32 | what the agent saw after each episode's last step |
| episode_offsets.npy | (E + 1,) int64 | episode e has the steps offsets[e] … offsets[e + 1] − 1 |
| metadata.json | | origin, totals, action space, sizes and checksums, and the fingerprint over all arrays |

Of a game, the observations are single frames, each stored once: (N, height, width) and (E, height, width) uint8. The
metadata then say `"observation_space": {"stack": 4}`: what an agent saw is the last 4 frames of its episode, the newest
last, and zeros before its first. Stacks are formed where windows are gathered (`dtbench/data/windows.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench._version import __version__
from dtbench.data.checks import ActionSpace, EpisodeChecker
from dtbench.data.episodes import Block, Episode
from dtbench.data.store_files import (
    FIELDS,
    FORMAT_VERSION,
    array_file,
    check_arrays,
    check_summaries,
    digest,
    fingerprint,
    map_file,
    read_metadata,
    summarize,
)
from dtbench.data.store_writer import StoreWriter, naming_the_folder, new_folder, write_metadata
from dtbench.errors import ConfigError, DataError
from dtbench.locks import lock
from dtbench.spaces import Continuous, Discrete, Frames, Vector


class TrajectoryStore:
    """A built dataset, opened without copying anything; the arrays are read-only memory maps."""

    def __init__(self, path: Path, metadata: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.path, self.metadata = path, metadata
        self.observations = arrays["observations"]
        self.actions = arrays["actions"]
        self.rewards = arrays["rewards"]
        self.terminations = arrays["terminations"]
        self.truncations = arrays["truncations"]
        self.final_observations = arrays["final_observations"]
        self.episode_offsets = arrays["episode_offsets"]

    @classmethod
    def open(cls, path: str | Path) -> TrajectoryStore:
        """Open a store and check everything that is cheap: sizes, sample checksums, types, shapes and offsets.

        Files of up to 64 MiB are checked whole; `verify` checks all content of every store.

        Raises:
            DataError: it is not a store; or a file is missing, cut, damaged or does not belong to the others.
        """
        path = Path(path)
        metadata = read_metadata(path)
        check_summaries(path, metadata)
        arrays = {name: map_file(array_file(path, name)) for name in FIELDS}
        check_arrays(path, metadata, arrays)
        return cls(path, metadata, arrays)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all arrays, as recorded when the store was built."""
        return str(self.metadata["fingerprint"])

    @property
    def num_steps(self) -> int:
        """The number N of steps."""
        return int(self.rewards.shape[0])

    @property
    def num_episodes(self) -> int:
        """The number E of episodes."""
        return int(self.final_observations.shape[0])

    @property
    def observation_space(self) -> Vector | Frames:
        """What an agent sees: a vector, or a stack of frames."""
        recorded = self.metadata.get("observation_space")
        if recorded is None:
            return Vector(int(self.observations.shape[1]))
        return Frames(int(recorded["stack"]), *map(int, self.observations.shape[1:]))

    @property
    def action_space(self) -> Continuous | Discrete:
        """What it does."""
        space = self.metadata["action_space"]
        if "n" in space:
            return Discrete(int(space["n"]))
        return Continuous(*(tuple(float(bound) for bound in space[name]) for name in ("low", "high")))

    @property
    def observation_dim(self) -> int:
        """The width of an observation that is a vector.

        Raises:
            ConfigError: the observations are frames.
        """
        space = self.observation_space
        if not isinstance(space, Vector):
            raise ConfigError(f"{self.metadata['dataset_id']} holds {space}; this takes observations that are vectors.")
        return space.size

    @property
    def action_dim(self) -> int:
        """Width of a continuous action, or the number of discrete ones."""
        return self.action_space.size

    @cached_property
    def episode_lengths(self) -> NDArray[np.int64]:
        """Number of steps of each episode, (E,) int64."""
        return np.diff(self.episode_offsets)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode, (E,) float64."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_offsets[:-1])

    def episode(self, index: int) -> Episode:
        """Return one episode, with its final observation appended."""
        start, stop = self.episode_offsets[index], self.episode_offsets[index + 1]
        return Episode(
            np.concatenate((self.observations[start:stop], self.final_observations[index : index + 1])),
            np.asarray(self.actions[start:stop]),
            np.asarray(self.rewards[start:stop]),
            np.asarray(self.terminations[start:stop]),
            np.asarray(self.truncations[start:stop]),
        )

    def verify(self) -> None:
        """Compare every file's content with what was recorded when it was written.

        Raises:
            DataError: naming the file that differs.
        """
        for name in FIELDS:
            if digest(name, getattr(self, name)) != self.metadata["digests"][name]:
                raise DataError(
                    f"{array_file(self.path, name)} is not what was built (its content differs from its digest); "
                    "delete the folder and build the dataset again."
                )


def build_store(
    path: str | Path,
    episodes: Iterable[Episode | Block],
    *,
    source: str,
    dataset_id: str,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
    action_low: NDArray[Any] | None = None,
    action_high: NDArray[Any] | None = None,
    action_count: int | None = None,
    frame_stack: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    expected: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> TrajectoryStore:
    """Write episodes, one by one or in blocks, as a store: checked, streamed to disk, and visible only when whole.

    The folder is written beside its final place under a lock and then renamed. A second process that builds the same
    store waits and then opens what the first one built. An interruption leaves nothing behind.

    Args:
        path: the store's folder.
        episodes: what to write, in order.
        source: the name of the source, e.g. `local`.
        dataset_id: the dataset's name, with the source in front.
        env_id: the environment that the data come from.
        env_kwargs: arguments of its constructor.
        reference: the dataset's own reference scores, `{"table": …, "random": …, "expert": …}`.
        action_low: (action_dim,) lower bounds of a continuous action space.
        action_high: (action_dim,) its upper bounds.
        action_count: the number of discrete actions, instead of bounds.
        frame_stack: the observations are single frames (height, width) uint8, and an agent sees this many of them.
        recipe: how the data were made; plain JSON values.
        expected: totals that the source's own metadata claim, `{"episodes": …, "steps": …}`.
        overwrite: replace an existing store.

    Raises:
        DataError: an episode that cannot be trusted, or no room on the disk; nothing is left behind.
        ConfigError: `frame_stack` is not positive.
    """
    path = Path(path)
    if frame_stack is not None and frame_stack < 1:
        raise ConfigError(f"frame_stack must be positive, not {frame_stack}.")
    space = ActionSpace(action_low, action_high, action_count)
    with naming_the_folder(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        if path.is_dir() and not overwrite:
            return TrajectoryStore.open(path)
        checker = EpisodeChecker(dataset_id, space, frames=frame_stack is not None)
        with naming_the_folder(path), new_folder(path) as folder, StoreWriter(folder) as writer:
            for episode in episodes:
                writer.append(checker.check(episode))
            digests = writer.finish(dataset_id)
            totals = {"episodes": writer.episodes, "steps": writer.steps}
            checker.check_totals(totals, expected)
            metadata = {
                "format_version": FORMAT_VERSION,
                "source": source,
                "dataset_id": dataset_id,
                "env_id": env_id,
                "env_kwargs": dict(env_kwargs or {}),
                "reference": None if reference is None else dict(reference),
                "totals": totals,
                "action_space": space.to_dict(),
                **({} if frame_stack is None else {"observation_space": {"stack": frame_stack}}),
                "recipe": dict(recipe or {}),
                "files": summarize(folder),
                "digests": digests,
                "fingerprint": fingerprint(digests),
                "dtbench_version": __version__,
            }
            write_metadata(folder, metadata)
        return TrajectoryStore.open(path)
