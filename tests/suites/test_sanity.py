"""The suite `sanity`: its environments, its data, what it expects, and that the models do it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.data.behaviours.scripted import SCRIPTED
from dtbench.data.sources import local
from dtbench.environments.make import make_environment
from dtbench.environments.toys import BanditChain, KeyToDoor, PointToGoal, Stitch
from dtbench.errors import ConfigError
from dtbench.registry import MODELS
from dtbench.results.expectations import check
from dtbench.results.schema import EpisodeScores, Scores
from dtbench.runs import execute
from dtbench.suites.suites import load_suite
from tests.results import samples

SUITE = load_suite("sanity")


def play(env, choose):
    """Return an episode's return; `choose` maps an observation to an action."""
    observation, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(np.asarray(choose(observation), dtype=np.float32))
        total, over = total + reward, terminated or truncated
    return total


@pytest.mark.parametrize("task", SUITE.tasks, ids=lambda task: task.id)
def test_environments_keep_gymnasiums_rules(task):
    check_env(gym.make(task.env_id).unwrapped, skip_render_check=True)


def test_every_arm_pays_its_worth_and_the_mean_of_all_pays_least():
    returns = [play(BanditChain(), lambda _, arm=arm: [BanditChain.centre(arm)]) for arm in range(5)]
    assert returns == pytest.approx(list(BanditChain.WORTH))
    assert play(BanditChain(), lambda _: [0.0]) == pytest.approx(min(BanditChain.WORTH))


def test_the_door_pays_only_with_the_key():
    def choose(key, door):
        return lambda seen: [seen[3] * (key if seen[0] else door)]

    assert [play(KeyToDoor(), choose(*way)) for way in ((1, 1), (1, -1), (-1, 1), (0.5, 1))] == [1, 0, 0, 1]
    assert play(KeyToDoor(), choose(0.4, 1)) == 0  # too slow


def test_the_point_is_paid_for_being_near_the_goal():
    env = gym.make(SUITE.task("point-to-goal").env_id)
    at_goal = play(env, lambda seen: np.clip((PointToGoal.GOAL - seen) / PointToGoal.STRIDE, -1, 1))
    elsewhere = play(env, lambda seen: np.clip((-PointToGoal.GOAL - seen) / PointToGoal.STRIDE, -1, 1))
    assert elsewhere < 5 < 14 < at_goal <= PointToGoal.HORIZON


def walk(place, entrance, door):
    """Return the rewards of an episode of `Stitch` from the entrance at a place."""
    env = Stitch()
    env.reset(seed=0)
    env.entrance = place
    rewards, over = [], False
    while not over:
        at = [entrance] if env.walked < 2 else [door] if env.walked == 6 else [0.9]
        _, reward, over, *_ = env.step(np.array(at, dtype=np.float32))
        rewards.append(reward)
    return rewards


@pytest.mark.parametrize("east", [-1.0, 1.0])
def test_what_the_hall_pays_from_each_entrance(east):
    west = 0.0
    assert walk(west, 0.2, 0.6) == pytest.approx([0.35, 0.35, 0, 0, 0, 0, 4])
    assert walk(west, 0.5, 0.6)[:2] == [0.5, 0.5]  # the most that the west pays
    assert walk(west, 0.51, 0.6) == walk(east, 0.5, 0.6) == [0]  # the pit
    assert walk(east, 0.8, 0.6) == [0, 0, 0, 0, 0, 0, 4]
    assert walk(east, 0.8, 0.29) == [0] * 7  # the mean of both doors is neither


def test_nobody_goes_from_the_west_through_the_right_hand_door(tmp_path, monkeypatch):
    """And everybody does from the east; in the last five steps, which a window shows, nothing tells them apart."""
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    store = local.build("stitch", steps=10_000)
    episodes = [episode for episode in map(store.episode, range(store.num_episodes)) if len(episode.actions) == 7]
    assert len(episodes) > 0.99 * store.num_episodes  # the last of a shard may be cut, and nobody falls
    west = np.array([episode.observations[0, 0] == 0 for episode in episodes])
    prize = np.array([episode.rewards[-1] for episode in episodes])
    assert np.array_equal(prize, np.where(west, 0, Stitch.PRIZE))
    assert 0.45 < west.mean() < 0.55
    entrance = np.array([episode.actions[:2] for episode in episodes])
    assert entrance[west].max() < Stitch.LIMIT < entrance[~west].min()
    returns = np.array([episode.rewards.sum() for episode in episodes])
    assert np.corrcoef(entrance[west].mean(axis=(1, 2)), returns[west])[0, 1] > 0.99
    late = np.array([episode.observations[2:7] for episode in episodes])
    assert len(np.unique(late, axis=0)) == 1


@pytest.mark.parametrize("dataset", SCRIPTED)
def test_scripted_data_are_what_the_environment_answers(tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    store = local.build(dataset, steps=600)
    episode = store.episode(0)
    env = make_environment(store.metadata["env_id"])
    entropy = local.plan_shards(dataset, local.whole_size(dataset, 600), 0)[0].entropy
    observation, _ = env.reset(seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    for step, action in enumerate(episode.actions):
        assert np.array_equal(observation.astype(np.float32), episode.observations[step])
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (np.float32(reward), terminated, truncated) == (
            episode.rewards[step],
            episode.terminations[step],
            episode.truncations[step],
        )


def test_data_are_a_mixture(tmp_path, monkeypatch):
    """The expected orders rest on it: all arms are pulled, a sixth gets through the door, most miss the goal."""
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    returns = {task.id: local.build(task.id, steps=10_000).episode_returns for task in SUITE.tasks}
    _, pulls = np.unique(returns["bandit-chain"].round(3), return_counts=True)
    assert len(pulls) == 5
    assert pulls.min() > 0.15 * pulls.sum()
    assert 0.1 < returns["key-to-door"].mean() < 0.25
    assert 0.2 < (returns["point-to-goal"] > 10).mean() < 0.45


def result(model, task, returns):
    """A finished run's result on a task; target → returns, the first target is the score target."""
    per_target = {str(target): EpisodeScores(values, [1] * len(values), values) for target, values in returns.items()}
    own = next(iter(per_target.values()))
    content = samples.result(model)
    return replace(
        content,
        task=replace(content.task, id=task),
        scores=Scores(own.returns, own.lengths, own.normalized, per_target),
    )


def test_expectations_are_held_against_results():
    good = {5: [5.0], 1: [1.0], 2: [2.0], 3: [3.0], 4: [4.0]}
    deaf = {target: [3.0] for target in good}
    verdicts = check(SUITE, [result("dt", "bandit-chain", good), result("bc", "bandit-chain", {5: [1.0]})])
    assert [verdict.holds for verdict in verdicts] == [True, True]
    assert "dt 1.00" in verdicts[0].figures
    assert check(SUITE, [result("dt", "bandit-chain", deaf)])[0].holds is False
    swapped = {5: [5.0], 1: [2.0], 2: [1.0], 3: [4.0], 4: [3.0]}
    assert check(SUITE, [result("dt", "bandit-chain", swapped)])[0].holds is False
    beaten = [result("dt", "bandit-chain", good), result("bc", "bandit-chain", {5: [6.0]})]
    assert check(SUITE, beaten)[1].holds is False
    assert [verdict.holds for verdict in check(SUITE, [result("dt", "bandit-chain", good)])] == [True, None]
    assert check(SUITE, []) == []


def test_one_target_alone_says_nothing_about_tracking():
    """`--set evaluation.all_targets=false` evaluates at the score target only."""
    results = [result("dt", "bandit-chain", {5: [value]}) for value in (4.0, 5.0)]
    assert check(SUITE, results)[0].holds is None


#: Models of which a task's file says that nothing is expected.
OPEN = {"stitch": {"gpt2_dt", "lamo", "gpt2_dtma", "dc", "ds4", "dmamba", "dlstm", "tt", "bc10"}}


def named(task):
    """Return the models of which something is expected on a task."""
    words = {name for e in SUITE.expected if e.task == task for name in (*e.better, *e.worse, *e.tracks_target)}
    return [name for name in MODELS if name in words]


def test_every_model_is_expected_something_of_on_every_task():
    for task in SUITE.tasks:
        assert set(named(task.id)) == set(MODELS) - OPEN.get(task.id, set()), task.id
    assert set(SUITE.expected_models) == set(MODELS)
    assert all(expectation.reason for expectation in SUITE.expected)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("{task: nowhere, reason: x, better: [dt], worse: [bc]}", ConfigError, "Unknown task 'nowhere'"),
        ("{task: bandit-chain, reason: x, better: [dt]}", ConfigError, "give better and worse, or tracks_target"),
        ("{task: bandit-chain, better: [dt], worse: [bc]}", ConfigError, "reason"),
        ("{task: bandit-chain, reason: x, best: [dt]}", ConfigError, "unknown field 'best'"),
    ],
)
def test_wrong_expectations_are_named(tmp_path, wrong, error, message):
    from pathlib import Path

    text = Path(SUITE.file).read_text()
    file = tmp_path / "own.yaml"
    file.write_text(text[: text.index("expected:")] + f"expected:\n  - {wrong}\n")
    with pytest.raises(error, match=message):
        load_suite(str(file))


def test_an_order_that_does_not_hold_is_told_and_exits_with_1(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    words = ["run", "--suite", "sanity", "--preset", "smoke", "--model", "dt", "--task", "bandit-chain"]
    words += ["--set", "training.steps=1", "--set", "data.steps=200", "--output", str(tmp_path / "results")]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 1, done.output
    assert "bandit-chain: NOT as expected: rank correlation of target and return: dt" in done.output
    assert "asking for one must pull its arm" in done.output
    assert "key-to-door" not in done.output  # nothing was run there


@pytest.mark.slow
@pytest.mark.parametrize("task", [task.id for task in SUITE.tasks])
def test_models_do_what_is_expected(task, tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    # In this process: starting one for each run would cost CI minutes.
    monkeypatch.setattr(execute, "_WORTH_A_PROCESS", 10_000)
    summary = execute.run("sanity", named(task), preset="smoke", tasks=[task], jobs=1, output=tmp_path / "results")
    assert summary.failed == 0
    verdicts = check(SUITE, summary.results)
    assert len(verdicts) == sum(expectation.task == task for expectation in SUITE.expected)
    assert all(verdict.holds for verdict in verdicts), [verdict.figures for verdict in verdicts if not verdict.holds]
