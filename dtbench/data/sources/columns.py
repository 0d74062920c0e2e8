"""The documented layout of data of one's own: whole arrays of N steps, or an HDF5 group per episode.

| name | shape | |
|---|---|---|
| `observations` | (N, obs_dim); frames (N, height, width) uint8 | what the agent saw before each step |
| `actions` | (N, action_dim), or (N,) whole numbers | what it did |
| `rewards` | (N,) | what each step paid |
| `terminations`, or `terminals` | (N,) of 0 and 1 | the environment ended the episode |
| `truncations`, or `timeouts` | (N,) of 0 and 1, optional | a time limit or the recording ended it |
| `next_observations` | as `observations`, optional | what it saw after each step |
| `final_observations` | (E, …), optional | what it saw after the last step of each of E episodes |

Episodes follow one another and end where a termination or truncation is set. In a file with a group per episode
(Minari's HDF5 files are like that) each group holds the arrays of its T steps, and `observations` may have T + 1 rows.
Where nothing says what the agent saw after an episode's last step, the observation before that step takes its place;
this matters only for bootstrapping through a time limit.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.data.episodes import Block, Episode
from dtbench.errors import ConfigError, DataError
from dtbench.spaces import Continuous, Discrete, Frames, Vector

#: Every field with the names that it may have.
NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminations": ("terminations", "terminals"),
    "truncations": ("truncations", "timeouts"),
    "next_observations": ("next_observations",),
    "final_observations": ("final_observations",),
}
_REQUIRED = ("observations", "actions", "rewards", "terminations")
_HDF5 = (".hdf5", ".h5", ".hdf")
#: Steps read at a time.
_BLOCK_STEPS = 100_000

#: Arrays (of NumPy or h5py) by the field's first name in `NAMES`.
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the arrays must fit: the environment's spaces. `where` is the file or the name that messages begin with."""

    where: str
    env_id: str
    observation: Vector | Frames
    action: Continuous | Discrete

    def check(self, columns: Columns, place: str = "") -> None:
        """See that every array is there and that observations and actions are the environment's.

        Raises:
            DataError: naming the field, and the group if `place` does.
        """
        where = f"{self.where}{place}"
        missing = [name for name in _REQUIRED if name not in columns]
        if missing:
            names = " or ".join(repr(name) for name in NAMES[missing[0]])
            raise DataError(f"{where} has no {names}; it holds {', '.join(columns) or 'none of the known arrays'}.")
        steps = np.shape(columns["rewards"])[:1]
        tail = self.observation.shape[-2:]  # of a stack of frames, one
        for name, wanted, shows in (
            ("observations", tail, self.observation),
            ("actions", self.action.shape, self.action),
        ):
            found = np.shape(columns[name])
            if found[1:] != wanted:
                verb = "shows" if name == "observations" else "takes"
                shape = f"({', '.join(map(str, ('steps', *wanted)))})" if wanted else "(steps,)"
                raise DataError(
                    f"{where}: {name} have the shape {found}, not {shape}: {self.env_id} {verb} {shows}; give the "
                    "environment that the data come from, or arrays of this shape."
                )
        for name in ("actions", "terminations", "truncations", "next_observations"):
            if name in columns and np.shape(columns[name])[:1] != steps:
                raise DataError(
                    f"{where}: {name} have {len(columns[name]):,} steps, rewards {steps[0] if steps else 0:,}."
                )
        if isinstance(self.action, Discrete) and not np.issubdtype(columns["actions"].dtype, np.integer):
            raise DataError(f"{where}: actions hold {columns['actions'].dtype}; discrete actions are whole numbers.")


@contextmanager
def opened(file: Path) -> Iterator[Mapping[str, Any]]:
    """Open a file of arrays: the arrays, or groups of arrays, by their names in it.

    Raises:
        ConfigError: neither HDF5 nor .npz by its name.
        DataError: it is cut or damaged, or holds Python objects.
    """
    import h5py

    if file.suffix not in (".npz", *_HDF5):
        raise ConfigError(f"{file} is neither an HDF5 file ({', '.join(_HDF5)}) nor a .npz file.")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                yield {name: arrays[name] for name in arrays.files}
        else:
            with h5py.File(file, "r") as content:
                yield content
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        kind = ".npz" if file.suffix == ".npz" else "HDF5"
        reason = " ".join(str(error).split())
        raise DataError(
            f"{file} is not a whole {kind} file of plain arrays ({reason}); write or copy it again."
        ) from error


def named(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays under the fields' first names, and the names of what is not used."""
    found: dict[str, Any] = {}
    for field, names in NAMES.items():
        name = next((name for name in names if name in content), None)
        if name is not None:
            found[field] = content[name]
    used = {name for names in NAMES.values() for name in names}
    return found, [str(name) for name in content if name not in used]


def groups(content: Mapping[str, Any]) -> list[str]:
    """Return the names of an HDF5 file's groups, `episode_10` after `episode_9`; none if it has arrays of all steps."""
    if any(name in content for names in NAMES.values() for name in names):
        return []
    found = [str(name) for name, entry in content.items() if isinstance(entry, Mapping)]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def episodes_of(columns: Columns, layout: Layout) -> Iterator[Block]:
    """Yield the episodes of arrays of all steps, in blocks of whole episodes of about `_BLOCK_STEPS` steps.

    Raises:
        DataError: a field that is missing, of another shape or of other values; `EpisodeChecker` does the rest.
    """
    layout.check(columns)
    steps = len(columns["rewards"])
    if not steps:
        raise DataError(f"{layout.where} has no steps.")
    terminations = _flags(columns["terminations"], "terminations", layout)
    truncations = _flags(columns.get("truncations", np.zeros(steps)), "truncations", layout)
    ends = np.flatnonzero(terminations | truncations) + 1
    if not len(ends) or ends[-1] != steps:
        ends = np.append(ends, steps)  # an episode without an end, which the checker refuses with its number
    finals = columns.get("final_observations")
    if finals is not None and len(finals) != len(ends):
        raise DataError(f"{layout.where}: final_observations have {len(finals):,} rows for {len(ends):,} episodes.")
    following, first = columns.get("next_observations"), 0
    for start, stop in _pieces(ends):
        here = ends[(ends > start) & (ends <= stop)]
        observations = np.asarray(columns["observations"][start:stop])
        if finals is not None:
            last = np.asarray(finals[first : first + len(here)])
        else:
            after = observations if following is None else np.asarray(following[start:stop])
            last = after[here - 1 - start]
        yield Block(
            observations,
            last,
            np.asarray(columns["actions"][start:stop]),
            np.asarray(columns["rewards"][start:stop]).reshape(-1),
            terminations[start:stop],
            truncations[start:stop],
            np.diff(np.concatenate(([start], here))),
        )
        first += len(here)


def episodes_in(content: Mapping[str, Any], names: Sequence[str], layout: Layout) -> Iterator[Episode]:
    """Yield the episodes of a file with a group for each.

    Raises:
        DataError: as `episodes_of`, naming the group.
    """
    for name in names:
        columns, _ = named(content[name])
        layout.check(columns, f", {name}")
        steps, observations = len(columns["rewards"]), np.asarray(columns["observations"])
        if len(observations) == steps and steps:
            after = columns.get("final_observations", columns.get("next_observations", observations))
            observations = np.concatenate((observations, np.asarray(after)[-1:]))
        yield Episode(
            observations,
            np.asarray(columns["actions"]),
            np.asarray(columns["rewards"]).reshape(-1),
            _flags(columns["terminations"], "terminations", layout, f", {name}"),
            _flags(columns.get("truncations", np.zeros(steps)), "truncations", layout, f", {name}"),
        )


def _flags(values: Any, field: str, layout: Layout, place: str = "") -> NDArray[np.bool_]:
    flags = np.asarray(values).reshape(-1)
    if not np.isin(flags, (0, 1)).all():
        wrong = flags[~np.isin(flags, (0, 1))][0]
        raise DataError(f"{layout.where}{place}: {field} hold {wrong}; they are 0 or 1 (false or true) in each step.")
    return flags.astype(bool)


def _pieces(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    start = 0
    while start < ends[-1]:
        index = min(int(np.searchsorted(ends, start + _BLOCK_STEPS)), len(ends) - 1)
        yield start, int(ends[index])
        start = int(ends[index])
