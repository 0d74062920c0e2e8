"""D4RL's and Minari's files, made here in their own formats; what is broken is refused and leaves nothing behind."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.data.download import download
from dtbench.data.episodes import Episode
from dtbench.data.export import write_d4rl, write_minari
from dtbench.data.sources import d4rl, local, resolve_sources, unavailable_message
from dtbench.data.sources import minari as minari_source
from dtbench.data.store import build_store
from dtbench.environments.make import import_robotics, make_environment
from dtbench.errors import DataError, SourceError, UnknownNameError
from dtbench.spaces import Discrete, Frames
from dtbench.suites.suites import load_suite, suite_names

ID, OBSERVATIONS, ACTIONS = "hopper-medium-v2", 11, 3


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def columns(steps=60, seed=0, observations=OBSERVATIONS, actions=ACTIONS):
    """Return D4RL's columns: episodes end at step 19 (terminal), 39 (timeout); the tail after 49 is cut."""
    rng = np.random.default_rng(seed)
    content = {
        "observations": rng.normal(size=(steps, observations)).astype(np.float32),
        "next_observations": rng.normal(size=(steps, observations)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(steps, actions)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.arange(steps) == 19,
        "timeouts": np.isin(np.arange(steps), [39, 49]),
    }
    content["next_observations"][:-1] = content["observations"][1:]
    return content


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            file.create_dataset(key, data=values, compression="gzip")
    return path


def nothing_is_left(home):
    """Whether `DTBENCH_HOME` holds nothing but locks."""
    return not [path for path in home.rglob("*") if path.is_file() and path.parent.name != "locks"]


# --- D4RL's HDF5


@pytest.mark.parametrize("block", [7, 20, 1000])
def test_hdf5_is_split_as_a_loop_over_steps_would(tmp_path, monkeypatch, block):
    monkeypatch.setattr(d4rl, "_BLOCK_STEPS", block)
    content = columns()
    store = d4rl.import_file(write(tmp_path / "f.hdf5", content), ID)
    episodes, begin = [], 0
    for step in range(60):
        if content["terminals"][step] or content["timeouts"][step]:
            episodes.append((begin, step + 1))
            begin = step + 1
    assert store.num_episodes == len(episodes) == 3
    assert store.num_steps == 50  # the tail has no end
    for index, (start, stop) in enumerate(episodes):
        episode = store.episode(index)
        assert np.array_equal(episode.observations[:-1], content["observations"][start:stop])
        assert np.array_equal(episode.observations[-1], content["next_observations"][stop - 1])
        for ours, theirs in (("actions", "actions"), ("rewards", "rewards"), ("terminations", "terminals")):
            assert np.array_equal(getattr(episode, ours), content[theirs][start:stop])
        assert np.array_equal(episode.truncations, content["timeouts"][start:stop])
    assert store.metadata["env_id"] == "Hopper-v4"
    store.verify()


def test_without_timeouts_the_horizon_ends_an_episode(tmp_path):
    content = columns(700, observations=60, actions=9)
    del content["timeouts"], content["next_observations"]
    content["terminals"] = np.isin(np.arange(700), [99])
    store = d4rl.import_file(write(tmp_path / "k.hdf5", content), "kitchen-partial-v0")
    assert store.episode_lengths.tolist() == [100, 280, 280]
    assert store.terminations.sum() == 1
    assert store.truncations.sum() == 2
    assert np.array_equal(store.final_observations[1], content["observations"][379])  # the file knows no later one


def test_antmaze_keeps_its_timeouts(tmp_path):
    content = columns(observations=29, actions=8)
    store = d4rl.import_file(write(tmp_path / "a.hdf5", content), "antmaze-umaze-v2")
    assert store.truncations.sum() == 2
    assert store.terminations.sum() == 1


def test_actions_beyond_the_box_are_clipped_and_counted(tmp_path):
    content = columns()
    content["actions"][3, 1] = 1.25
    store = d4rl.import_file(write(tmp_path / "f.hdf5", content), ID)
    assert store.actions[3, 1] == 1
    assert store.metadata["recipe"]["clipped_actions"] == {"steps": 1, "largest": 1.25}


def spoil(content, how):
    if how == "a missing key":
        del content["rewards"]
    if how == "NaN":
        content["observations"][23, 4] = np.nan
    if how == "infinity at the end":
        content["next_observations"][39, 0] = np.inf
    if how == "ragged lengths":
        content["actions"] = content["actions"][:-1]
    if how == "another environment":
        content["observations"] = np.zeros((60, 17), np.float32)
    if how == "no ends":
        content["terminals"][:] = content["timeouts"][:] = False
    return content


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a missing key", "has no 'rewards'; it holds actions,"),
        ("NaN", "hopper-medium-v2, episode 1: observations has nan at step 3"),
        ("infinity at the end", "episode 1: observations has NaN or infinity at step 20"),
        ("ragged lengths", "actions has 59 steps, rewards 60"),
        ("another environment", r"observations has shape \(60, 17\), not \(steps, 11\).*check --as"),
        ("no ends", "neither terminals nor timeouts"),
    ],
)
def test_bad_hdf5_is_refused_and_nothing_is_left(tmp_path, how, message):
    file = write(tmp_path / "f.hdf5", spoil(columns(), how))
    with pytest.raises(DataError, match=message):
        d4rl.import_file(file, ID)
    assert nothing_is_left(tmp_path / "home")


def test_truncated_hdf5_is_refused(tmp_path):
    file = write(tmp_path / "f.hdf5", columns(4000))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not a whole HDF5 file .*download it again"):
        d4rl.import_file(file, ID)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="not a whole HDF5 file"):
        d4rl.import_file(file, ID)
    assert nothing_is_left(tmp_path / "home")


def test_no_permission_is_said(tmp_path, monkeypatch):
    file = write(tmp_path / "f.hdf5", columns())

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dtbench.data.sources.d4rl.Path.open", refuse)
    with pytest.raises(DataError, match=r"f\.hdf5 cannot be read: Permission denied"):
        d4rl.import_file(file, ID)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """A write that finds no room: the half-written store is removed, and a sentence names the reason."""
    file = write(tmp_path / "f.hdf5", columns())

    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dtbench.data.store_writer.GrowingArray.append", full)
    done = CliRunner().invoke(cli.app, ["data", "import", str(file), "--as", ID])
    assert isinstance(done.exception, DataError)
    assert "No space left on device" in str(done.exception)
    assert nothing_is_left(tmp_path / "home")


def can_mount() -> bool:
    command = ["unshare", "-rm", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no right to mount a file system of one's own")
def test_a_file_system_of_one_megabyte(tmp_path):
    content, home = columns(60_000), tmp_path / "small"
    content["timeouts"] = np.arange(60_000) % 1000 == 999
    file = write(tmp_path / "f.hdf5", content)
    home.mkdir()
    command = f"{sys.executable} -m dtbench data import {file} --as {ID}"
    script = f"mount -t tmpfs -o size=1m none {home} && {command}; code=$?; "
    script += f"find {home} -type f -not -path '*/locks/*'; exit $code"
    environment = {**os.environ, "DTBENCH_HOME": str(home)}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == []


# --- trajectory pickles


def trajectories():
    rng = np.random.default_rng(0)
    made = []
    for steps, terminal in ((5, True), (8, False)):
        terminals = np.zeros(steps, dtype=bool)
        terminals[-1] = terminal
        made.append(
            {
                "observations": rng.normal(size=(steps, OBSERVATIONS)).astype(np.float32),
                "next_observations": rng.normal(size=(steps, OBSERVATIONS)).astype(np.float32),
                "actions": rng.uniform(-1, 1, size=(steps, ACTIONS)).astype(np.float32),
                "rewards": rng.normal(size=steps).astype(np.float32),
                "terminals": terminals,
            }
        )
    return made


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_trajectories_are_read(tmp_path, protocol):
    made = trajectories()
    file = tmp_path / "hopper-medium-v2.pkl"
    file.write_bytes(pickle.dumps(made, protocol=protocol))
    store = d4rl.import_file(file, ID)
    assert store.episode_lengths.tolist() == [5, 8]
    assert (store.terminations.sum(), store.truncations.sum()) == (1, 1)
    for index, trajectory in enumerate(made):
        assert np.array_equal(store.episode(index).observations[:-1], trajectory["observations"])
        assert np.array_equal(store.final_observations[index], trajectory["next_observations"][-1])


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/dtbench-was-here",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([Evil()]), "would load (posix|nt).system"),
        (pickle.dumps([1, 2]), "observations is missing"),
        (pickle.dumps({"a": 1}), "does not hold a list of trajectories"),
        (pickle.dumps(trajectories())[:100], "not a readable pickle"),
        (pickle.dumps([{**trajectories()[0], "rewards": np.zeros(3)}]), "observations has 5 steps, rewards 3"),
    ],
)
def test_bad_pickles_are_refused(tmp_path, content, message):
    from pathlib import Path

    file = tmp_path / "t.pkl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        d4rl.import_file(file, ID)
    assert not Path("/tmp/dtbench-was-here").exists()
    assert nothing_is_left(tmp_path / "home")


# --- Minari


class Goals(gym.Env):
    """A goal-conditioned environment, only for its spaces."""

    observation_space = gym.spaces.Dict(
        {
            "achieved_goal": gym.spaces.Box(-9, 9, (2,)),
            "desired_goal": gym.spaces.Box(-9, 9, (2,)),
            "observation": gym.spaces.Box(-9, 9, (3,)),
        }
    )
    action_space = gym.spaces.Box(-1, 1, (2,))


def buffers(observation, action, episodes=3, steps=6):
    """Return buffers of random steps; `observation(steps + 1)` and `action(steps)` make their columns."""
    made = []
    for index in range(episodes):
        ends = np.arange(steps) == steps - 1
        made.append(
            EpisodeBuffer(
                id=index,
                observations=observation(steps + 1),
                actions=action(steps),
                rewards=np.arange(steps, dtype=float).tolist(),
                terminations=(ends & (index == 0)).tolist(),
                truncations=(ends & (index != 0)).tolist(),
            )
        )
    return made


def make_minari(name, made, space, actions, **options):
    minari.create_dataset_from_buffers(
        name, made, observation_space=space, action_space=actions, env=options.pop("env", "Hopper-v5"), **options
    )
    return minari_source.minari_folder(name)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_goals_are_flattened(data_format):
    rng = np.random.default_rng(0)
    space, actions = Goals.observation_space, Goals.action_space
    made = buffers(
        lambda n: {key: rng.uniform(-1, 1, size=(n, *box.shape)).astype(np.float32) for key, box in space.items()},
        lambda n: rng.uniform(-1, 1, size=(n, 2)).astype(np.float32),
    )
    import_robotics()
    name = "own/goals-v0"
    make_minari(name, made, space, actions, env="PointMaze_UMaze-v3", data_format=data_format)
    store = minari_source.build(name)
    assert store.observation_dim == 5
    for index, buffer in enumerate(made):
        wanted = np.concatenate((buffer.observations["observation"], buffer.observations["desired_goal"]), axis=1)
        assert np.array_equal(store.episode(index).observations, wanted)
    assert store.terminations.sum() == 1
    assert store.truncations.sum() == 2
    assert store.metadata["env_id"] == "PointMaze_UMaze-v3"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_discrete_observations_and_actions():
    rng = np.random.default_rng(0)
    space, actions = gym.spaces.Discrete(4), gym.spaces.Discrete(3)
    made = buffers(lambda n: rng.integers(4, size=n), lambda n: rng.integers(3, size=n))
    make_minari("own/discrete-v0", made, space, actions, env="CartPole-v1")
    store = minari_source.build("own/discrete-v0")
    assert np.array_equal(store.observations[:6].argmax(axis=1), made[0].observations[:-1])
    assert store.actions.dtype == np.int64
    assert store.metadata["action_space"] == {"n": 3}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_gives_environment_and_reference_scores():
    space, actions = gym.spaces.Box(-9, 9, (11,), np.float64), gym.spaces.Box(-1, 1, (3,))
    rng = np.random.default_rng(0)
    made = buffers(
        lambda n: rng.uniform(-1, 1, size=(n, 11)), lambda n: rng.uniform(-1, 1, size=(n, 3)).astype(np.float32)
    )
    evaluation = gym.make("Hopper-v5", healthy_reward=2.0).spec
    make_minari("own/ref-v0", made, space, actions, eval_env=evaluation, ref_min_score=-1.0, ref_max_score=7.0)
    store = minari_source.build("own/ref-v0")
    assert store.metadata["reference"] == {"table": "minari own/ref-v0", "random": -1.0, "expert": 7.0}
    assert store.metadata["env_kwargs"]["healthy_reward"] == 2.0


def a_minari_dataset(name="own/plain-v0"):
    space, actions = gym.spaces.Box(-9, 9, (11,), np.float64), gym.spaces.Box(-1, 1, (3,))
    rng = np.random.default_rng(0)
    made = buffers(
        lambda n: rng.uniform(-1, 1, size=(n, 11)), lambda n: rng.uniform(-1, 1, size=(n, 3)).astype(np.float32)
    )
    return make_minari(name, made, space, actions)


def set_metadata(folder, **changes):
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_steps": 100}, "18 steps were read, its metadata claims 100; the file is incomplete"),
        ({"minari_version": "9.9"}, "written by Minari 9.9.*pip install --upgrade minari"),
        ({"eval_env_spec": json.dumps({"id": "evil.module:Env-v0"}), "env_spec": None}, "refused"),
    ],
)
def test_bad_minari_is_refused(tmp_path, change, message):
    folder = a_minari_dataset()
    if "eval_env_spec" in change:
        spec = copy.deepcopy(gym.spec("Hopper-v5"))
        spec.entry_point = "os:system"
        change = {"eval_env_spec": spec.to_json().replace('"Hopper-v5"', '"evil.module:Env-v0"')}
    set_metadata(folder, **change)
    with pytest.raises(DataError, match=message):
        minari_source.build("own/plain-v0")
    assert nothing_is_left(tmp_path / "home")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_cut_minari_file_is_refused(tmp_path):
    folder = a_minari_dataset()
    file = folder / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not a whole Minari dataset.*dtbench data fetch own/plain-v0"):
        minari_source.build("own/plain-v0")
    assert nothing_is_left(tmp_path / "home")


def a_minari_game(name, shape, *, wrapped=None, jpeg=False, **kwargs):
    """Record random frames as if of Breakout; `wrapped` are the arguments of AtariPreprocessing."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    env = make_environment("ALE/Breakout-v5", kwargs=kwargs)
    env = env if wrapped is None else gym.wrappers.AtariPreprocessing(env, **wrapped)
    env = gym.wrappers.FrameStackObservation(env, 4) if len(shape) == 3 and wrapped is not None else env
    rng = np.random.default_rng(0)
    made = buffers(lambda n: rng.integers(256, size=(n, *shape), dtype=np.uint8), lambda n: rng.integers(4, size=n))
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    make_minari(name, made, space, gym.spaces.Discrete(4), env=env.spec, jpeg_encoding=jpeg)
    env.close()
    return made


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_minari_frames_recorded_as_evaluated_are_taken():
    made = a_minari_game("own/breakout-v0", (84, 84), wrapped={}, frameskip=1)
    store = minari_source.build("own/breakout-v0")
    assert (store.observation_space, store.action_space) == (Frames(4, 84, 84), Discrete(4))
    for index, buffer in enumerate(made):
        assert np.array_equal(store.episode(index).observations, buffer.observations)
    assert store.metadata["env_id"] == "ALE/Breakout-v5"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((210, 160, 3), {}, r"its frames \(210, 160, 3\) are each step's last one, not grey, 84 × 84 and the maximum"),
        ((4, 84, 84), {"wrapped": {}, "frameskip": 1}, "it was recorded through FrameStackObservation"),
        ((84, 84), {"wrapped": {}, "frameskip": 1, "jpeg": True}, "its frames are lossy JPEG"),
        ((84, 84), {"wrapped": {"frame_skip": 3}, "frameskip": 1}, "its frame_skip is 3, not 4"),
        ((96, 96), {"wrapped": {"screen_size": 96}, "frameskip": 1}, "its screen_size is .*96.*, not 84"),
        ((84, 84), {"wrapped": {"terminal_on_life_loss": True}, "frameskip": 1}, "its terminal_on_life_loss is True"),
    ],
)
def test_minari_frames_recorded_otherwise_are_refused(tmp_path, shape, options, message):
    """The first are those of Minari's own atari datasets."""
    a_minari_game("own/breakout-v0", shape, **options)
    with pytest.raises(DataError, match=message) as caught:
        minari_source.build("own/breakout-v0")
    assert "\n" not in str(caught.value)
    assert nothing_is_left(tmp_path / "home")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_images_are_warned_about(capsys):
    space, actions = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8), gym.spaces.Discrete(3)
    rng = np.random.default_rng(0)
    made = buffers(
        lambda n: rng.integers(256, size=(n, 32, 32, 3)).astype(np.uint8), lambda n: rng.integers(3, size=n), episodes=1
    )
    make_minari("own/images-v0", made, space, actions, env="CartPole-v1")
    assert minari_source.build("own/images-v0").observation_dim == 3072
    assert "lossy JPEG" in capsys.readouterr().err


# --- there and back


def random_store(path, lengths, seed, discrete):
    rng = np.random.default_rng(seed)
    width = 4 if discrete else OBSERVATIONS

    def episodes():
        for index, steps in enumerate(lengths):
            ends = np.arange(steps) == steps - 1
            observations = rng.normal(size=(steps + 1, width)).astype(np.float32)
            actions = rng.integers(2, size=steps) if discrete else rng.uniform(-1, 1, size=(steps, ACTIONS))
            kind = index % 3
            rewards = rng.normal(size=steps).astype(np.float32)
            yield Episode(observations, actions, rewards, ends & (kind != 1), ends & (kind != 0))

    one = np.ones(ACTIONS, dtype=np.float32)
    space = {"action_count": 2} if discrete else {"action_low": -one, "action_high": one}
    names = {"source": "local", "dataset_id": f"local/x{seed}", "env_id": "CartPole-v1" if discrete else "Hopper-v5"}
    return build_store(path, episodes(), **names, **space, overwrite=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99), discrete=st.booleans())
def test_round_trips_lose_nothing(tmp_path, lengths, seed, discrete):
    store = random_store(tmp_path / "store", lengths, seed, discrete)
    write_minari(store, "own/trip-v0", force=True)
    assert minari_source.build("own/trip-v0", force=True).fingerprint == store.fingerprint
    if not discrete:
        file = write_d4rl(store, tmp_path / "trip.hdf5", force=True)
        assert d4rl.import_file(file, ID, force=True).fingerprint == store.fingerprint


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_maze_goes_to_minari_and_back():
    store = local.build("pointmaze-umaze", steps=700)
    name = write_minari(store)
    back = minari_source.build(name)
    assert back.fingerprint == store.fingerprint
    assert back.metadata["env_id"] == store.metadata["env_id"]


# --- choosing a source, and the network


def test_auto_takes_what_is_on_disk_then_local(tmp_path):
    suite = load_suite("d4rl-short")
    task = suite.task("hopper-medium")
    assert resolve_sources([task], suite.sources) == {"hopper-medium": "local"}
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", columns())
    assert resolve_sources([task], suite.sources) == {"hopper-medium": "d4rl"}
    # One source for all where one has them all: a table of its own for a single task would help nobody.
    assert set(resolve_sources(suite.tasks, suite.sources).values()) == {"local"}


def test_a_task_without_data_says_the_ways_out():
    task = load_suite("d4rl-long").task("antmaze-umaze")
    assert resolve_sources([task], ("minari", "local")) == {}
    message = unavailable_message(task)
    for part in ("huggingface.co cannot be reached", "data fetch D4RL/antmaze/umaze-v1", "data import FILE --as"):
        assert part in message
    assert "--source local" not in message
    with pytest.raises(SourceError, match="cannot be reached"):
        resolve_sources([task], ("minari",), "minari")
    with pytest.raises(SourceError, match=r"--source local"):
        resolve_sources([load_suite("d4rl-long").task("pointmaze-large")], (), "minari")
    assert resolve_sources([task], ("minari",), "d4rl") == {}
    assert "no dataset from 'd4rl'; it has minari" in unavailable_message(task, "d4rl")
    with pytest.raises(UnknownNameError, match="did you mean 'minari'"):
        resolve_sources([task], ("minari",), "minary")


def test_every_public_dataset_of_a_suite_is_known():
    for name in suite_names():
        for task in load_suite(name).tasks:
            if "d4rl" in task.sources:
                entry = d4rl.DATASETS[task.sources["d4rl"]]
                assert entry.env_id == task.environment("d4rl"), task.id
                assert entry.horizon == task.max_episode_steps or task.id.startswith("pen"), task.id
            if "local" in task.sources:
                assert task.sources["local"] in local.known_datasets()


class Server(BaseHTTPRequestHandler):
    """Serves `content`; the first `cuts` answers break off in the middle. Understands Range."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def do_GET(self):
        content, asked = self.state["content"], self.headers.get("Range")
        begin = int(asked[6:-1]) if asked else 0
        self.state["asked"].append(begin)
        if self.state.get("status"):
            self.send_error(self.state["status"])
            return
        rest = content[begin:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = len(self.state["asked"]) <= self.state["cuts"]
        self.wfile.write(rest[: len(rest) // 2] if cut else rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    state = {"content": bytes(range(256)) * 40, "cuts": 0, "asked": []}
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, state))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    state["url"] = f"http://127.0.0.1:{running.server_port}/file"
    yield state
    running.shutdown()
    running.server_close()


def test_a_cut_download_goes_on_where_it_stopped(tmp_path, server):
    server["cuts"] = 2
    seen = []
    path = download(server["url"], tmp_path / "f", pause=0, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == server["content"]
    assert server["asked"] == [0, 5120, 7680]
    assert seen[-1] == (10240, 10240)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f", "home"]


def test_three_cuts_keep_what_arrived(tmp_path, server):
    server["cuts"] = 3
    with pytest.raises(
        SourceError, match=r"ended after 8,960 of 10,240 bytes, 3 tries\).*the same command continues there"
    ):
        download(server["url"], tmp_path / "f", pause=0)
    assert not (tmp_path / "f").exists()
    download(server["url"], tmp_path / "f", pause=0)
    assert (tmp_path / "f").read_bytes() == server["content"]


def test_a_refusal_is_not_tried_again_and_a_wrong_file_not_kept(tmp_path, server):
    server["status"] = 404
    with pytest.raises(SourceError, match="HTTP 404, 1 tries"):
        download(server["url"], tmp_path / "f", pause=0)
    server["status"] = None
    with pytest.raises(SourceError, match="SHA-256 differs"):
        download(server["url"], tmp_path / "f", pause=0, sha256="0" * 64)
    assert not (tmp_path / "f").exists()


def test_two_who_fetch_the_same_set_fetch_it_once(tmp_path, server):
    both = [threading.Thread(target=download, args=(server["url"], tmp_path / "f")) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert server["asked"] == [0]
    assert (tmp_path / "f").read_bytes() == server["content"]


def test_d4rl_is_fetched_imported_and_found_again(tmp_path, server, monkeypatch):
    made = write(tmp_path / "made.hdf5", columns())
    server["content"] = made.read_bytes()
    server["cuts"] = 1
    monkeypatch.setattr("dtbench.data.sources.d4rl._SERVER", server["url"])
    monkeypatch.setattr("dtbench.data.download._PAUSE", 0.0)
    assert d4rl.needs_network(ID)
    store = d4rl.build(ID)
    assert d4rl.locate(ID).fingerprint == store.fingerprint
    assert d4rl.raw_file(ID).read_bytes() == server["content"]
    urllib.request.urlcleanup()


# --- the command line


def test_import_info_verify_and_export(tmp_path):
    def invoke(*words):
        return CliRunner().invoke(cli.app, ["data", *map(str, words)])

    file = write(tmp_path / "f.hdf5", columns())
    assert "3 episodes, 50 steps" in invoke("import", file, "--as", ID).output
    assert "d4rl/hopper-medium-v2" in invoke("info", ID).output
    assert "the content matches the fingerprint" in invoke("verify", ID).output
    out = tmp_path / "again.hdf5"
    assert invoke("export", ID, "--format", "d4rl", "--out", out).exit_code == 0
    assert d4rl.import_file(out, ID, force=True).num_steps == 50
    assert "exists already" in str(invoke("export", ID, "--format", "d4rl", "--out", out).exception)
    assert "did you mean 'hopper-medium-v2'" in str(invoke("import", file, "--as", "hoper-medium-v2").exception)
    assert "There is no" in str(invoke("import", tmp_path / "none.hdf5", "--as", ID).exception)
    assert "cannot be reached" in str(invoke("fetch", "walker2d-medium-v2").exception)
    assert "data fetch D4RL/pen/human-v2" in str(invoke("info", "D4RL/pen/human-v2").exception)


def test_verify_finds_a_flipped_byte(tmp_path):
    store = d4rl.import_file(write(tmp_path / "f.hdf5", columns()), ID)
    file = store.path / "rewards.npy"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    done = CliRunner().invoke(cli.app, ["data", "verify", ID])
    assert isinstance(done.exception, DataError)
    assert "rewards.npy is not what was built" in str(done.exception)
