"""TrajectoryStore: a dataset as flat memory-mapped arrays, the one form in which trajectories reach a model.

A store is a folder. N steps of E episodes lie one after another:

| file | shape, dtype | content |
|---|---|---|
| observations.npy | (N, obs_dim) float32 | what the agent saw before each step |
| actions.npy | (N, action_dim) float32, or (N,) int64 | what it did |
| rewards.npy | (N,) float32 | raw rewards: scaling, delay and returns-to-go belong to the task |
| terminations.npy | (N,) bool | the environment ended the episode: no bootstrapping |
| truncations.npy | (N,) bool | a time limit or a cut ended it: bootstrapping goes on |
| final_observations.npy | (E, obs_dim) float32 | what the agent saw after each episode's last step |
| episode_offsets.npy | (E + 1,) int64 | episode e is the steps offsets[e] … offsets[e + 1] − 1 |
| metadata.json | | origin, totals, action space and the fingerprint over the content of all files above |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dtbench._version import __version__
from dtbench.data.checks import ActionSpace, EpisodeChecker
from dtbench.data.episodes import Block, Episode
from dtbench.errors import DataError

FORMAT_VERSION = 1
FIELDS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "final_observations",
    "episode_offsets",
)
_CHUNK_BYTES = 1 << 24


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
        """Open a store; sizes are checked against the metadata, content only by `verify`.

        Raises:
            DataError: no store, a missing or truncated file, or totals that differ from the metadata.
        """
        path = Path(path)
        try:
            metadata = json.loads((path / "metadata.json").read_text())
        except FileNotFoundError as error:
            raise DataError(
                f"{path} is not a trajectory store: it has no metadata.json; build or import it."
            ) from error
        except (ValueError, OSError) as error:
            raise DataError(f"{path / 'metadata.json'} cannot be read ({error}); build the dataset again.") from error
        if metadata.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"{path} has store format {metadata.get('format_version')!r}, this dtbench reads {FORMAT_VERSION}; "
                "build the dataset again."
            )
        arrays = {name: _map_file(path / f"{name}.npy") for name in FIELDS}
        _check_totals(path, metadata, arrays)
        return cls(path, metadata, arrays)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all arrays, as recorded when the store was built."""
        return str(self.metadata["fingerprint"])

    @property
    def num_steps(self) -> int:
        return int(self.rewards.shape[0])

    @property
    def num_episodes(self) -> int:
        return int(self.final_observations.shape[0])

    @property
    def observation_dim(self) -> int:
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """Width of a continuous action, or the number of discrete ones."""
        return int(self.actions.shape[1]) if self.actions.ndim == 2 else int(self.metadata["action_space"]["n"])

    @cached_property
    def episode_lengths(self) -> NDArray[np.int64]:
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
            if _digest(name, getattr(self, name)) != self.metadata["digests"][name]:
                raise DataError(
                    f"{self.path / f'{name}.npy'} is not what was built (its content differs from its digest); "
                    "delete the folder and build the dataset again."
                )
        if _fingerprint(self.metadata["digests"]) != self.fingerprint:
            raise DataError(f"{self.path / 'metadata.json'}: the fingerprint does not belong to the digests.")


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
    recipe: Mapping[str, Any] | None = None,
    expected: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> TrajectoryStore:
    """Write episodes, one by one or in blocks, as a store: checked, streamed to disk, and visible only when whole.

    The folder is written beside its final place under a lock and renamed. A second process that builds the same store
    waits and then uses what the first one built. An interruption leaves nothing behind.

    Args:
        env_id, env_kwargs: the environment that the data are of, and what its constructor takes.
        reference: the dataset's own reference scores, `{"table": …, "random": …, "expert": …}`.
        action_low, action_high: (action_dim,) bounds of a continuous action space, or
        action_count: the number of discrete actions.
        recipe: how the data were made; plain JSON values.
        expected: totals that the source's own metadata claims, `{"episodes": …, "steps": …}`.

    Raises:
        DataError: an episode that cannot be trusted; nothing is left on disk.
    """
    path = Path(path)
    with _told_of_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_dir() and not overwrite:
            return TrajectoryStore.open(path)
        checker = EpisodeChecker(dataset_id, ActionSpace(action_low, action_high, action_count))
        with _told_of_failures(path), _Folder(path) as folder, _Writer(folder) as writer:
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
                "action_space": checker.space.to_dict(),
                "recipe": dict(recipe or {}),
                "digests": digests,
                "fingerprint": _fingerprint(digests),
                "dtbench_version": __version__,
            }
            (folder / "metadata.json").write_text(json.dumps(metadata, indent=2, allow_nan=False) + "\n")
    return TrajectoryStore.open(path)


@contextmanager
def _told_of_failures(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path} cannot be written ({reason}); make room, or set DTBENCH_HOME to another folder."
        ) from error


class _Folder:
    """A temporary folder beside `path` that takes its place on success and vanishes otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        for left_over in self.path.parent.glob(
            f".{self.path.name}.building-*"
        ):  # of a killed process: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.building-", dir=self.path.parent))
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self.folder.chmod(0o755)
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self.folder.replace(self.path)


class _Writer:
    """Appends episodes to .npy files whose headers are completed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, _GrowingArray] = {}
        self.lengths: list[NDArray[np.int64]] = []
        self.episodes = self.steps = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def append(self, block: Block) -> None:
        self.lengths.append(block.lengths)
        self.episodes += len(block.lengths)
        self.steps += len(block.rewards)
        for name in FIELDS[:-1]:
            self._write(name, getattr(block, name))

    def _write(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.files:
            self.files[name] = _GrowingArray(self.folder / f"{name}.npy", values)
        self.files[name].append(values)

    def finish(self, dataset_id: str) -> dict[str, str]:
        """Complete the files and return the digest of each."""
        if not self.episodes:
            raise DataError(f"{dataset_id} has no episodes; there is nothing to learn from.")
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(self.lengths))))
        self._write("episode_offsets", offsets.astype(np.int64))
        for file in self.files.values():
            file.close()
        with ThreadPoolExecutor(2) as pool:  # hashing lets other threads run
            found = pool.map(lambda name: _digest(name, _map_file(self.folder / f"{name}.npy")), FIELDS)
            return dict(zip(FIELDS, found, strict=True))


class _GrowingArray:
    """A .npy file that grows along its first axis; numpy reserves room in the header for the final length."""

    def __init__(self, path: Path, like: NDArray[Any]) -> None:
        self.dtype, self.tail, self.length = like.dtype, like.shape[1:], 0
        self.file: IO[bytes] = path.open("wb")
        self._write_header()
        self.start = self.file.tell()

    def append(self, values: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        if self.file.closed:
            return
        self.file.seek(0)
        self._write_header()
        if self.file.tell() != self.start:
            raise DataError(f"{self.file.name}: the header did not fit; this is a defect of dtbench, please report it.")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length, *self.tail),
        }
        np.lib.format.write_array_header_1_0(self.file, header)


def _map_file(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; delete the folder and build the dataset again.") from error
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); delete the folder and build it again.") from error
    return array


def _check_totals(path: Path, metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    episodes, steps = metadata["totals"]["episodes"], metadata["totals"]["steps"]
    expected = dict.fromkeys(FIELDS, steps) | {"final_observations": episodes, "episode_offsets": episodes + 1}
    for name, length in expected.items():
        if len(arrays[name]) != length:
            raise DataError(
                f"{path / f'{name}.npy'} holds {len(arrays[name])} rows, the metadata says {length}; "
                "delete the folder and build the dataset again."
            )
    if arrays["episode_offsets"][-1] != steps:
        raise DataError(f"{path / 'episode_offsets.npy'} does not end at step {steps}; build the dataset again.")


def _digest(name: str, array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{name} {array.dtype.str} {array.shape}".encode())
    rows = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def _fingerprint(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps({name: digests[name] for name in FIELDS}).encode()).hexdigest()
