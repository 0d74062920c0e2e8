"""The Atari suites: one protocol, the papers' targets, and reference scores whose table has a name."""

from __future__ import annotations

import pytest

from dtbench.data.behaviours.make.choose_atari import LEAST_HUMAN, WEAK
from dtbench.data.behaviours.policy import datasets, environment
from dtbench.environments.make import make_environment
from dtbench.errors import UnknownNameError
from dtbench.suites.atari import human_reference
from dtbench.suites.suites import load_suite

SUITES = ("atari", "atari-lamo")
GAMES = {"breakout", "pong", "qbert", "seaquest"}
#: DT's `run_dt_atari.py`.
DT_TARGETS = {"breakout": 90, "pong": 20, "qbert": 14000, "seaquest": 1150}
#: (random, human) of dqn_zoo, which dopamine and the multi-game Decision Transformer have, too.
HUMAN = {"breakout": (1.7, 30.5), "pong": (-20.7, 14.6), "qbert": (163.9, 13455.0), "seaquest": (68.4, 42054.7)}


def game_of(task) -> str:
    return task.id.split("-")[0]


@pytest.mark.parametrize("name", SUITES)
def test_one_protocol_for_all_tasks(name):
    suite = load_suite(name)
    assert (suite.id, suite.domain) == (f"{name}@1", "atari")
    of_paper = {"atari": {"near_end": "shift"}, "atari-lamo": {"return_includes_reward": False}}
    assert suite.config == {"data": {"normalize_states": False, **of_paper[name]}}
    for task in suite.tasks:
        assert task.env_kwargs == {"repeat_action_probability": 0.0, "noop_max": 29, "frame_skip": 4, "stack": 4}
        assert task.return_scale == 1.0
        assert task.env_id == f"dtbench/Atari-{game_of(task).title()}-v0"
        assert task.max_episode_steps == {"atari": 27_000, "atari-lamo": 4_096}[name]
        assert set(task.sources) <= set(suite.sources)
        projects = name == "atari" and game_of(task) in ("qbert", "seaquest")  # DC's `--conv_proj`
        assert task.models == ({"dc": {"model": {"projection": True}}} if projects else {})


@pytest.mark.parametrize("name", SUITES)
def test_the_environments_take_the_protocol(name):
    pytest.importorskip("ale_py", reason="ale-py is not installed (extra atari)")
    for task in load_suite(name).tasks:
        env = make_environment(task.env_id, task.max_episode_steps, kwargs=task.env_kwargs)
        assert env.observation_space.shape == (4, 84, 84)
        assert env.spec.max_episode_steps == task.max_episode_steps
        env.close()


def test_one_percent_tasks_have_the_papers_targets_and_dqn_zoos_references():
    tasks = {game_of(task): task for task in load_suite("atari").tasks if task.id.endswith("-dqn-1pct")}
    assert set(tasks) == GAMES
    for game, task in tasks.items():
        assert task.score_target == DT_TARGETS[game]
        assert task.sources["dqn_replay"] == f"{game}-dqn-1pct"
        assert (task.reference.table, task.reference.random, task.reference.expert) == ("dqn_zoo", *HUMAN[game])


def test_local_tasks_are_the_shipped_levels_with_the_papers_targets():
    tasks = [task for task in load_suite("atari").tasks if "local" in task.sources]
    assert {task.id for task in tasks} == {f"{game}-{level}" for game in GAMES for level in datasets(game)}
    for task in tasks:
        assert task.sources == {"local": task.id}
        assert task.score_target == DT_TARGETS[game_of(task)]
        assert environment(game_of(task))["env_id"] == task.env_id


def test_a_level_that_plays_worse_than_a_tenth_of_a_human_is_called_by_what_it_is():
    for game in GAMES:
        fresh = [shot["fresh"] for shot in environment(game)["snapshots"] if "fresh" in shot]
        human = {shot["step"]: shot["human_mean"] for shot in fresh}
        for level, steps in datasets(game).items():
            assert (human[steps[-1]] < LEAST_HUMAN) == (level in WEAK.values())


def test_lamos_tasks():
    suite = load_suite("atari-lamo")
    assert [task.id for task in suite.tasks] == [
        f"{game}-medium-ratio-{ratio}" for game in ("breakout", "qbert", "pong") for ratio in ("1", "0.1")
    ]
    for task in suite.tasks:
        assert task.trajectory_ratio == float(task.id.rpartition("-")[2])
        assert task.sources == {"dqn_replay": f"{game_of(task)}-medium-v0"}
        targets = {"breakout": {90, 120}, "qbert": {14000}, "pong": {10, 20}}[game_of(task)]  # LaMo's
        assert {task.score_target, *task.targets} == targets


@pytest.mark.parametrize("name", SUITES)
def test_a_suites_numbers_are_those_of_the_table_that_it_names(name):
    for task in load_suite(name).tasks:
        assert task.reference == human_reference(game_of(task), task.reference.table)


def test_tables_of_other_names_have_other_numbers():
    ours, lamos = human_reference("breakout"), human_reference("breakout", "lamo")
    assert (ours.normalize([30.5]).item(), lamos.normalize([31.8]).item()) == (1.0, 1.0)
    assert lamos.normalize([30.5]).item() < 1
    with pytest.raises(UnknownNameError, match="'breakot'"):
        human_reference("breakot")
    with pytest.raises(UnknownNameError, match="'dopamine'"):
        human_reference("breakout", "dopamine")
