"""Data of one's own: every form of the same arrays becomes the same store, and what does not fit is refused by name."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest

import dtbench as package
from dtbench.data.sources import own
from dtbench.errors import ConfigError, DataError
from tests.commands import dtbench, main, only_result

ENV = "InvertedPendulum-v5"  # 4 numbers seen, 1 in [−3, 3] done
LENGTHS = (4, 1, 7)


@pytest.fixture(autouse=True)
def folder(own_home):
    return own_home


def arrays(lengths=LENGTHS, seed=0, env_dim=4, action_dim=1) -> dict[str, np.ndarray]:
    """Return random arrays of whole episodes, every second one cut by a time limit."""
    rng, steps = np.random.default_rng(seed), sum(lengths)
    last = np.zeros(steps, dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    cut = last & np.isin(np.cumsum(last) - last, range(0, len(lengths), 2))
    return {
        "observations": rng.normal(size=(steps, env_dim)),
        "actions": rng.uniform(-3, 3, size=(steps, action_dim)),
        "rewards": rng.normal(size=steps),
        "terminations": last & ~cut,
        "truncations": cut,
        "next_observations": rng.normal(size=(steps, env_dim)),
    }


def split(columns) -> list[dict[str, np.ndarray]]:
    """Split the arrays into episodes, step by step."""
    episodes, current = [], {name: [] for name in columns}
    for step in range(len(columns["rewards"])):
        for name, values in columns.items():
            current[name].append(values[step])
        if columns["terminations"][step] or columns["truncations"][step]:
            episodes.append({name: np.array(values) for name, values in current.items()})
            current = {name: [] for name in columns}
    return episodes


def npz(path, columns):
    np.savez(path, **columns)
    return path


def hdf5(path, columns):
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def grouped(path, columns, *, rows: int = 1):
    """Write a group per episode, in an order that is not the alphabet's, with `rows` more observations than steps."""
    with h5py.File(path, "w") as file:
        for number, episode in enumerate(split(columns), start=8):
            group = file.create_group(f"episode_{number}")
            for name, values in episode.items():
                if name == "observations" and rows:
                    values = np.concatenate((values, episode["next_observations"][-1:]))
                if name != "next_observations" or not rows:
                    group[name] = values
    return path


def with_d4rl_names(columns):
    names = {"terminations": "terminals", "truncations": "timeouts"}
    return {names.get(name, name): values for name, values in columns.items()}


@pytest.mark.parametrize("block", [1, 5, 100])
def test_arrays_are_split_as_a_loop_over_steps_would(monkeypatch, block):
    monkeypatch.setattr("dtbench.data.sources.columns._BLOCK_STEPS", block)
    columns = arrays()
    store = package.make_dataset("mine", env_id=ENV, **columns)
    expected = split(columns)
    assert store.num_episodes == len(expected) == len(LENGTHS)
    for index, episode in enumerate(expected):
        found = store.episode(index)
        seen = np.concatenate((episode["observations"], episode["next_observations"][-1:]))
        np.testing.assert_array_equal(found.observations, seen.astype(np.float32))
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(found, name), episode[name].astype(getattr(found, name).dtype))
    assert store.metadata["env_id"] == ENV
    assert (store.action_space.low, store.action_space.high) == ((-3.0,), (3.0,))


FORMS = {
    "npz": lambda path, columns: npz(path / "f.npz", columns),
    "npz with D4RL's names": lambda path, columns: npz(path / "f.npz", with_d4rl_names(columns)),
    "HDF5": lambda path, columns: hdf5(path / "f.hdf5", columns),
    "HDF5 with D4RL's names": lambda path, columns: hdf5(path / "f.h5", with_d4rl_names(columns)),
    "a group per episode": lambda path, columns: grouped(path / "f.hdf5", columns),
    "groups of T observations": lambda path, columns: grouped(path / "f.hdf5", columns, rows=0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_arrays_is_the_same_dataset(tmp_path, form):
    columns = arrays()
    expected = package.make_dataset("arrays", env_id=ENV, **columns).fingerprint
    assert own.import_file(FORMS[form](tmp_path, columns), "file", ENV).fingerprint == expected


def test_the_last_observations_may_be_given_alone_or_not_at_all():
    columns = arrays()
    following = columns.pop("next_observations")
    ends = np.cumsum(LENGTHS) - 1
    finals = package.make_dataset("finals", env_id=ENV, final_observations=following[ends], **columns)
    whole = package.make_dataset("whole", env_id=ENV, next_observations=following, **columns)
    assert finals.fingerprint == whole.fingerprint
    without = package.make_dataset("without", env_id=ENV, **columns)
    np.testing.assert_array_equal(without.final_observations, columns["observations"][ends].astype(np.float32))


def test_discrete_actions_and_frames_follow_the_environment():
    columns = arrays()
    columns["actions"] = np.arange(sum(LENGTHS)) % 2
    assert package.make_dataset("cart", env_id="CartPole-v1", **columns).action_space.size == 2
    columns["actions"] = columns["actions"].astype(float)
    with pytest.raises(DataError, match="cart2: actions hold float64; discrete actions are whole numbers"):
        package.make_dataset("cart2", env_id="CartPole-v1", **columns)


MODULE = """
import gymnasium as gym
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

gym.register("Mine-v0", entry_point=InvertedPendulumEnv, max_episode_steps=20)
"""


def test_an_environment_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_environments.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = package.make_dataset("mine", env_id="my_environments:Mine-v0", **arrays())
    assert store.metadata["env_id"] == "my_environments:Mine-v0"
    assert store.action_space.low == (-3.0,)


# --- refusals


def damaged(how: str) -> dict[str, np.ndarray]:
    columns = arrays()
    if how == "nan":
        columns["observations"][6, 2] = np.nan
    elif how == "infinite reward":
        columns["rewards"][4] = np.inf
    elif how == "out of bounds":
        columns["actions"][2] = 3.5
    elif how == "no end":
        columns["truncations"][-1] = columns["terminations"][-1] = False
    elif how == "ragged":
        columns["actions"] = columns["actions"][:-1]
    elif how == "another width":
        columns["observations"] = columns["observations"][:, :3]
    elif how == "flat actions":
        columns["actions"] = columns["actions"][:, 0]
    elif how == "no flags":
        columns["terminations"] = columns["terminations"] * 2
    elif how == "finals":
        columns["final_observations"] = columns.pop("next_observations")[:2]
    elif how == "objects":
        columns["rewards"] = np.array([None] * 12)
    elif how == "empty":
        columns = {name: values[:0] for name, values in columns.items()}
    return columns


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"own/mine, episode 2: observations has nan at step 1"),
        ("infinite reward", r"own/mine, episode 1: rewards has inf at step 0"),
        ("out of bounds", r"own/mine, episode 0: actions has \[3.5\] at step 2, outside \[-3, 3\]"),
        ("no end", r"own/mine, episode 2: terminations and truncations do not end it; mark its last step"),
        ("ragged", r"actions have 11 steps, rewards 12"),
        ("another width", r"observations have the shape \(12, 3\), not \(steps, 4\): InvertedPendulum-v5 shows"),
        ("flat actions", r"actions have the shape \(12,\), not \(steps, 1\): InvertedPendulum-v5 takes"),
        ("no flags", r"terminations hold 2; they are 0 or 1"),
        ("finals", r"final_observations have 2 rows for 3 episodes"),
        ("objects", r"rewards hold object; give arrays of plain numbers"),
        ("empty", r"mine has no steps"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(how, message, folder):
    with pytest.raises(DataError, match=message):
        package.make_dataset("mine", env_id=ENV, **damaged(how))
    assert own.datasets() == []
    assert list(folder.rglob("*.npy")) == []


@pytest.mark.parametrize("missing", ["observations", "actions", "rewards", "terminations"])
@pytest.mark.parametrize("form", ["npz", "a group per episode"])
def test_a_missing_array_is_named(tmp_path, form, missing):
    columns = arrays()
    file = FORMS[form](tmp_path, columns)
    if form == "npz":
        del columns[missing]
        npz(file, columns)
    else:
        with h5py.File(file, "a") as content:
            del content["episode_9"][missing]
    with pytest.raises(DataError, match=f"{'' if form == 'npz' else 'episode_9 '}has no '{missing}'"):
        own.import_file(file, "mine", ENV)
    assert own.datasets() == []


@pytest.mark.parametrize("kind", ["npz", "HDF5"])
def test_a_cut_file_is_refused(tmp_path, kind):
    file = FORMS[kind](tmp_path, arrays((400, 300)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match="is not a whole"):
        own.import_file(file, "mine", ENV)
    assert own.datasets() == []


def test_a_file_that_wants_to_run_code_is_refused(tmp_path):
    content = io.BytesIO()
    np.savez(content, **{**arrays(), "rewards": np.array([print] * 12, dtype=object)})
    (tmp_path / "f.npz").write_bytes(content.getvalue())
    with pytest.raises(DataError, match=r"not a whole \.npz file of plain arrays"):
        own.import_file(tmp_path / "f.npz", "mine", ENV)


@pytest.mark.parametrize(
    ("name", "env_id", "message"),
    [
        ("mine", "InvertedPendulm-v5", "Unknown environment 'InvertedPendulm-v5': did you mean 'InvertedPendulum-v5'"),
        ("mine", "nowhere:Mine-v0", "needs a package that is not installed"),
        ("hopper-medium-v2", ENV, "hopper-medium-v2 is the name of a public dataset"),
        ("hopper-medium", ENV, "is the name of a dataset of the source `local`"),
        ("../mine", ENV, "the name of a dataset must be made of letters"),
    ],
)
def test_names_that_cannot_be_are_refused(name, env_id, message):
    with pytest.raises(ConfigError, match=message):
        package.make_dataset(name, env_id=env_id, **arrays())


def test_the_same_arrays_are_stored_once_and_others_only_when_asked():
    first = package.make_dataset("mine", env_id=ENV, **arrays()).fingerprint
    assert package.make_dataset("mine", env_id=ENV, **arrays()).fingerprint == first
    with pytest.raises(DataError, match="There is a dataset mine already, of other content"):
        package.make_dataset("mine", env_id=ENV, **arrays(seed=1))
    with pytest.raises(DataError, match="for another environment"):
        package.make_dataset("mine", env_id=ENV, env_kwargs={"reset_noise_scale": 0.5}, **arrays())
    assert own.build("mine").fingerprint == first
    assert package.make_dataset("mine", env_id=ENV, overwrite=True, **arrays(seed=1)).fingerprint != first


# --- the command line


def test_commands_know_datasets_of_ones_own(tmp_path):
    assert "There is no dataset in" in dtbench("data", "list")
    file = npz(tmp_path / "f.npz", {**arrays(), "infos": np.zeros(3)})
    words = ("data", "import", file, "--as", "mine", "--env", ENV)
    printed = dtbench(*words)
    assert printed.startswith("mine: 3 episodes, 12 steps")
    assert "not used: infos" in printed
    assert "already imported, the same content" in dtbench(*words)
    assert f"environment: {ENV}" in dtbench("data", "info", "mine")
    assert "matches the fingerprint" in dtbench("data", "verify", "mine")
    assert "own/mine" in dtbench("data", "list")
    dtbench("data", "export", "mine", "--format", "d4rl", "--out", tmp_path / "out.hdf5")
    again = own.import_file(tmp_path / "out.hdf5", "again", ENV)
    assert again.fingerprint == own.build("mine").fingerprint
    scale = ("--env-kwargs", "{reset_noise_scale: 0.5}")
    assert main(*words, *scale) == 2
    dtbench(*words, *scale, "--force")
    assert own.build("mine").metadata["env_kwargs"] == {"reset_noise_scale": 0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("f.npz --as mine", "For data of your own, add --env ENV"),
        ("f.npz --as mine --env-kwargs {}", "name the environment, too"),
        ("f.npz --as mine --env InvertedPendulum-v5 --env-kwargs [", "is not readable YAML"),
        ("f.npz --as mine --env InvertedPendulum-v5 --env-kwargs {x:1}", "does not take the arguments"),
        ("f.txt --as mine --env InvertedPendulum-v5", "neither an HDF5 file (.hdf5, .h5, .hdf) nor a .npz file"),
        (". --as mine --env InvertedPendulum-v5", "data of your own are one HDF5 or .npz file"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "f.npz", arrays())
    (tmp_path / "f.txt").touch()
    given = [word.replace("{x:1}", "{x: 1}") for word in words.split()]
    assert main("data", "import", *given) == 2
    printed = capfd.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


SUITE = """
name: mine
version: 1
description: a pendulum of my own
sources: [own]
tasks:
  - id: pendulum
    env_id: InvertedPendulum-v5
    sources: {own: mine}
    reference: {table: nothing and all, random: 0, expert: 1000}
    return_scale: 100
    score_target: 100
    max_episode_steps: 30
"""


def test_a_suite_of_ones_own_runs_on_data_of_ones_own(tmp_path, capfd):
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    words = ("run", "--suite", suite, "--model", "bc", "--preset", "smoke", "--output", tmp_path / "results")
    assert main(*words) == 2
    assert "own/mine is not on this machine. Import it: `dtbench data import FILE --as mine" in capfd.readouterr().err
    store = package.make_dataset("mine", env_id=ENV, **arrays((30,) * 40))
    assert main(*words) == 0
    result = only_result(tmp_path / "results")
    assert result.status == "ok"
    assert (result.task.source, result.task.dataset_id) == ("own", "own/mine")
    assert result.task.fingerprint == store.fingerprint


def test_data_of_another_environment_are_refused_before_the_first_step(tmp_path, capfd):
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE.replace("InvertedPendulum-v5", "Hopper-v5"), encoding="utf-8")
    package.make_dataset("mine", env_id=ENV, **arrays((30,) * 4))
    words = ("--suite", suite, "--model", "bc", "--preset", "smoke", "--output", tmp_path / "results")
    assert main("run", *words) == 2
    assert "Hopper-v5 shows vectors of 11 numbers, and the data of pendulum have" in capfd.readouterr().err
