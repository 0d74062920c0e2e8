"""The DQN replay logs, made here in their own format; what is broken is refused and leaves nothing behind."""

from __future__ import annotations

import gzip
import tracemalloc
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.data.sources import dqn_replay, is_reachable
from dtbench.errors import DataError, SourceError, UnknownNameError
from dtbench.spaces import Discrete, Frames

CAPACITY, SIDE = 300, 6


class Recorder:
    """A replay buffer that writes its files like Dopamine's with batch_rl's logging: when one row is left to fill."""

    def __init__(self, folder: Path, capacity: int = CAPACITY, actions: int = 4, seed: int = 0) -> None:
        self.folder, self.capacity, self.actions = folder, capacity, actions
        self.rng = np.random.default_rng(seed)
        self.columns = {
            "observation": np.full((capacity, SIDE, SIDE), 99, np.uint8),
            "action": np.full(capacity, 3, np.int32),
            "reward": np.full(capacity, 0.5, np.float32),
            "terminal": np.zeros(capacity, np.uint8),
        }
        self.added, self.number = np.array(0), 0
        folder.mkdir(parents=True, exist_ok=True)

    def row(self, **values) -> None:
        for name, column in self.columns.items():
            column[int(self.added) % self.capacity] = values.get(name, 0)
        self.added += 1
        if self.added % self.capacity == self.capacity - 1:
            self.write()

    def write(self) -> None:
        around = (int(self.added) % self.capacity - 1 + np.arange(5)) % self.capacity
        numbers = {"add_count": self.added, "invalid_range": around}
        for name, array in {**{f"$store$_{key}": value for key, value in self.columns.items()}, **numbers}.items():
            with gzip.open(self.folder / f"{name}_ckpt.{self.number}.gz", "wb", compresslevel=1) as file:
                np.save(file, array, allow_pickle=False)
        self.number += 1

    def episode(self, steps: int) -> dict[str, np.ndarray]:
        """Record an episode of random steps, whose frames are never black; return its columns."""
        made = {
            "observation": self.rng.integers(1, 256, size=(steps, SIDE, SIDE), dtype=np.uint8),
            "action": self.rng.integers(self.actions, size=steps),
            "reward": self.rng.integers(-1, 2, size=steps).astype(np.float32),
        }
        for _ in range(3):
            self.row()
        for step in range(steps):
            self.row(terminal=step == steps - 1, **{name: values[step] for name, values in made.items()})
        return made


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DQN_REPLAY_DIR", str(tmp_path / "logs"))
    is_reachable.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """The 1 % of small logs: 400 rows from 5 buffers, 3 episodes a visit, 250 rows of a buffer at most."""
    for name, value in {"_BUFFERS": 5, "_ROWS": 400, "_VISIT": 3, "_MOST_ROWS": 250}.items():
        monkeypatch.setattr(dqn_replay, name, value)


def record(folder: Path, buffers: int, **options) -> list[dict[str, np.ndarray]]:
    """Record episodes of 1 to 40 steps until `buffers` buffers are written."""
    recorder, made = Recorder(folder, **options), []
    while recorder.number < buffers:
        made.append(recorder.episode(int(recorder.rng.integers(1, 41))))
    return made


def logs(tmp_path) -> Path:
    return tmp_path / "logs" / "Breakout" / "1" / "replay_logs"


def read(folder: Path, name: str, number: int) -> np.ndarray:
    with gzip.open(folder / f"{name}_ckpt.{number}.gz", "rb") as file:
        return np.load(file)


def nothing_is_left(home):
    """Whether `DTBENCH_HOME` holds nothing but locks."""
    return not [path for path in home.rglob("*") if path.is_file() and path.parent.name != "locks"]


# --- slices


@pytest.mark.parametrize(("seed", "cuts"), [(1, 1), (2, 0), (3, 1)])
def test_a_slice_is_the_episodes_of_its_buffer(tmp_path, seed, cuts):
    """Against what was recorded: without the rows of zeros, the stale row, and what lies in other buffers.

    With seed 2 the buffer ends among the rows of zeros between two episodes.
    """
    made = record(logs(tmp_path), 3, seed=seed)
    store = dqn_replay.import_folder(tmp_path / "logs", "breakout-mixed-v0")  # buffer 1
    frames = read(logs(tmp_path), "$store$_observation", 1)
    rows, episodes, row = [], [], 0
    for episode in made:
        row += 3
        rows.append((row, row + len(episode["action"])))
        row += len(episode["action"])
    for (begin, end), episode in zip(rows, made, strict=True):
        first, last = max(begin, CAPACITY), min(end, 2 * CAPACITY - 1)  # row 599 was not there yet
        is_cut = end > 2 * CAPACITY - 1
        if last - first > is_cut:
            episodes.append((episode, slice(first - begin, last - begin - is_cut), is_cut))
    assert store.num_episodes == len(episodes)
    assert sum(is_cut for *_, is_cut in episodes) == cuts
    for index, (episode, part, is_cut) in enumerate(episodes):
        found = store.episode(index)
        assert np.array_equal(found.observations[:-1], episode["observation"][part])
        assert np.array_equal(found.actions, episode["action"][part])
        assert np.array_equal(found.rewards, episode["reward"][part])
        assert (bool(found.terminations[-1]), bool(found.truncations[-1])) == (not is_cut, is_cut)
        wanted = episode["observation"][part.stop] if is_cut else found.observations[-2]
        assert np.array_equal(found.observations[-1], wanted)
    if cuts:
        assert np.array_equal(store.final_observations[-1], frames[CAPACITY - 2])
    assert not (store.observations == 0).all(axis=(1, 2)).any()
    assert (store.observation_space, store.action_space) == (Frames(4, SIDE, SIDE), Discrete(4))
    recipe = store.metadata["recipe"]
    assert (recipe["game"], recipe["run"], recipe["buffer"]) == ("Breakout", 1, 1)
    assert store.num_steps + recipe["padding_rows_left_out"] == CAPACITY - 2  # the stale row, the final observation
    assert store.metadata["env_id"] == "ALE/Breakout-v5"
    store.verify()


def test_a_buffer_that_ends_with_an_episode_is_not_cut(tmp_path):
    recorder = Recorder(logs(tmp_path))
    for steps in (100, 100, 90):  # with three rows of zeros each: 299, so that the last row ends an episode
        recorder.episode(steps)
    assert recorder.number == 1
    for file in logs(tmp_path).iterdir():
        file.rename(file.with_name(file.name.replace(".0.gz", ".10.gz")))
    store = dqn_replay.build("breakout-medium-v0")
    assert store.episode_lengths.tolist() == [100, 100, 90]
    assert store.terminations.sum() == 3
    assert store.truncations.sum() == 0


def test_a_buffer_of_the_end_of_training_has_fewer_rows(tmp_path):
    """Its `add_count` lies in the middle, and the rows behind it are older."""
    recorder = Recorder(logs(tmp_path))
    while recorder.number < 50:
        recorder.episode(73)
    for _ in range(int(-recorder.added % CAPACITY)):  # to the buffer's start, in an episode
        recorder.row(observation=7, action=1)
    recorder.row(observation=7, action=1, terminal=1)
    for steps in (20, 30):
        recorder.episode(steps)
    recorder.added, recorder.number = recorder.added % CAPACITY, 50
    recorder.write()
    assert recorder.added == 57
    store = dqn_replay.build("breakout-expert-v0")
    assert store.episode_lengths.tolist() == [1, 20, 30]
    assert store.truncations.sum() == 0


def test_rows_without_a_known_next_frame_are_no_steps(tmp_path):
    """`invalid_range` lists three of them before the cursor where it was written for returns of three steps."""
    made = record(logs(tmp_path), 2, seed=1)
    rewrite(logs(tmp_path) / "invalid_range_ckpt.1.gz", (np.arange(7) + CAPACITY - 4) % CAPACITY)
    assert len(made[-1]["action"]) > 5
    store = dqn_replay.import_folder(tmp_path / "logs", "breakout-mixed-v0")
    frames = read(logs(tmp_path), "$store$_observation", 1)
    assert np.array_equal(store.observations[-1], frames[CAPACITY - 5])
    assert np.array_equal(store.final_observations[-1], frames[CAPACITY - 4])


def test_black_frames_of_a_game_are_steps(tmp_path):
    """Only the three rows that Dopamine writes are left out, whatever follows them."""
    recorder = Recorder(logs(tmp_path))
    recorder.number = 1
    for _ in range(6):  # three rows of zeros and three black frames without an action
        recorder.row()
    recorder.row(observation=7, terminal=1)
    for _ in range(3):
        recorder.row()
    recorder.row(terminal=1)  # an episode of one black frame
    recorder.write()
    store = dqn_replay.build("breakout-mixed-v0")
    assert store.episode_lengths.tolist() == [4, 1]
    assert store.metadata["recipe"]["padding_rows_left_out"] == 6


@pytest.mark.parametrize(
    ("dataset", "game", "run", "number"),
    [
        ("breakout-mixed-v0", "Breakout", 1, 1),
        ("space-invaders-medium-v3", "SpaceInvaders", 4, 10),
        ("up-n-down-expert-v4", "UpNDown", 5, 50),
    ],
)
def test_names_are_those_of_d4rl_atari(dataset, game, run, number):
    assert dqn_replay._known(dataset) == dqn_replay.Dataset(game, run, buffer=number)
    assert dqn_replay.logs_folder(dataset).parts[-3:] == (game, str(run), "replay_logs")


def test_names_of_the_one_percent():
    known = {name: dqn_replay._known(name) for name in ("qbert-dqn-1pct", "qbert-dqn-1pct-run3-seed231")}
    assert [(spec.run, spec.seed) for spec in known.values()] == [(1, 123), (3, 231)]
    assert len(dqn_replay.GAMES) == 60
    for unknown in ("breakout-medium", "breakout-medium-v5", "brekout-dqn-1pct", "breakout-dqn-1pct-run6", "../x"):
        assert not dqn_replay.is_id(unknown)
    with pytest.raises(UnknownNameError, match="did you mean 'breakout-dqn-1pct'"):
        dqn_replay.build("brekout-dqn-1pct")
    for dataset in dqn_replay.DATASETS:
        assert dqn_replay.is_id(dataset)


def test_the_numbers_of_actions_are_those_of_the_games():
    gym = pytest.importorskip("gymnasium")
    gym.register_envs(pytest.importorskip("ale_py"))
    games = {group.split()[0] for group in dqn_replay._GAMES_BY_ACTIONS.values()}  # all of them took ten seconds
    for game in games | {"Breakout", "Pong", "Qbert", "Seaquest"}:
        count = dqn_replay._ACTIONS[game]
        env = gym.make(f"ALE/{game}-v5")
        assert env.action_space.n == count, game
        env.close()


# --- the 1 %


def rows_by_loop(terminals: list[np.ndarray], seed: int, rows: int, visit: int, most: int) -> dict[int, int]:
    """Take rows one by one as the Decision Transformer's script does; return how many of each buffer."""
    np.random.seed(seed)
    read_until, taken = dict.fromkeys(range(len(terminals)), 0), 0
    while taken < rows:
        number = np.random.choice(np.arange(len(terminals)), 1)[0]
        row, left, visited = read_until[number], visit - 1, 0
        while True:
            ended = terminals[number][row]
            row, visited = row + 1, visited + 1
            if row >= most:
                visited, row = 0, read_until[number]
                break
            if ended and left == 0:
                break
            left -= bool(ended)
        taken, read_until[number] = taken + visited, row
    return {number: until for number, until in read_until.items() if until}


@pytest.mark.parametrize("seed", [123, 7, 8])
def test_one_percent_is_that_of_the_published_rule(tmp_path, small, seed):
    record(logs(tmp_path), 5)
    terminals = [read(logs(tmp_path), "$store$_terminal", number) for number in range(5)]
    wanted = rows_by_loop(terminals, seed, rows=400, visit=3, most=250)
    store = dqn_replay.build("breakout-dqn-1pct" + ("" if seed == 123 else f"-seed{seed}"))
    frames = np.concatenate([read(logs(tmp_path), "$store$_observation", n)[:until] for n, until in wanted.items()])
    kept = frames.any(axis=(1, 2))  # recorded frames are never black
    assert np.array_equal(store.observations, frames[kept])
    assert store.terminations.sum() == store.num_episodes
    assert store.num_episodes == sum(int(terminals[n][:until].sum()) for n, until in wanted.items())
    recipe = store.metadata["recipe"]
    assert (recipe["seed"], recipe["rows"], recipe["episodes_per_visit"]) == (seed, 400, 3)
    assert recipe["padding_rows_left_out"] == int((~kept).sum())


def test_a_visit_that_reaches_the_last_row_is_given_up(tmp_path, small, monkeypatch):
    monkeypatch.setattr(dqn_replay, "_ROWS", 700)
    record(logs(tmp_path), 5)
    terminals = [read(logs(tmp_path), "$store$_terminal", number) for number in range(5)]
    plan = dqn_replay._Plan.of(
        dqn_replay._known("breakout-dqn-1pct"), dqn_replay._Logs(logs(tmp_path), dqn_replay._present)
    )
    wanted = rows_by_loop(terminals, 123, rows=700, visit=3, most=250)
    assert {number: pieces[-1].stop for number, pieces in plan.pieces.items()} == wanted


def test_an_episode_that_ends_with_the_last_row_is_not_taken(tmp_path, small, monkeypatch):
    """In the published code a visit is given up as soon as the next row would be beyond the last."""
    monkeypatch.setattr(dqn_replay, "_VISIT", 5)
    recorder = Recorder(logs(tmp_path))
    while recorder.number < 5:
        recorder.episode(47)  # with three rows of zeros: episodes end before the rows 50, 100, 150, 200 and 250
    with pytest.raises(DataError, match="its 5 buffers hold 0 rows of whole visits"):
        dqn_replay.build("breakout-dqn-1pct")
    monkeypatch.setattr(dqn_replay, "_VISIT", 4)
    assert dqn_replay.build("breakout-dqn-1pct").num_episodes == 8


def test_too_few_rows_are_refused(tmp_path, small, monkeypatch):
    monkeypatch.setattr(dqn_replay, "_ROWS", 2000)
    record(logs(tmp_path), 5)
    with pytest.raises(DataError, match=r"its 5 buffers hold \d[\d,]* rows of whole visits, not 2,000"):
        dqn_replay.build("breakout-dqn-1pct")


def test_only_the_buffers_that_are_drawn_are_needed(tmp_path, small, monkeypatch):
    monkeypatch.setattr(dqn_replay, "_ROWS", 100)
    record(logs(tmp_path), 5)
    drawn = dqn_replay.build("breakout-dqn-1pct").metadata["fingerprint"]
    terminals = [read(logs(tmp_path), "$store$_terminal", number) for number in range(5)]
    needed = rows_by_loop(terminals, 123, rows=100, visit=3, most=250)
    assert len(needed) < 5
    for file in logs(tmp_path).iterdir():
        if int(file.name.split(".")[1]) not in needed:
            file.unlink()
    assert not dqn_replay.needs_network("breakout-dqn-1pct-seed123")
    assert dqn_replay.build("breakout-dqn-1pct", force=True).fingerprint == drawn
    next(logs(tmp_path).glob("$store$_observation_*")).unlink()
    assert dqn_replay.needs_network("breakout-dqn-1pct-seed123")


def test_memory_does_not_grow_with_the_buffer(tmp_path):
    """60 MB of frames, episodes of 0.1 MB: reading them takes less than 15 MB, chunks of 4 MiB among them."""
    recorder = Recorder(logs(tmp_path), capacity=1_700_000)
    recorder.columns["terminal"][np.arange(3000, 1_700_000, 3000)] = 1
    recorder.columns["terminal"][1_699_998] = 1
    recorder.columns["action"][:] = 1
    recorder.added += 1_699_999
    recorder.number = 1
    recorder.write()
    size = recorder.columns["observation"].nbytes
    plan = dqn_replay._Plan.of(
        dqn_replay._known("breakout-mixed-v0"), dqn_replay._Logs(logs(tmp_path), dqn_replay._present)
    )
    del recorder
    columns = 1_700_000 * (4 + 4 + 1)
    tracemalloc.start()
    rows = 0
    for block in dqn_replay._blocks(plan, {"padding_rows_left_out": 0}, None):
        rows += len(block.rewards)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 60e6
    assert rows == 1_699_999
    assert peak - columns < 15e6


# --- what is broken


def rewrite(file: Path, array: np.ndarray) -> None:
    with gzip.open(file, "wb") as content:
        np.save(content, array)


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def no_gzip(file: Path) -> None:
    file.write_bytes(b"<html>not found</html>")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def change(function):
    def spoil(file: Path) -> None:
        with gzip.open(file, "rb") as content:
            array = np.load(content)
        rewrite(file, function(array))

    return spoil


def objects(file: Path) -> None:
    with gzip.open(file, "wb") as content:
        np.save(content, np.array([print] * 3, dtype=object), allow_pickle=True)


BROKEN = {
    "cut observations": ("$store$_observation", cut, r"observation_ckpt\.1\.gz is cut or damaged"),
    "cut actions": ("$store$_action", cut, r"action_ckpt\.1\.gz is cut or damaged"),
    "cut terminals": ("$store$_terminal", cut, r"terminal_ckpt\.1\.gz is cut or damaged"),
    "no gzip": ("$store$_reward", no_gzip, r"reward_ckpt\.1\.gz is cut or damaged"),
    "a changed byte": ("$store$_observation", flip, r"observation_ckpt\.1\.gz is cut or damaged"),
    "a pickle": ("$store$_action", objects, "not one of plain numbers"),
    "fewer rewards": (
        "$store$_reward",
        change(lambda a: a[:-1]),
        "reward_ckpt.1.gz has 299 rows, .*terminal.* has 300",
    ),
    "fewer frames": ("$store$_observation", change(lambda a: a[:-9]), "observation_ckpt.1.gz has 291 rows, "),
    "no terminal": ("$store$_terminal", change(np.zeros_like), "no episode ends in its 299 rows"),
    "float actions": ("$store$_action", change(np.float32), "holds float32 of shape .300,., not int32 with 1 axis"),
    "wide rewards": ("$store$_reward", change(np.float64), "holds float64 of shape .300,., not float32"),
    "bool terminals": ("$store$_terminal", change(np.bool_), "holds bool of shape .300,., not uint8"),
    "flat frames": ("$store$_observation", change(lambda a: a.reshape(300, -1)), "not uint8 with 3 axes"),
    "a foreign action": ("$store$_action", change(lambda a: a + 4), "actions has .* outside 0 … 3"),
    "NaN": ("$store$_reward", change(lambda a: a * np.nan), "rewards has nan"),
    "float count": (
        "add_count",
        change(np.float64),
        "add_count_ckpt.1.gz holds float64 of shape .., not whole numbers",
    ),
    "a missing file": (
        "invalid_range",
        Path.unlink,
        "invalid_range_ckpt.1.gz is missing, which breakout-mixed-v0 needs",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_files_are_refused_and_nothing_is_left(tmp_path, how):
    record(logs(tmp_path), 2)
    name, spoil, message = BROKEN[how]
    spoil(logs(tmp_path) / f"{name}_ckpt.1.gz")
    with pytest.raises(DataError, match=message) as caught:
        dqn_replay.import_folder(tmp_path / "logs", "breakout-mixed-v0")
    assert "\n" not in str(caught.value)
    assert nothing_is_left(tmp_path / "home")


# --- folders, the network, the command line


def test_folders_at_every_level_are_taken_and_others_refused(tmp_path):
    record(logs(tmp_path), 2)
    found = [
        dqn_replay.import_folder(folder, "breakout-mixed-v0").fingerprint
        for folder in (logs(tmp_path), *list(logs(tmp_path).parents)[:3])
    ]
    assert len(set(found)) == 1
    with pytest.raises(DataError, match=r"holds logs of Breakout, run 1, not of Pong, run 1; check --as"):
        dqn_replay.import_folder(logs(tmp_path), "pong-mixed-v0")
    with pytest.raises(
        DataError, match=r"has no logs of Breakout, run 2: neither it nor Breakout/2/replay_logs has files"
    ):
        dqn_replay.import_folder(tmp_path / "logs", "breakout-mixed-v1")
    loose = tmp_path / "loose"
    loose.mkdir()
    for file in logs(tmp_path).iterdir():
        file.rename(loose / file.name)
    assert dqn_replay.import_folder(loose, "breakout-mixed-v0").fingerprint == found[0]


def test_other_content_needs_force(tmp_path):
    record(logs(tmp_path), 2)
    first = dqn_replay.build("breakout-mixed-v0")
    record(tmp_path / "other", 2, seed=1)
    with pytest.raises(DataError, match=r"imported already, from other content .* --force"):
        dqn_replay.import_folder(tmp_path / "other", "breakout-mixed-v0")
    assert dqn_replay.locate("breakout-mixed-v0").fingerprint == first.fingerprint
    assert (
        dqn_replay.import_folder(tmp_path / "other", "breakout-mixed-v0", force=True).fingerprint != first.fingerprint
    )


class Server(BaseHTTPRequestHandler):
    """Serves the files of a folder."""

    def __init__(self, folder, asked, *args):
        self.folder, self.asked = folder, asked
        super().__init__(*args)

    def do_GET(self):
        file = self.folder / unquote(self.path).lstrip("/")
        self.asked.append(file.name)
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    asked: list[str] = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, tmp_path / "bucket", asked))
    Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(dqn_replay, "_SERVER", f"http://127.0.0.1:{running.server_port}")
    yield asked
    running.shutdown()
    running.server_close()


def test_what_is_missing_is_downloaded_once(tmp_path, small, server):
    record(tmp_path / "bucket" / "Breakout" / "1" / "replay_logs", 5)
    assert dqn_replay.needs_network("breakout-dqn-1pct")
    store = dqn_replay.build("breakout-dqn-1pct")
    assert len(server) == len(set(server))
    drawn = {file.suffixes[-2] for file in logs(tmp_path).glob("$store$_observation_*")}
    assert {name.split(".")[1] for name in server if "observation" in name} == {suffix[1:] for suffix in drawn}
    assert not dqn_replay.needs_network("breakout-dqn-1pct")
    count = len(server)
    assert dqn_replay.build("breakout-dqn-1pct", force=True).fingerprint == store.fingerprint
    assert len(server) == count


def test_a_file_that_the_server_lacks_is_named(tmp_path, server):
    (tmp_path / "bucket").mkdir()
    with pytest.raises(SourceError, match=r"replay_logs/%24store%24_terminal_ckpt\.1\.gz could not be downloaded"):
        dqn_replay.build("breakout-mixed-v0")
    assert not (tmp_path / "home" / "datasets").exists()


def test_the_command_line(tmp_path, small, monkeypatch):
    def invoke(*words):
        return CliRunner().invoke(cli.app, ["data", *map(str, words)])

    monkeypatch.setenv("DTBENCH_OFFLINE", "1")
    assert "breakout-dqn-1pct is not imported" in str(invoke("info", "breakout-dqn-1pct").exception)
    assert "storage.googleapis.com cannot be reached" in str(invoke("fetch", "breakout-dqn-1pct").exception)
    record(tmp_path / "given" / "Breakout" / "1" / "replay_logs", 5)
    assert " steps, " in invoke("import", tmp_path / "given", "--as", "breakout-dqn-1pct").output
    assert "the same content" in invoke("import", tmp_path / "given", "--as", "breakout-dqn-1pct").output
    assert "already imported" in invoke("fetch", "breakout-dqn-1pct").output
    shown = invoke("info", "breakout-dqn-1pct").output
    for part in ("stacks of 4 frames of 6 × 6", "frames_mb", "one of 4 actions", "dqn_replay/breakout-dqn-1pct"):
        assert part in shown
    assert "the content matches the fingerprint" in invoke("verify", "breakout-dqn-1pct").output
    assert "are not exported" in str(invoke("export", "breakout-dqn-1pct", "--format", "minari").exception)
    file = next((tmp_path / "given").rglob("*.gz"))
    assert "is made of a folder of logs" in str(invoke("import", file, "--as", "breakout-dqn-1pct").exception)
