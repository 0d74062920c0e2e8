"""The `dqn_replay` source: the logs of DQN on 60 Atari games, five runs each, that Agarwal et al. published (2020).

Datasets have a game's name in front, in d4rl-atari's spelling (`breakout`, `space-invaders`):

* `breakout-dqn-1pct`: the 1 % of the Decision Transformer (kzl/decision-transformer, atari/create_dataset.py). Until
  500,000 rows are taken, one of the 50 buffers is drawn uniformly and read on from where it was left, 11 episodes at a
  time. The draws are those of that code with seed 123. `breakout-dqn-1pct-seed231` has others, `breakout-dqn-1pct-run2`
  is of another run, and `breakout-dqn-1pct-run2-seed231` both.
* `breakout-mixed-v0`, `breakout-medium-v0`, `breakout-expert-v0`: the slices of takuseno/d4rl-atari, a buffer each: the
  numbers 1, 10 and 50 of run 1; v1 … v4 are of the runs 2 … 5.

Files are looked for in `$DQN_REPLAY_DIR` (default: `dqn_replay` in dtbench's folder), as
`Breakout/1/replay_logs/$store$_observation_ckpt.0.gz`, and otherwise downloaded, only those that a dataset needs. A
file of observations has 7 GB when unpacked; it is read as a stream and as far as it is needed.

What the logs hold. A buffer is a .npy file per field with 1,000,000 rows in the order of time, written by Dopamine
(google/dopamine, circular_replay_buffer.py; google-research/batch_rl, logged_replay_buffer.py). A row is a frame of
84 × 84, the action taken, its reward and whether the episode ended. A step is four frames of the game, with sticky
actions (probability 0.25), and an episode a whole game. So:

* Rewards are stored here as they are in the files. Dopamine's runner clips them to [−1, 1] before it stores them, and
  the author of d4rl-atari says so of these data (its issue 13). Returns-to-go then count clipped rewards, and the
  returns of an evaluation do not.
* Before each episode Dopamine writes three rows of zeros, for its own stacks. They are not steps and are left out; the
  Decision Transformer and d4rl-atari keep them. They count in the 500,000, so that the same episodes are taken.
* `add_count` tells where the next row would have been written: the row there, and those behind it, are a million steps
  older and belong before row 0. They are left out. `invalid_range` lists the rows around that place which are no whole
  transitions. Those before it have no next frame: the first of them is taken as the final observation of the episode
  that the buffer's end cuts (truncated). The first rows of a buffer are listed because their stacks would reach into
  the buffer before; they are kept, as a stack never reaches behind an episode's first row.
* `terminal` marks an episode's end (terminated), also where Dopamine stopped it after 27,000 steps. The frame after it
  is not logged, so the last one takes its place; nothing is bootstrapped from it.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.console import Progress
from dtbench.data.download import download
from dtbench.data.episodes import Block
from dtbench.data.sources.content import require_same, sha256_of
from dtbench.data.sources.gzipped import ArrayStream
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.errors import DataError, SourceError, UnknownNameError
from dtbench.resources import datasets_home, home

HOST = "storage.googleapis.com"
_SERVER = f"https://{HOST}/atari-replay-datasets/dqn"
STACK = 4
#: The Decision Transformer's 1 %: buffers, rows in all, episodes per visit, rows of a buffer that are used at most.
_BUFFERS, _ROWS, _VISIT, _MOST_ROWS = 50, 500_000, 11, 100_000
_SEED = 123
_SLICES = {"mixed": 1, "medium": 10, "expert": 50}
_RUNS = range(1, 6)
_DTYPES = {
    "observation": np.dtype(np.uint8),
    "action": np.dtype(np.int32),
    "reward": np.dtype(np.float32),
    "terminal": np.dtype(np.uint8),
}

#: The games by the number of actions that each has (its minimal set, which the logs use).
_GAMES_BY_ACTIONS = {
    3: "Freeway Skiing",
    4: "Atlantis Breakout",
    6: "AirRaid Bowling Carnival DemonAttack NameThisGame Pong Pooyan Qbert SpaceInvaders UpNDown",
    7: "Assault",
    8: "Gopher Phoenix Tutankham",
    9: "Asterix BeamRider CrazyClimber Enduro MsPacman VideoPinball",
    10: "Amidar TimePilot WizardOfWor",
    14: "Asteroids KungFuMaster",
    16: "JourneyEscape",
    18: "Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand DoubleDunk ElevatorAction FishingDerby "
    "Frostbite Gravitar Hero IceHockey Jamesbond Kangaroo Krull MontezumaRevenge Pitfall PrivateEye Riverraid "
    "RoadRunner Robotank Seaquest Solaris StarGunner Tennis Venture YarsRevenge Zaxxon",
}
_ACTIONS = {game: count for count, games in _GAMES_BY_ACTIONS.items() for game in games.split()}
GAMES = {re.sub(r"(?<!^)(?=[A-Z])", "-", game).lower(): game for game in _ACTIONS}
#: The datasets by name, without those of other runs and seeds of the 1 %.
DATASETS = [
    *(f"{game}-dqn-1pct" for game in GAMES),
    *(f"{game}-{level}-v{run - 1}" for game in GAMES for level in _SLICES for run in _RUNS),
]
_ONE_PERCENT = re.compile(r"(?P<game>[a-z-]+)-dqn-1pct(-run(?P<run>[1-5]))?(-seed(?P<seed>\d{1,9}))?")
_SLICE = re.compile(r"(?P<game>[a-z-]+)-(?P<level>mixed|medium|expert)-v(?P<index>[0-4])")


@dataclass(frozen=True)
class Dataset:
    """What a name means: `buffer` is that of a slice, `seed` that of the 1 %'s draws; one of them is None."""

    game: str
    run: int
    buffer: int | None = None
    seed: int | None = None

    def recipe(self) -> dict[str, Any]:
        """Return how the data are chosen from the logs."""
        content: dict[str, Any] = {"game": self.game, "run": self.run, "rewards": "as logged: clipped to [-1, 1]"}
        if self.buffer is not None:
            return {**content, "buffer": self.buffer}
        rule = {"buffers": _BUFFERS, "rows": _ROWS, "episodes_per_visit": _VISIT, "most_rows_per_buffer": _MOST_ROWS}
        return {**content, **rule, "seed": self.seed}


def is_id(dataset: str) -> bool:
    """Report whether a text is the name of one of this source's datasets."""
    return _parsed(dataset) is not None


def _parsed(dataset: str) -> Dataset | None:
    found = _ONE_PERCENT.fullmatch(dataset) or _SLICE.fullmatch(dataset)
    if found is None or found["game"] not in GAMES:
        return None
    game = GAMES[found["game"]]
    if "level" in found.re.groupindex:
        return Dataset(game, int(found["index"]) + 1, buffer=_SLICES[found["level"]])
    return Dataset(game, int(found["run"] or 1), seed=int(found["seed"] or _SEED))


def _known(dataset: str) -> Dataset:
    found = _parsed(dataset)
    if found is None:
        raise UnknownNameError("DQN replay dataset", dataset, DATASETS)
    return found


def store_path(dataset: str) -> Path:
    """Return the folder of an imported dataset."""
    return datasets_home() / "dqn_replay" / dataset


def logs_root() -> Path:
    """Return the folder of all logs: `$DQN_REPLAY_DIR`, default `dqn_replay` in dtbench's folder."""
    folder = os.environ.get("DQN_REPLAY_DIR")
    return Path(folder).expanduser() if folder else home() / "dqn_replay"


def logs_folder(dataset: str) -> Path:
    """Return where the logs of a dataset's game and run are kept."""
    spec = _known(dataset)
    return logs_root() / spec.game / str(spec.run) / "replay_logs"


def locate(dataset: str, *, steps: int = 0) -> TrajectoryStore | None:
    """Open a dataset that is imported already, else return None."""
    _known(dataset)
    path = store_path(dataset)
    return TrajectoryStore.open(path) if path.is_dir() else None


def needs_network(dataset: str) -> bool:
    """Report whether the dataset is neither imported, nor are its files in the folder of logs."""
    if store_path(dataset).is_dir():
        return False
    try:
        _Plan.of(_known(dataset), _Logs(logs_folder(dataset), _present))
    except FileNotFoundError:
        return True
    except DataError:  # a damaged file; `build` says so
        return False
    return False


def build(dataset: str, *, steps: int = 0, progress: Progress | None = None, force: bool = False) -> TrajectoryStore:
    """Open a dataset, importing its files first, downloading those that are missing; `steps` has no meaning here.

    Args:
        dataset: its name.
        steps: ignored.
        progress: called with (bytes done, in all) of each download, then with (rows done, in all).
        force: replace what is imported already.

    Raises:
        SourceError: a file cannot be downloaded.
        DataError: it cannot be trusted.
    """
    found = None if force else locate(dataset)
    if found is not None:
        return found
    spec, folder = _known(dataset), logs_folder(dataset)

    def obtain(file: Path) -> Path:
        url = f"{_SERVER}/{spec.game}/{spec.run}/replay_logs/{urllib.parse.quote(file.name)}"
        try:
            return download(url, file, progress=progress)
        except OSError as error:
            raise SourceError(f"{file} cannot be written: {error}; set DQN_REPLAY_DIR to another folder.") from error

    return _import(dataset, _Logs(folder, obtain), progress=progress, force=force)


def import_folder(
    folder: Path, dataset: str, *, progress: Progress | None = None, force: bool = False
) -> TrajectoryStore:
    """Turn a folder of logs into a store under the name `dataset`.

    If the dataset is imported already, from the same content, it is opened.

    Args:
        folder: with the files themselves, or with `replay_logs`, `1/replay_logs` or `Breakout/1/replay_logs` in it.
        dataset: its name, which decides what is taken.
        progress: called with (rows done, in all).
        force: replace what is imported already.

    Raises:
        DataError: a file is missing, cut, of the wrong type or of another length than its siblings; no episode ends; or
            the dataset is imported already from other content.
    """
    spec = _known(dataset)

    def obtain(file: Path) -> Path:
        try:
            return _present(file)
        except FileNotFoundError as error:
            raise DataError(f"{file} is missing, which {dataset} needs; copy it there.") from error

    return _import(dataset, _Logs(_logs_in(folder, spec), obtain), progress=progress, force=force)


def _logs_in(folder: Path, spec: Dataset) -> Path:
    """Return the folder of the game's and run's logs in a folder that was given."""
    below = ("", "replay_logs", f"{spec.run}/replay_logs", f"{spec.game}/{spec.run}/replay_logs")
    for logs in (folder / part for part in below):
        if next(logs.glob("$store$_*_ckpt.*.gz"), None) is None:
            continue
        found = logs.resolve().parts[-3:-1]
        if found[0] in _ACTIONS and found != (spec.game, str(spec.run)):
            raise DataError(
                f"{logs} holds logs of {found[0]}, run {found[-1]}, not of {spec.game}, run {spec.run}; check --as."
            )
        return logs
    raise DataError(
        f"{folder} has no logs of {spec.game}, run {spec.run}: neither it nor {below[-1]} has files named "
        "$store$_…_ckpt.….gz."
    )


def _import(dataset: str, logs: _Logs, *, progress: Progress | None, force: bool) -> TrajectoryStore:
    spec = _known(dataset)
    plan = _Plan.of(spec, logs)
    sha256 = plan.sha256()
    found = None if force else locate(dataset)
    if found is not None:
        return require_same(found, sha256, logs.folder, dataset)
    recipe = {**spec.recipe(), "sha256": sha256, "padding_rows_left_out": 0}
    store = build_store(
        store_path(dataset),
        _blocks(plan, recipe, progress),
        source="dqn_replay",
        dataset_id=f"dqn_replay/{dataset}",
        env_id=f"ALE/{spec.game}-v5",
        action_count=_ACTIONS[spec.game],
        frame_stack=STACK,
        recipe=recipe,
        overwrite=force,
    )
    return require_same(store, sha256, logs.folder, dataset)


def _present(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(file)
    return file


@dataclass(frozen=True)
class _Logs:
    """The files of a game and run; `obtain` returns a file that is there, or raises."""

    folder: Path
    obtain: Callable[[Path], Path]

    def file(self, name: str, buffer: int) -> Path:
        """Return the file of a column (`observation`, …) or of a number (`add_count`, …) of a buffer."""
        stored = f"$store$_{name}" if name in _DTYPES else name
        return self.obtain(self.folder / f"{stored}_ckpt.{buffer}.gz")


@dataclass(frozen=True)
class _Piece:
    """The rows of an episode in its buffer: start … stop − 1; the frame of row `stop` follows if it is cut there."""

    start: int
    stop: int
    is_cut: bool = False


@dataclass(frozen=True)
class _Plan:
    """Which rows of which buffers a dataset has, buffer after buffer, and the files that they are in."""

    pieces: dict[int, list[_Piece]]
    files: dict[int, dict[str, Path]]
    reads_whole_buffers: bool

    @classmethod
    def of(cls, spec: Dataset, logs: _Logs) -> _Plan:
        """Choose the rows, from the small files alone, and make sure that those of the chosen buffers are there."""
        pieces = _slice(spec.buffer, logs) if spec.buffer is not None else _one_percent(spec.seed or 0, logs)
        names = (*_DTYPES, "add_count", "invalid_range")
        files = {buffer: {name: logs.file(name, buffer) for name in names} for buffer in pieces}
        return cls(pieces, files, reads_whole_buffers=spec.buffer is not None)

    @property
    def rows(self) -> int:
        """The number of rows in all, those of zeros among them."""
        return sum(piece.stop - piece.start for pieces in self.pieces.values() for piece in pieces)

    def sha256(self) -> str:
        """Return the SHA-256 over the names and contents of the files; of a file of observations, over its size."""
        listing = [
            f"{file.stat().st_size if name == 'observation' else sha256_of(file)} {file.name}\n"
            for files in self.files.values()
            for name, file in sorted(files.items())
        ]
        return hashlib.sha256("".join(listing).encode()).hexdigest()


def _slice(buffer: int, logs: _Logs) -> dict[int, list[_Piece]]:
    """Return all episodes of one buffer; its end cuts the last one."""
    terminals, last = _terminals(buffer, logs)
    ends = np.flatnonzero(terminals) + 1
    pieces = [_Piece(int(start), int(stop)) for start, stop in pairwise((0, *ends))]
    if last > ends[-1]:
        pieces.append(_Piece(int(ends[-1]), last, is_cut=True))
    return {buffer: pieces}


def _one_percent(seed: int, logs: _Logs) -> dict[int, list[_Piece]]:
    """Return the episodes of the Decision Transformer's 1 %, by buffer instead of in the order of its visits.

    The generator and the draws are its own: numpy's older `RandomState`, whose stream never changes. A visit that would
    reach row 100,000 of its buffer is given up, as it is there.
    """
    generator = np.random.RandomState(seed)
    ends: dict[int, NDArray[np.int64]] = {}
    visited: dict[int, int] = {}
    rows, used_up = 0, set[int]()
    while rows < _ROWS:
        if len(used_up) == _BUFFERS:
            raise DataError(f"{logs.folder}: its {_BUFFERS} buffers hold {rows:,} rows of whole visits, not {_ROWS:,}.")
        buffer = int(generator.choice(np.arange(_BUFFERS), 1)[0])
        if buffer not in ends:
            found = np.flatnonzero(_terminals(buffer, logs)[0]) + 1
            ends[buffer] = np.concatenate(([0], found[found < _MOST_ROWS]))
        first = visited.get(buffer, 0)
        if first + _VISIT >= len(ends[buffer]):
            used_up.add(buffer)
            continue
        visited[buffer] = first + _VISIT
        rows += int(ends[buffer][first + _VISIT] - ends[buffer][first])
    return {
        buffer: [_Piece(int(start), int(stop)) for start, stop in pairwise(ends[buffer][: visited[buffer] + 1])]
        for buffer in sorted(visited)
    }


def _terminals(buffer: int, logs: _Logs) -> tuple[NDArray[np.bool_], int]:
    """Return which of a buffer's rows end an episode, (rows,), and the first row that has no known next frame.

    Raises:
        DataError: no episode ends.
    """
    file = logs.file("terminal", buffer)
    terminals = _column(file, "terminal") != 0
    count = int(_array(logs.file("add_count", buffer)).reshape(-1)[0])
    invalid = set(_array(logs.file("invalid_range", buffer)).reshape(-1).tolist())
    rows = count % len(terminals) if len(terminals) else 0
    if count > 0 and rows == 0:
        rows = len(terminals)  # the next row would have been written over row 0
    terminals = terminals[:rows]
    if not terminals.any():
        raise DataError(f"{file}: no episode ends in its {rows:,} rows; the file is damaged, fetch or copy it again.")
    last = rows - 1
    while last - 1 in invalid and last > 0:
        last -= 1
    return terminals, last


def _blocks(plan: _Plan, recipe: dict[str, Any], progress: Progress | None) -> Iterator[Block]:
    """Yield each episode as a block, and count the rows of zeros that are left out in the recipe."""
    done, total = 0, plan.rows
    for buffer, pieces in plan.pieces.items():
        files = plan.files[buffer]
        columns = {name: _column(files[name], name) for name in ("action", "reward", "terminal")}
        with ArrayStream(files["observation"]) as frames:
            _check_columns(files, columns, frames)
            for piece in pieces:
                block, zeros = _block(piece, columns, frames)
                recipe["padding_rows_left_out"] += zeros
                if block is not None:
                    yield block
                done += piece.stop - piece.start
                if progress is not None:
                    progress(done, total)
            if plan.reads_whole_buffers:
                frames.finish()


def _check_columns(files: dict[str, Path], columns: dict[str, NDArray[Any]], frames: ArrayStream) -> None:
    _check_type(frames, "observation", axes=3)
    lengths = {files["observation"]: frames.shape[0]} | {files[name]: len(values) for name, values in columns.items()}
    wanted = len(columns["terminal"])
    for file, length in lengths.items():
        if length != wanted:
            raise DataError(
                f"{file} has {length:,} rows, {files['terminal'].name} has {wanted:,}; they are not of one buffer: "
                "fetch or copy them again."
            )


def _block(piece: _Piece, columns: dict[str, NDArray[Any]], frames: ArrayStream) -> tuple[Block | None, int]:
    """Return an episode, or None if it has no steps, and how many rows of zeros before it are left out."""
    frames.skip(piece.start - frames.row)
    shown = frames.read(piece.stop - piece.start + piece.is_cut)
    actions, rewards, terminals = (columns[name][piece.start : piece.stop] for name in ("action", "reward", "terminal"))
    zeros = 0
    while zeros < min(STACK - 1, len(actions)) and not (
        actions[zeros] or rewards[zeros] or terminals[zeros] or shown[zeros].any()
    ):
        zeros += 1
    steps = len(actions) - zeros
    if steps == 0:
        return None, zeros
    ends = np.arange(steps) == steps - 1
    return Block(
        observations=shown[zeros : zeros + steps],
        final_observations=shown[-1:],
        actions=actions[zeros:],
        rewards=rewards[zeros:],
        terminations=ends & (not piece.is_cut),
        truncations=ends & piece.is_cut,
        lengths=np.array([steps]),
    ), zeros


def _check_type(stream: ArrayStream, name: str, axes: int) -> None:
    """Refuse another type or number of axes than a column has.

    Raises:
        DataError: naming the file and what it holds.
    """
    if stream.dtype != _DTYPES[name] or len(stream.shape) != axes:
        raise DataError(
            f"{stream.file} holds {stream.dtype} of shape {stream.shape}, not {_DTYPES[name]} with {axes} "
            f"{'axes' if axes > 1 else 'axis'}; it is not a {name} file of the DQN replay dataset."
        )


def _column(file: Path, name: str) -> NDArray[Any]:
    """Read one of a buffer's columns, (rows,)."""
    with ArrayStream(file) as stream:
        _check_type(stream, name, axes=1)
        values = stream.read(stream.shape[0])
        stream.finish()
    return values


def _array(file: Path) -> NDArray[Any]:
    """Read a small array of whole numbers: `add_count` () or `invalid_range` (5,)."""
    with ArrayStream(file) as stream:
        if stream.dtype.kind not in "iu" or int(np.prod(stream.shape)) == 0:
            raise DataError(f"{file} holds {stream.dtype} of shape {stream.shape}, not whole numbers.")
        values = stream.read_all()
        stream.finish()
    return values
