"""How the Atari behaviours were made: training on lives, going on after a stop, and the choice of levels."""

from __future__ import annotations

import csv
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from safetensors.numpy import load_file

from dtbench.data.behaviours.make import choose_atari, train_atari
from dtbench.data.behaviours.make.choose import card
from dtbench.data.behaviours.make.train_atari import Lives, PpoSettings, Training
from dtbench.data.behaviours.policy import manifest
from dtbench.data.behaviours.ram import RamActor, RamPlayer, features, read_weights
from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError

pytest.importorskip("ale_py", reason="ale-py is not installed (extra atari)")
pytest.importorskip("cv2", reason="OpenCV is not installed (extra atari)")

SMALL = {"environments": 2, "steps_per_update": 16, "batch_size": 8, "width": 8, "snapshot_every": 64}


@pytest.fixture
def train(tmp_path):
    """Return what makes a small training; it needs stable-baselines3."""
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed (extra train-behaviours)")
    return lambda game="pong", folder="run", **more: Training(PpoSettings(game, **{**SMALL, **more}), tmp_path / folder)


def rows(training) -> list[dict[str, str]]:
    with (training.output / "progress.csv").open(encoding="utf-8", newline="") as content:
        return list(csv.DictReader(content))


def test_a_life_is_an_episode_and_the_game_goes_on():
    """A player who never moves loses all five lives of Breakout; the raw return is that of the whole game."""
    env = Lives("breakout")
    seen, _ = env.reset(seed=0)
    assert seen.shape == (256,)
    assert env.length == 1  # FIRE was pressed
    lives, total, info = 0, 0.0, {}
    for _ in range(20_000):
        seen, reward, terminated, truncated, info = env.step(3)  # LEFT, where a few balls are returned
        assert reward in (-1.0, 0.0, 1.0)
        total += reward
        assert not truncated
        if terminated:
            lives += 1
            if "game" in info:
                break
            env.reset()
    assert lives == 5
    raw, length = info["game"]
    assert raw >= total  # bricks further up are worth more than 1
    assert length > 100
    env.reset()
    assert (env.raw, env.length, env.lives) == (0.0, 1, 5)


def test_rewards_are_signs():
    env = Lives("qbert")
    env.reset(seed=0)
    rng, rewards = np.random.default_rng(0), set()
    for _ in range(200):
        _, reward, terminated, *_ = env.step(int(rng.integers(6)))
        rewards.add(reward)
        if terminated:
            env.reset()
    assert rewards <= {-1.0, 0.0, 1.0}
    assert 1.0 in rewards
    assert env.raw >= 25 or env.over


def test_a_player_sees_what_the_policy_saw_while_it_learnt():
    """A player in the plain game and the training's environment with the player's actions: the same features."""
    plain, lives = make_environment("dtbench/Atari-Breakout-v0", kwargs={"ram": True}), Lives("breakout")
    ram, info = plain.reset(seed=3)
    seen, _ = lives.reset(seed=3)
    spy: list[np.ndarray] = []

    class Spy(RamActor):
        def sample(self, observed, rng):
            spy.append(observed)
            return int(rng.integers(4))

    player = RamPlayer(Spy({}), serves=True, rng=np.random.default_rng(0))
    compared = over = 0
    while not over:
        action = player.act(ram, info["lives"])
        if spy:  # not FIRE at the start of a life, which the training's environment presses by itself
            assert np.array_equal(spy.pop(), seen)
            compared += 1
            seen, _, terminated, *_ = lives.step(action)
            if terminated and not lives.over:
                seen, _ = lives.reset()
        ram, _, over, _, info = plain.step(action)
    assert compared > 50
    assert lives.over


@pytest.mark.filterwarnings("ignore")
def test_the_environment_keeps_gymnasiums_contract():
    check_env(Lives("pong"), skip_render_check=True)


def test_snapshots_are_the_policys_own_weights(train):
    training = train()
    assert training.run(64)
    assert [row["steps"] for row in rows(training)] == ["0", "64"]
    actor = RamActor(read_weights(training.output / "step-0000064.safetensors"))
    seen = features(np.arange(128, dtype=np.uint8), np.zeros(128, np.uint8))
    policy = training.model.policy
    expected = policy.get_distribution(policy.obs_to_tensor(seen[None])[0]).distribution.logits[0].detach().numpy()
    found = actor.logits(seen)
    shifted = found - np.log(np.exp(found).sum())  # theirs are log-probabilities
    assert np.allclose(shifted, expected, atol=1e-5)
    parts = load_file(training.output / "step-0000000.safetensors")
    assert set(parts) == {
        f"{layer}.{kind}" for layer in ("hidden.0", "hidden.1", "logits") for kind in ("weight", "bias")
    }
    assert (
        np.abs(RamActor(parts).logits(seen)).max() < 0.5
    )  # the start is nearly uniform, so that no weights are shipped


def test_the_same_command_goes_on(train):
    first = train()
    assert first.run(64)
    resumed = train()
    assert (resumed.steps, resumed.seconds, resumed.games_played) == (64, first.seconds, first.games_played)
    for name, value in first.model.policy.state_dict().items():
        assert (resumed.model.policy.state_dict()[name] == value).all()
    before, after = (t.model.policy.optimizer.state_dict() for t in (first, resumed))
    assert before["param_groups"] == after["param_groups"]
    for index, state in before["state"].items():
        for key, value in state.items():
            assert (after["state"][index][key] == value).all()
    assert resumed.run(128)
    assert [row["steps"] for row in rows(resumed)] == ["0", "64", "128"]
    assert train().run(128)  # nothing to do
    assert len(rows(resumed)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_update_with_a_checkpoint(train, monkeypatch, number):
    training = train()
    update, updates = Training._update, []

    def interrupted(self) -> None:
        updates.append(0)
        if len(updates) == 1:
            os.kill(os.getpid(), number)
        update(self)

    monkeypatch.setattr(Training, "_update", interrupted)
    before = signal.getsignal(number)
    assert not training.run(10_000)
    assert signal.getsignal(number) == before
    assert training.steps == 32
    assert (training.output / "step-0000032.safetensors").is_file()
    assert train().steps == 32


def test_other_settings_are_refused(train):
    train()
    with pytest.raises(ConfigError, match=r"settings\.json is of a training with other settings; choose another"):
        train(learning_rate=1e-3)


def test_nothing_in_a_trainings_folder_is_a_pickle(train):
    training = train()
    training.run(64)
    assert {file.suffix for file in training.output.iterdir()} == {".safetensors", ".json", ".csv"}


def shot(step: int, mean: float, human: float = 1.0) -> dict:
    return {"step": step, "return_mean": mean, "fresh": {"human_mean": human}}


def test_levels_are_shares_of_the_best():
    training = [shot(0, -20), shot(1, -15), shot(2, -10), shot(3, -3), shot(4, 5), shot(5, -3.2), shot(6, 20)]
    levels = choose_atari.choose_levels(training)
    # From −20 to 20: medium is nearest to 0.42, which is −3.2; the snapshot after the first above 0.6 does not count.
    assert levels == {"expert": [6], "medium": [3], "medium-replay": [0, 2, 3]}


def test_random_play_is_no_level_of_a_training_that_rose_at_once():
    """As of Seaquest: the first snapshot is nearly the best; medium is a later one, after the fall."""
    training = [shot(0, 68), shot(1, 360), shot(2, 460), shot(3, 285), shot(4, 260), shot(5, 323)]
    levels = choose_atari.choose_levels(training)
    assert levels == {"expert": [2], "medium": [4], "medium-replay": [0, 4]}


def test_levels_of_a_training_that_learned_nothing():
    """All snapshots play alike, so that each is as near to a level as the others; random play is taken last."""
    levels = choose_atari.choose_levels([shot(0, 1), shot(1, 1)])
    assert levels == {"expert": [0], "medium": [1], "medium-replay": [0, 1]}
    assert choose_atari.choose_levels([shot(0, 1)]) == {"expert": [0], "medium": [0], "medium-replay": [0]}


def test_levels_below_a_tenth_of_a_human_are_called_by_what_they_are():
    levels = {"expert": [6], "medium": [3], "medium-replay": [0, 2, 3]}
    weak = choose_atari.named(levels, [shot(0, 0, 0.0), shot(2, 0, 0.5), shot(3, 0, 0.0999), shot(6, 0, 0.1)])
    assert weak == {"expert": [6], "mid-training": [3], "mid-training-replay": [0, 2, 3]}
    strong = choose_atari.named(levels, [shot(0, 0, 0.0), shot(2, 0, 0.0), shot(3, 0, 0.1), shot(6, 0, 0.3)])
    assert strong == levels


def test_evaluation_is_of_whole_games_with_raw_rewards():
    """Random play of Pong loses 20 to 21 points, as its reference −20.7 says; each game is a function of its seed."""
    returns, lengths = choose_atari.evaluate("pong", RamActor.uniform(6), 2, seed=4)
    assert all(-21 <= value <= -17 for value in returns)
    assert min(lengths) > 700
    assert choose_atari.evaluate("pong", RamActor.uniform(6), 1, seed=5) == (returns[1:], lengths[1:])


def test_from_a_training_to_what_is_shipped(train, tmp_path, monkeypatch):
    monkeypatch.setattr(choose_atari, "FRESH_EPISODES", 1)
    training = train("breakout")
    training.run(128)
    with ThreadPoolExecutor(1) as pool:  # the processes of `main` would not see what is replaced here
        name, entry = choose_atari.export(training.output, tmp_path, 1, pool)
    assert (name, entry["actions"], entry["serves"], entry["reference"]) == ("breakout", 4, True, "dqn_zoo")
    assert json.loads(json.dumps(entry)) == entry
    stored = {int(tensor.split("/")[0].removeprefix("step-")) for tensor in load_file(tmp_path / entry["file"])}
    assert stored == {step for steps in entry["datasets"].values() for step in steps} - {0}
    assert all(value.dtype == np.float16 for value in load_file(tmp_path / entry["file"]).values())
    text = card({"hopper": manifest()["hopper"], name: entry})
    assert "## hopper (Hopper-v5)" in text
    assert "## breakout (dtbench/Atari-Breakout-v0)" in text
    assert "FIRE at the start of a life" in text
    for level in entry["datasets"]:
        assert level in text


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch, train):
    training = train()
    training.run(64)
    monkeypatch.setattr(choose_atari, "MOST_BYTES", 1_000)
    with pytest.raises(SystemExit, match="more than 1,000; train a smaller --width"):
        choose_atari._save_chosen(training.output, tmp_path / "pong.safetensors", [64])
    assert not (tmp_path / "pong.safetensors").exists()


def test_the_command(train, tmp_path, monkeypatch, capsys):
    words = ["x", "pong", "--steps", "1024", "--width", "8", "--output", str(tmp_path / "by-command")]
    monkeypatch.setattr("sys.argv", words)
    train_atari.main()
    assert (tmp_path / "by-command" / "step-0001024.safetensors").is_file()
    monkeypatch.setattr("sys.argv", [*words, "--gamma", "0.9"])
    with pytest.raises(SystemExit):
        train_atari.main()
    assert "is of a training with other settings" in capsys.readouterr().err
