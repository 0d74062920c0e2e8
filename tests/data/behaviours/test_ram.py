"""Atari's behaviours: what they see, how they choose, and the episodes that are recorded while they play."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from dtbench.data.behaviours import policy
from dtbench.data.behaviours.policy import manifest
from dtbench.data.behaviours.ram import FIRE, LAYERS, RamActor, RamPlayer, features
from dtbench.data.behaviours.roll_out import roll_out
from dtbench.data.sources import local
from dtbench.data.store import build_store
from dtbench.environments.make import make_environment
from tests.data.behaviours import games

pytest.importorskip("ale_py", reason="ale-py is not installed (extra atari)")
pytest.importorskip("cv2", reason="OpenCV is not installed (extra atari)")

TAKES_FRAMES = "frame_stack" in inspect.signature(build_store).parameters


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two games with random weights instead of what is shipped."""
    games.ship(tmp_path, monkeypatch)
    yield
    manifest.cache_clear()


def test_features_are_the_memory_and_its_change():
    ram, previous = np.arange(128, dtype=np.uint8), np.full(128, 100, np.uint8)
    seen = features(ram, previous)
    assert (seen.shape, seen.dtype) == ((256,), np.float32)
    assert np.allclose(seen[:128], np.arange(128) / 127.5 - 1, atol=1e-6)
    assert np.allclose(seen[128:], (np.arange(128) - 100) / 127.5, atol=1e-6)  # no wrap-around of unsigned bytes


def test_the_actor_draws_from_the_softmax():
    actor = RamActor({name: value.astype(np.float32) for name, value in games.weights(4).items()})
    seen = np.random.default_rng(1).normal(size=256).astype(np.float32)
    x = torch.tensor(seen)
    for layer in LAYERS:
        x = torch.tensor(actor.weights[f"{layer}.weight"]) @ x + torch.tensor(actor.weights[f"{layer}.bias"])
        x = torch.relu(x) if layer != "logits" else x
    assert np.allclose(actor.logits(seen), x.numpy(), atol=1e-5)
    expected = torch.softmax(x, 0).numpy()
    rng = np.random.default_rng(0)
    drawn = np.bincount([actor.sample(seen, rng) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - expected).max() < 4 * 0.5 / 4000**0.5  # four standard deviations of a share, at most


def test_the_untrained_actor_is_uniform():
    rng = np.random.default_rng(0)
    drawn = np.bincount([RamActor.uniform(6).sample(np.ones(256, np.float32), rng) for _ in range(6000)])
    assert len(drawn) == 6
    assert np.abs(drawn - 1000).max() < 4 * (6000 * 5 / 36) ** 0.5


def test_fire_begins_each_life():
    actor = RamActor.uniform(4)
    player = RamPlayer(actor, serves=True, rng=np.random.default_rng(0))
    ram = np.zeros(128, np.uint8)
    lives = [5, 5, 5, 4, 4, 3, 3]
    acted = [player.act(ram, left) for left in lives]
    assert [acted[index] for index in (0, 3, 5)] == [FIRE] * 3
    free = RamPlayer(actor, serves=False, rng=np.random.default_rng(0))
    others = [free.act(ram, left) for left in lives * 5]
    assert set(others) == {0, 1, 2, 3}


@pytest.mark.usefixtures("shipped")
def test_a_recorded_game_replays():
    """Stacks of the recorded single frames are what the evaluation's environment shows for the recorded actions."""
    shard = local.plan_shards("breakout-medium", 400, 0)[0]
    episodes = roll_out(shard)
    assert sum(len(episode.rewards) for episode in episodes) == 400
    episode = episodes[0]
    steps = len(episode.rewards)
    assert episode.observations.shape == (steps + 1, 84, 84)
    assert (episode.observations.dtype, episode.actions.dtype) == (np.uint8, np.int64)
    assert episode.actions[0] == FIRE
    assert (episode.terminations[-1], episode.truncations[-1]) == (True, False)
    assert (episodes[-1].terminations[-1], episodes[-1].truncations[-1]) == (False, True)  # the cut
    env = make_environment("dtbench/Atari-Breakout-v0")
    observation, _ = env.reset(seed=int(np.random.SeedSequence(shard.entropy).generate_state(1)[0]))
    padded = np.concatenate((np.zeros((3, 84, 84), np.uint8), episode.observations))
    for step in range(steps):
        assert np.array_equal(observation, padded[step : step + 4])
        observation, reward, terminated, truncated, _ = env.step(int(episode.actions[step]))
        assert reward == episode.rewards[step]
        assert (terminated, truncated) == (episode.terminations[step], episode.truncations[step])
    assert np.array_equal(observation, padded[steps : steps + 4])


@pytest.mark.usefixtures("shipped")
def test_a_shard_is_a_function_of_its_seed():
    shard = local.plan_shards("pong-medium-replay", 300, 0)[1]
    one, again = roll_out(shard)[0], roll_out(shard)[0]
    other = roll_out(local.plan_shards("pong-medium-replay", 300, 1)[1])[0]
    assert np.array_equal(one.observations, again.observations)
    assert np.array_equal(one.actions, again.actions)
    assert not np.array_equal(one.actions, other.actions)


@pytest.mark.usefixtures("shipped")
def test_a_games_shards_are_longer():
    assert [shard.steps for shard in local.plan_shards("pong-medium", 50_000, 0)] == [25_000, 25_000]
    shards = local.plan_shards("pong-medium-replay", 60_000, 0)
    assert [(shard.snapshot, shard.steps) for shard in shards] == [
        (snapshot, 15_000) for snapshot in (0, games.SNAPSHOT) for _ in range(2)
    ]
    assert "pong-medium-expert" not in local.known_datasets()


@pytest.mark.usefixtures("shipped", "own_home")
@pytest.mark.skipif(not TAKES_FRAMES, reason="build_store does not take frames yet")
def test_a_dataset_of_frames_is_built():
    store = local.build("breakout-medium-replay", steps=300)
    assert (store.num_steps, store.metadata["env_id"]) == (300, "dtbench/Atari-Breakout-v0")
    assert (store.observations.shape, store.observations.dtype) == ((300, 84, 84), np.uint8)
    assert store.actions.dtype == np.int64
    assert store.metadata["action_space"] == {"n": 4}
    assert set(store.metadata["recipe"]["packages"]) == {"gymnasium", "numpy", "ale-py", "opencv"}
    assert local.build("breakout-medium-replay", steps=300, force=True).fingerprint == store.fingerprint
    store.verify()


@pytest.mark.skipif(not TAKES_FRAMES, reason="build_store does not take frames yet")
@pytest.mark.usefixtures("own_home")
def test_frames_do_not_depend_on_the_workers(monkeypatch):
    """Workers read what is shipped, so that the fixture's games cannot be used here."""
    names = [name for name in manifest() if policy.is_atari(name)]
    if not names:
        pytest.skip("no game is shipped yet")
    dataset = next(name for name in local.known_datasets() if name.startswith(names[0]) and name.endswith("-replay"))
    in_process = local.build(dataset, steps=600)
    monkeypatch.setattr(local, "_IN_PROCESS_STEPS", 0)
    assert local.build(dataset, steps=600, workers=2, force=True).fingerprint == in_process.fingerprint


@pytest.mark.parametrize("name", [name for name in manifest() if policy.is_atari(name)] or [None])
def test_shipped_games_are_what_their_entries_say(name):
    if name is None:
        pytest.skip("no game is shipped yet")
    entry = policy.environment(name)
    assert (policy.WEIGHTS / entry["file"]).stat().st_size <= 1_000_000
    env = make_environment(entry["env_id"], kwargs={"ram": True})
    assert entry["actions"] == env.action_space.n
    for steps in entry["datasets"].values():
        for step in steps:
            assert policy.load_actor(name, step).logits(np.zeros(256, np.float32)).shape == (entry["actions"],)
