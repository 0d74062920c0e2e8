"""Every model trained and evaluated on Atari, from logs in the format of the DQN replay data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from dtbench.data.sources import is_reachable
from dtbench.environments.make import make_environment
from dtbench.registry import MODELS
from tests.commands import dtbench, main

ROWS = 600
SMOKE = ("--preset", "smoke", "--output")


def write_logs(folder: Path) -> None:
    """Play Breakout at random and log it as the tenth buffer of a DQN replay: three rows of zeros before each game."""
    env = make_environment("dtbench/Atari-Breakout-v0", kwargs={"stack": 0})
    rng = np.random.default_rng(0)
    rows: list[tuple[np.ndarray, int, float, int]] = []
    black = np.zeros((84, 84), np.uint8)
    while len(rows) < ROWS:
        rows += [(black, 0, 0.0, 0)] * 3
        frame, _ = env.reset(seed=len(rows))
        ended = False
        while not ended:
            action = int(rng.integers(4))
            following, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            rows.append((np.asarray(frame).reshape(84, 84), action, float(reward), int(ended)))
            frame = following
    env.close()
    frames, actions, rewards, terminals = (np.array(column) for column in zip(*rows, strict=True))
    columns = {
        "$store$_observation": frames,
        "$store$_action": actions.astype(np.int32),
        "$store$_reward": rewards.astype(np.float32),
        "$store$_terminal": terminals.astype(np.uint8),
        "add_count": np.array(len(rows)),
        "invalid_range": np.arange(5),
    }
    folder.mkdir(parents=True)
    for name, values in columns.items():
        with gzip.open(folder / f"{name}_ckpt.10.gz", "wb", compresslevel=1) as file:
            np.save(file, values, allow_pickle=False)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Return folders of logs and of built data, which the tests of this file share."""
    folder = tmp_path_factory.mktemp("atari")
    write_logs(folder / "logs" / "Breakout" / "1" / "replay_logs")
    return folder


@pytest.fixture(autouse=True)
def folders(logged, monkeypatch):
    monkeypatch.setenv("DQN_REPLAY_DIR", str(logged / "logs"))
    monkeypatch.setenv("DTBENCH_HOME", str(logged / "home"))
    is_reachable.cache_clear()


def run(output: Path, *words: object) -> list[dict]:
    where = ("--suite", "atari-lamo", "--task", "breakout-medium-ratio-1", "--preset", "smoke", "--output", output)
    dtbench("run", *where, *words)
    files = sorted(output.rglob("seed-*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("model", [name for name in MODELS if name != "tt"])
def test_every_model_of_frames_runs(model, tmp_path):
    (result,) = run(tmp_path, "--model", model)
    assert result["status"] == "ok"
    assert result["task"]["env_id"] == "dtbench/Atari-Breakout-v0"
    assert result["task"]["reference"]["table"] == "lamo"
    assert len(result["scores"]["returns"]) == 2
    assert max(result["scores"]["lengths"]) <= 40  # the preset's cut
    assert all(value == int(value) for value in result["scores"]["returns"])  # raw rewards
    others = {"cql": "greedy, 0.001 of them at random"}
    others |= dict.fromkeys(("lamo", "edt", "reinformer", "q_transformer"), "greedy")
    assert result["evaluation"]["actions"] == others.get(model, "sampled")
    assert result["evaluation"]["max_episode_steps"] == 40
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert f"{others.get(model, 'sampled')} in `{model}`" in page
    assert "cut after 40 steps" in page


def test_a_run_is_evaluated_again_with_what_it_recorded(tmp_path):
    (result,) = run(tmp_path, "--model", "dt", "--set", "evaluation.actions=greedy")
    (folder,) = (file.parent for file in tmp_path.rglob("final.ckpt"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["spaces"]["observation"] == {"stack": 4, "height": 84, "width": 84}
    assert record["spaces"]["action"] == {"count": 4}
    assert record["protocol"]["env_kwargs"]["noop_max"] == 29
    assert record["protocol"]["actions"] == "greedy"
    again = json.loads(dtbench("evaluate", folder, "--episodes", 2, "--json"))
    assert again[0]["returns"] == result["scores"]["returns"]


@pytest.mark.parametrize("task", ["breakout-medium", "seaquest-mid-training-replay"])
def test_games_of_the_shipped_policies(task, tmp_path):
    """The suite's own protocol and targets, on frames that are recorded here."""
    dtbench("run", "--suite", "atari", "--task", task, "--source", "local", "--model", "bc", *SMOKE, tmp_path)
    (file,) = tmp_path.rglob("seed-*.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert (result["status"], result["task"]["source"]) == ("ok", "local")
    assert result["task"]["dataset_id"] == f"local/{task}-r1-2000-s0"
    assert result["task"]["score_target"] == {"breakout": 90, "seaquest": 1150}[task.split("-")[0]]


def test_drawn_actions_of_a_continuous_task_are_refused(tmp_path, capsys):
    words = ("run", "--suite", "d4rl-short", "--task", "hopper-medium", "--model", "bc", "--preset", "smoke")
    assert main(*words, "--source", "local", "--output", tmp_path, "--set", "evaluation.actions=sampled") == 2
    assert "evaluation.actions=sampled needs discrete actions, and hopper-medium has" in capsys.readouterr().err


def test_another_games_actions_are_refused(tmp_path, capsys):
    """The data have four actions; Pong takes six."""
    suite = (Path(__file__).parents[2] / "benchmarks" / "suites" / "atari-lamo.yaml").read_text(encoding="utf-8")
    own = tmp_path / "mine.yaml"
    own.write_text(suite.replace("Atari-Breakout-v0", "Atari-Pong-v0").replace("name: atari-lamo", "name: mine"))
    words = ("--suite", own, "--task", "breakout-medium-ratio-1", "--preset", "smoke", "--output", tmp_path / "results")
    assert main("run", *words, "--model", "bc") == 2
    said = capsys.readouterr().err
    assert "takes one of 6 actions, and the data of breakout-medium-ratio-1 have one of 4 actions" in said
