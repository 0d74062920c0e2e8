"""Every suite of public data from files in the public formats, through to a scored result in the real environment."""

from __future__ import annotations

import json

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from typer.testing import CliRunner

import dtbench
from dtbench.cli import app as cli
from dtbench.data.sources import d4rl
from dtbench.data.sources import minari as minari_source
from dtbench.environments.make import import_robotics, make_environment
from dtbench.errors import DataError
from dtbench.results.schema import Result
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import load_suite


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def make_d4rl_file(dataset: str, episodes: int = 12, steps: int = 9) -> None:
    """Roll the real environment out with random actions and write what D4RL's file would hold, where it would lie."""
    entry = d4rl.DATASETS[dataset]
    env = make_environment(entry.env_id)
    rng, columns = np.random.default_rng(0), {key: [] for key in ("observations", "actions", "rewards")}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for _ in range(steps):
            action = rng.uniform(-1, 1, size=entry.action_dim).astype(np.float32)
            columns["observations"].append(observation)
            columns["actions"].append(action)
            observation, reward, *_ = env.step(action)
            columns["rewards"].append(reward)
    env.close()
    file = d4rl.raw_file(dataset)
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as content:
        for key, values in columns.items():
            content.create_dataset(key, data=np.asarray(values, dtype=np.float32), compression="gzip")
        content.create_dataset("terminals", data=np.zeros(episodes * steps, dtype=bool))
        content.create_dataset("timeouts", data=np.arange(episodes * steps) % steps == steps - 1)


def stack(values: list):
    if isinstance(values[0], dict):
        return {key: stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)


def make_minari_dataset(dataset: str, env_id: str, evaluation: dict | None = None, **options) -> None:
    """Roll the environment out with random actions and let Minari itself write the dataset."""
    import_robotics()
    env = gym.make(env_id)
    rng, buffers = np.random.default_rng(0), []
    for episode in range(4):
        seen, actions, rewards = [env.reset(seed=episode)[0]], [], []
        for _ in range(7):
            actions.append(rng.uniform(-1, 1, size=env.action_space.shape).astype(env.action_space.dtype))
            observation, reward, *_ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(float(reward))
        ends = [step == 6 for step in range(7)]
        buffers.append(
            EpisodeBuffer(
                id=episode,
                observations=stack(seen),
                actions=np.stack(actions),
                rewards=rewards,
                terminations=[False] * 7,
                truncations=ends,
            )
        )
    if evaluation is not None:
        options["eval_env"] = gym.make(env_id, **evaluation)
    minari.create_dataset_from_buffers(dataset, buffers, env=env, **options)


def run(tmp_path, suite: str, task: str, source: str, model: str = "dt") -> Result:
    summary = dtbench.run(
        suite,
        [model],
        tasks=[task],
        source=source,
        preset="smoke",
        output=tmp_path / "results",
        overrides=["training.steps=2", "evaluation.episodes=1", "evaluation.all_targets=false"],
    )
    (result,) = summary.results
    assert result.status == "ok", result.error
    assert np.isfinite(result.scores.normalized).all()
    return result


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("d4rl-short", "walker2d-medium-replay"),
        ("kitchen", "kitchen-mixed"),
        ("adroit", "pen-human"),
        ("adroit", "relocate-expert"),
        ("lamo-sparse", "kitchen-partial"),
        ("lamo-sparse", "hopper-medium-delayed"),
    ],
)
def test_from_a_file_of_d4rl(tmp_path, suite, task):
    chosen = load_suite(suite).task(task)
    make_d4rl_file(chosen.sources["d4rl"])
    result = run(tmp_path, suite, task, "d4rl")
    assert result.task.dataset_id == f"d4rl/{chosen.sources['d4rl']}"
    assert result.task.env_id == d4rl.DATASETS[chosen.sources["d4rl"]].env_id
    assert result.task.kept_trajectories is None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("suite", "task", "env_id"),
    [
        ("d4rl-short", "hopper-medium", "Hopper-v5"),
        ("kitchen", "kitchen-complete", "FrankaKitchen-v1"),
        ("adroit", "door-cloned", "AdroitHandDoor-v1"),
        ("d4rl-long", "antmaze-umaze", "AntMaze_UMaze-v4"),
    ],
)
def test_from_a_dataset_of_minari(tmp_path, suite, task, env_id):
    dataset = load_suite(suite).task(task).sources["minari"]
    make_minari_dataset(dataset, env_id)
    result = run(tmp_path, suite, task, "minari")
    assert result.task.dataset_id == f"minari/{dataset}"
    assert result.task.env_id == env_id
    store = minari_source.locate(dataset)
    first, _ = make_environment(env_id).reset(seed=0)  # the models see what the dataset shows
    assert np.array_equal(store.observations[0], first.astype(store.observations.dtype))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_datasets_own_environment_and_scores_are_taken(tmp_path):
    """An evaluation that ends at the goal, on the dataset's own map, scored on the dataset's own scale."""
    task = load_suite("d4rl-long").task("pointmaze-umaze")
    evaluation = {"maze_map": [[1, 1, 1, 1], [1, "r", "g", 1], [1, 1, 1, 1]], "continuing_task": False}
    make_minari_dataset(
        task.sources["minari"], "PointMaze_UMaze-v3", evaluation, ref_min_score=0.25, ref_max_score=0.75
    )
    result = run(tmp_path, "d4rl-long", "pointmaze-umaze", "minari")
    assert result.task.reference == ReferenceScores(f"minari {task.sources['minari']}", random=0.25, expert=0.75)
    scores = result.scores
    assert scores.normalized == [(scores.returns[0] - 0.25) / 0.5]
    described = json.loads(next((tmp_path / "results").rglob("run.json")).read_text())
    assert described["protocol"]["env_kwargs"]["continuing_task"] is False
    folder = next((tmp_path / "results").rglob("run.json")).parent
    done = CliRunner().invoke(cli.app, ["evaluate", str(folder), "--episodes", "1", "--json"])
    assert done.exit_code == 0, done.output


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kitchen_pays_each_element_once_whatever_the_dataset_was_recorded_with(tmp_path):
    """Minari's were recorded with a reward in every step that an element is in place; scores are 0 to 4 elements."""
    task = load_suite("kitchen").task("kitchen-complete")
    recorded = {"remove_task_when_completed": False, "terminate_on_tasks_completed": False}
    make_minari_dataset(task.sources["minari"], "FrankaKitchen-v1", recorded)
    run(tmp_path, "kitchen", "kitchen-complete", "minari")
    described = json.loads(next((tmp_path / "results").rglob("run.json")).read_text(encoding="utf-8"))
    assert described["protocol"]["env_kwargs"] == dict.fromkeys(recorded, True)


def test_low_data_keeps_a_recorded_share(tmp_path):
    task = load_suite("lamo-lowdata").task("hopper-medium-ratio-0.1")
    make_d4rl_file(task.sources["d4rl"], episodes=30)
    kept = run(tmp_path, "lamo-lowdata", task.id, "d4rl").task.kept_trajectories
    assert len(kept) == 3
    assert kept == sorted(set(kept))
    again = run(tmp_path / "again", "lamo-lowdata", task.id, "d4rl", model="bc").task.kept_trajectories
    assert again == kept  # the same trajectories for every model


def test_reacher2d_runs_on_local_data(tmp_path):
    result = run(tmp_path, "lamo-lowdata", "reacher2d-medium-ratio-0.3", "local")
    assert len(result.task.kept_trajectories) == 12  # of the 40 episodes that preset smoke asks for
    assert result.model.config["training"]["context_length"] == 5
    assert result.scores.lengths == [100]


def test_data_of_another_environment_fail_the_run_with_a_reason(tmp_path):
    make_d4rl_file("walker2d-medium-v2")
    d4rl.raw_file("walker2d-medium-v2").rename(d4rl.raw_file("hopper-medium-v2"))
    with pytest.raises(DataError, match=r"observations has shape \(108, 17\), not \(steps, 11\)"):
        run(tmp_path, "d4rl-short", "hopper-medium", "d4rl")
    assert not (tmp_path / "results").exists()


def test_minari_asked_for_without_a_network_fails_at_once(tmp_path):
    words = ["run", "--suite", "d4rl-long", "--model", "dt", "--source", "minari", "-o", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words)
    message = str(done.exception)
    assert "huggingface.co cannot be reached" in message
    assert "dtbench data import FILE --as D4RL/pointmaze/umaze-v2" in message
    assert "--source local" in message
    done = CliRunner().invoke(cli.app, [*words, "--task", "pointmaze-dtma-u"])
    assert "Task pointmaze-dtma-u has no dataset from 'minari'; it has local." in str(done.exception)


def test_a_suite_leaves_out_what_cannot_be_had(tmp_path):
    words = ["run", "--suite", "d4rl-long", "--model", "dt,gpt2_dtma", "--preset", "quick", "--dry-run"]
    done = CliRunner().invoke(cli.app, [*words, "-o", str(tmp_path)])
    assert done.exit_code == 0
    assert "Left out because their data are not available: antmaze-umaze, antmaze-umaze-diverse" in done.stderr
    assert done.stdout.count("· local ·") == 18
    alone = CliRunner().invoke(cli.app, [*words, "-o", str(tmp_path), "--task", "antmaze-umaze"])
    assert "Task antmaze-umaze has no data" in str(alone.exception)
