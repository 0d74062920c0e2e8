"""The local source: real environments, exact sizes, and data that do not depend on how they were made."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from dtbench.data.behaviours.make.choose import MEDIUM_RANGE, choose_levels
from dtbench.data.behaviours.policy import SacActor, environment, load_actor, manifest
from dtbench.data.sources import local
from dtbench.suites.suites import load_suite


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))


def test_ships_the_policies_that_the_suite_needs():
    assert {"halfcheetah", "hopper", "walker2d"} <= set(manifest())
    for task in load_suite("d4rl-short").tasks:
        assert task.sources["local"] in local.known_datasets()
        assert environment(task.id.split("-")[0])["env_id"] == task.env_id


@pytest.mark.parametrize("name", ["halfcheetah", "hopper", "walker2d"])
def test_levels_are_what_the_names_say(name):
    entry = environment(name)
    scores = {snapshot["step"]: snapshot["normalized_mean"] for snapshot in entry["snapshots"]}
    medium, expert, replay = (entry["levels"][level] for level in ("medium", "expert", "replay"))
    assert 0.35 <= scores[medium[0]] <= 0.60  # about the scores of D4RL's medium policies
    assert scores[expert[0]] == max(scores.values())
    assert len(entry["snapshots"]) >= 12
    assert replay == sorted(replay)
    assert (replay[0], replay[-1]) == (0, medium[0])


def test_actor_is_a_squashed_gaussian():
    """The same layers in torch; stochastic actions have the stated mean and spread before the squashing."""
    actor = load_actor("hopper", environment("hopper")["levels"]["medium"][0])
    observations = np.random.default_rng(0).normal(size=(7, 11))
    x = torch.tensor(observations, dtype=torch.float32)
    layers = {name: torch.tensor(value) for name, value in actor.weights.items()}
    for layer in ("hidden.0", "hidden.1"):
        x = torch.relu(x @ layers[f"{layer}.weight"].T + layers[f"{layer}.bias"])
    mean, log_std = (x @ layers[f"{layer}.weight"].T + layers[f"{layer}.bias"] for layer in ("mean", "log_std"))
    rng = np.random.default_rng(0)
    assert np.allclose(actor.act(observations, rng, deterministic=True), torch.tanh(mean).numpy(), atol=1e-5)
    squashed = np.stack([actor.act(observations, rng) for _ in range(4000)]).astype(np.float64)
    draws = np.arctanh(squashed.clip(-1 + 1e-9, 1 - 1e-9))
    spread = log_std.clamp(-20, 2).exp().numpy()
    unsaturated = np.abs(draws).max(0) < 6  # arctanh of a float32 near 1 is rounded away
    # 4,000 draws: the mean is off by at most 5/sqrt(4000) = 8 % of the spread, the spread by about 5 %.
    assert unsaturated.any()
    assert (np.abs(draws.mean(0) - mean.numpy()) < 0.08 * spread)[unsaturated].all()
    assert (np.abs(draws.std(0) / spread - 1) < 0.06)[unsaturated].all()


def test_actor_equals_stable_baselines3():
    sac = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed (train-behaviours)").SAC
    model = sac("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [256, 256]}, seed=0, device="cpu")
    theirs = model.policy.actor
    layers = {"hidden.0": theirs.latent_pi[0], "hidden.1": theirs.latent_pi[2], "mean": theirs.mu}
    layers["log_std"] = theirs.log_std
    weights = {f"{n}.{k}": getattr(m, k).detach().numpy() for n, m in layers.items() for k in ("weight", "bias")}
    space = model.action_space
    actor = SacActor(weights, space.low, space.high)
    observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    assert np.allclose(actor.act(observations, np.random.default_rng(0), deterministic=True), expected, atol=1e-5)


@pytest.mark.parametrize("level", ["medium", "medium-replay", "medium-expert"])
def test_shards_make_up_the_level(level):
    levels = environment("walker2d")["levels"]
    shards = local.plan_shards(f"walker2d-{level}", 100_000, 0)
    steps: dict[int, int] = {}
    for shard in shards:
        steps[shard.snapshot] = steps.get(shard.snapshot, 0) + shard.steps
        assert 0 < shard.steps <= local.SHARD_STEPS
    assert sum(steps.values()) == 100_000
    assert len({shard.entropy for shard in shards}) == len(shards)
    expected = {
        "medium": levels["medium"],
        "medium-replay": levels["replay"],
        "medium-expert": sorted([*levels["medium"], *levels["expert"]]),
    }[level]
    assert sorted(steps) == expected
    assert max(steps.values()) - min(steps.values()) <= 1


def test_exactly_so_many_steps_in_real_episodes():
    store = local.build("hopper-medium", steps=1500)
    assert store.num_steps == 1500
    assert store.metadata["env_id"] == "Hopper-v5"
    last = store.episode_offsets[1:] - 1
    assert (store.terminations[last] ^ store.truncations[last]).all()
    assert store.truncations[-1]  # the cut
    store.verify()


def test_the_stored_actions_replay_the_stored_episode():
    """gymnasium stepped singly with the recorded actions gives the recorded observations, rewards and end."""
    shard = local.plan_shards("hopper-medium", 600, 0)[0]
    episode = local.build("hopper-medium", steps=600).episode(0)
    env = gym.make("Hopper-v5")
    observation, _ = env.reset(seed=int(np.random.SeedSequence(shard.entropy).generate_state(1)[0]))
    for step, action in enumerate(episode.actions):
        assert np.array_equal(np.float32(observation), episode.observations[step])
        observation, reward, terminated, truncated, _ = env.step(action)
        assert np.float32(reward) == episode.rewards[step]
        assert (terminated, truncated) == (episode.terminations[step], episode.truncations[step])
    assert np.array_equal(np.float32(observation), episode.observations[-1])


def test_data_do_not_depend_on_the_workers(monkeypatch):
    in_process = local.build("hopper-medium-replay", steps=2400)
    monkeypatch.setattr(local, "_IN_PROCESS_STEPS", 0)
    seen = []
    pool = local.build("hopper-medium-replay", steps=2400, workers=2, force=True, progress=lambda *x: seen.append(x))
    assert pool.fingerprint == in_process.fingerprint
    assert seen[-1] == (2400, 2400)


def test_seed_and_dataset_change_the_data():
    one = local.build("hopper-medium", steps=300).fingerprint
    assert local.build("hopper-medium", steps=300).fingerprint == one
    assert local.build("hopper-medium", steps=300, seed=1).fingerprint != one


def test_medium_is_early_near_the_middle_and_steady():
    def snapshot(step: int, score: float, steady: bool | None = None) -> dict:
        measured = {"step": step, "normalized_mean": score, "return_mean": 0.0}
        return measured if steady is None else {**measured, "steady": steady}

    training = [snapshot(0, 0.0), snapshot(1, 0.41, steady=False), snapshot(2, 0.5, steady=True), snapshot(3, 0.7)]
    later = [snapshot(4, 0.42, steady=True), snapshot(5, 1.0)]
    levels = choose_levels([*training, *later])
    assert levels == {"medium": [2], "expert": [5], "replay": [0, 1, 2]}
    assert choose_levels([snapshot(0, 0.1), snapshot(1, 0.4, steady=False)])["medium"] == [1]


def test_shipped_medium_levels_follow_the_rule():
    for name in ("halfcheetah", "hopper", "walker2d"):
        entry = environment(name)
        assert choose_levels(entry["snapshots"]) == entry["levels"]
        (medium,) = (shot for shot in entry["snapshots"] if [shot["step"]] == entry["levels"]["medium"])
        assert medium["steady"]
        assert MEDIUM_RANGE[0] <= medium["normalized_mean"] <= MEDIUM_RANGE[1]
