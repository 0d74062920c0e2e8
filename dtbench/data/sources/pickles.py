"""The trajectory pickles of the Decision Transformer repository, read without executing anything in them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dtbench.data.episodes import Episode
from dtbench.errors import DataError

#: What numpy needs to rebuild its arrays, and nothing else. `_codecs.encode` turns text to bytes (pickles of Python 2).
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
_KEYS = ("observations", "next_observations", "actions", "rewards", "terminals")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"it would load {module}.{name}, which is not an array: a pickle can run any code, and this one is not "
                "a file of trajectories. Do not open it elsewhere either"
            )
        return super().find_class(module, name)


def read_pickle(path: Path) -> Iterator[Episode]:
    """Read a list of trajectories, each a dict of arrays (kzl/decision-transformer, gym/data).

    A trajectory whose last step is not terminal was cut by the time limit.

    Raises:
        DataError: it holds anything but arrays, or a trajectory lacks a key.
    """
    try:
        with path.open("rb") as file:
            trajectories = _ArraysOnly(file).load()
    except DataError as error:
        raise DataError(f"{path} is refused: {error}.") from error
    except Exception as error:
        raise DataError(f"{path} is not a readable pickle ({_one_line(error)}); download or write it again.") from error
    if not isinstance(trajectories, list) or not trajectories:
        raise DataError(f"{path} does not hold a list of trajectories, as kzl's gym/data files do.")
    for index, trajectory in enumerate(trajectories):
        yield _episode(path, index, trajectory)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _episode(path: Path, index: int, trajectory: Any) -> Episode:
    missing = [key for key in _KEYS if not isinstance(trajectory, dict) or key not in trajectory]
    if missing:
        raise DataError(f"{path}, trajectory {index}: {missing[0]} is missing; it needs {', '.join(_KEYS)}.")
    arrays = {key: np.asarray(trajectory[key]) for key in _KEYS}
    steps = len(arrays["rewards"])
    for key, array in arrays.items():
        if len(array) != steps:
            raise DataError(f"{path}, trajectory {index}: {key} has {len(array)} steps, rewards {steps}.")
    if not steps:
        raise DataError(f"{path}, trajectory {index}: it has no steps; drop it from the file.")
    terminations = arrays["terminals"].reshape(-1).astype(bool)
    truncations = np.zeros(steps, dtype=bool)
    truncations[-1] = not terminations[-1]
    observations = np.concatenate((arrays["observations"], arrays["next_observations"][-1:]))
    return Episode(observations, arrays["actions"], arrays["rewards"].reshape(-1), terminations, truncations)
