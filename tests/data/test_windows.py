"""Windows against a plain loop, and the options one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtbench.data.windows import WindowOptions, Windows, kept_episodes, returns_to_go
from dtbench.errors import ConfigError
from tests.data import factory


def by_loop(store, options: WindowOptions, mean, std, start: int) -> dict[str, np.ndarray]:
    """Gather one window step by step, from the definition."""
    length = options.context_length
    episode = max(e for e in range(store.num_episodes) if store.episode_offsets[e] <= start)
    begin, end = store.episode_offsets[episode], store.episode_offsets[episode + 1]
    rewards = np.array(store.rewards[begin:end], dtype=np.float64)
    if options.delayed_reward:
        rewards = np.array([0.0] * (len(rewards) - 1) + [rewards.sum()])
    steps = list(range(start, min(start + length, end)))
    window = {
        "observations": np.zeros((length, store.observation_dim)),
        "next_observations": np.zeros((length, store.observation_dim)),
        "actions": np.zeros((length, store.action_dim)),
        "rewards": np.zeros(length),
        "returns_to_go": np.zeros(length),
        "timesteps": np.zeros(length),
        "padding_mask": np.zeros(length),
        "terminations": np.zeros(length),
    }
    for position, step in enumerate(steps, start=length - len(steps)):
        following = store.observations[step + 1] if step + 1 < end else store.final_observations[episode]
        window["observations"][position] = (store.observations[step] - mean) / std
        window["next_observations"][position] = (following - mean) / std
        window["actions"][position] = store.actions[step]
        window["rewards"][position] = rewards[step - begin] / options.return_scale
        window["returns_to_go"][position] = rewards[step - begin :].sum() / options.return_scale
        window["timesteps"][position] = step - begin
        window["padding_mask"][position] = 1
        window["terminations"][position] = store.terminations[step]
    return window


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    context=st.integers(1, 9),
    scale=st.sampled_from([1.0, 10.0, 1000.0]),
    delayed=st.booleans(),
    normalize=st.booleans(),
)
def test_every_window_equals_the_plain_loop(lengths, context, scale, delayed, normalize):
    """Left padding, mask, time steps, returns-to-go, scaling, delay and final observation, for every possible start."""
    options = WindowOptions(
        context, return_scale=scale, delayed_reward=delayed, normalize_states=normalize, next_observations=True
    )
    with tempfile.TemporaryDirectory() as folder:
        store = factory.store(Path(folder) / "s", lengths)
        windows = Windows(store, options)
        batch = windows.gather(torch.arange(store.num_steps))
        mean = store.observations.astype(np.float64).mean(0) if normalize else 0.0
        std = store.observations.astype(np.float64).std(0) + 1e-6 if normalize else 1.0
        for start in range(store.num_steps):
            expected = by_loop(store, options, mean, std, start)
            assert batch.keys() == expected.keys()
            for key, value in expected.items():
                # fp32 against float64; a one-step dataset has std 1e-6, which magnifies the rounding of the mean.
                tolerance = 1e-5 if store.num_steps > 1 else 1.0
                assert np.allclose(batch[key][start].numpy(), value, rtol=1e-4, atol=tolerance), key


def test_shapes_and_types(tmp_path):
    batch = Windows(factory.store(tmp_path / "s"), WindowOptions(4)).gather(torch.tensor([0, 3]))
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "observations": ((2, 4, 3), torch.float32),
        "actions": ((2, 4, 2), torch.float32),
        "rewards": ((2, 4), torch.float32),
        "returns_to_go": ((2, 4), torch.float32),
        "timesteps": ((2, 4), torch.int64),
        "padding_mask": ((2, 4), torch.bool),
    }


def test_draws_are_uniform_over_time_steps(tmp_path):
    """Chi-square of 50,000 draws over the 25 steps; drawing trajectories uniformly would give about 100,000."""
    windows = Windows(factory.store(tmp_path / "s", (5, 1, 12, 7)), WindowOptions(4))
    drawn = windows.draw(50_000, seed=0, step=0)
    counts = np.bincount(drawn.numpy(), minlength=25)
    statistic = ((counts - 2000) ** 2 / 2000).sum()
    assert statistic < 51.2  # the 0.999 quantile of chi-square with 24 degrees of freedom


def test_draws_are_a_function_of_seed_step_and_rank(tmp_path):
    windows = Windows(factory.store(tmp_path / "s", (500,)), WindowOptions(4))
    first = windows.draw(64, seed=0, step=3, rank=0)
    assert torch.equal(windows.draw(64, seed=0, step=3, rank=0), first)
    for other in ({"seed": 1}, {"step": 4}, {"rank": 1}):
        assert not torch.equal(windows.draw(64, **{"seed": 0, "step": 3, "rank": 0, **other}), first)


def test_returns_to_go_of_a_million_steps_equal_the_loop():
    rng = np.random.default_rng(0)
    rewards = rng.normal(3, 1, size=1_000_000).astype(np.float32)
    offsets = np.arange(0, 1_000_001, 1000)
    found = returns_to_go(rewards, offsets)
    for episode in (0, 500, 999):
        part = rewards[offsets[episode] : offsets[episode + 1]].astype(np.float64)
        expected = np.cumsum(part[::-1])[::-1]
        # sums of 3e6 in float64 are exact to about 1e-9
        assert np.abs(found[offsets[episode] : offsets[episode + 1]] - expected).max() < 1e-8


@pytest.mark.parametrize("option", ["trajectory_ratio", "top_fraction"])
def test_a_share_of_one_keeps_every_trajectory(option):
    """The code of LaMo and of GPT2-DTMA loses the best one here, that of GPT-2-DT the worst."""
    returns = np.random.default_rng(0).normal(size=50)
    assert kept_episodes(returns, WindowOptions(4, **{option: 1.0})).tolist() == list(range(50))


def test_top_fraction_keeps_the_best_in_the_stores_order():
    returns = np.array([3.0, 9.0, 1.0, 9.5, 2.0])
    assert kept_episodes(returns, WindowOptions(4, top_fraction=0.4)).tolist() == [1, 3]
    assert kept_episodes(returns, WindowOptions(4, top_fraction=0.01)).tolist() == [3]


def test_ratio_keeps_a_seeded_share():
    returns = np.arange(100.0)
    kept = kept_episodes(returns, WindowOptions(4, trajectory_ratio=0.29))
    assert len(kept) == 29
    assert np.array_equal(kept, kept_episodes(returns, WindowOptions(4, trajectory_ratio=0.29)))
    other = WindowOptions(4, trajectory_ratio=0.29, subset_seed=1)
    assert not np.array_equal(kept, kept_episodes(returns, other))


def test_only_kept_trajectories_are_drawn_and_measured(tmp_path):
    store = factory.store(tmp_path / "s")
    windows = Windows(store, WindowOptions(4, top_fraction=0.25))
    best = int(np.argmax(store.episode_returns))
    steps = set(range(store.episode_offsets[best], store.episode_offsets[best + 1]))
    assert set(windows.draw(1000, seed=0, step=0).tolist()) == steps
    expected = store.observations[sorted(steps)].mean(0)
    assert np.allclose(windows.state_mean.numpy(), expected, atol=1e-5)


def test_the_range_of_returns_to_go_is_that_of_kept_trajectories(tmp_path):
    store = factory.store(tmp_path / "s")
    for options in (WindowOptions(4, return_scale=3.0), WindowOptions(4, top_fraction=0.25)):
        windows = Windows(store, options)
        rewards = [store.episode(int(number)).rewards for number in windows.kept_episodes]
        returns = [own[step:].sum() / options.return_scale for own in rewards for step in range(len(own))]
        assert windows.returns_to_go_range == pytest.approx((min(returns), max(returns)), abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"trajectory_ratio": 0.0},
        {"top_fraction": 1.5},
        {"return_scale": 0.0},
        {"top_by": "length"},
        {"discount": 1.0},
        {"state_std_floor": 0.0},
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ConfigError):
        WindowOptions(4, **bad)


@pytest.mark.parametrize("context", [1, 4])
def test_steps_that_a_time_limit_cut_are_left_out_if_asked_for(tmp_path, context):
    """As in D4RL's qlearning_dataset: no window holds such a step, and the statistics do not count it."""
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))  # every second episode is truncated
    windows = Windows(store, WindowOptions(context, drop_timeouts=True, next_observations=True))
    remaining = [step for step in range(25) if step not in (5, 24)]
    drawn = windows.draw(2000, seed=0, step=0)
    assert set(drawn.tolist()) == set(remaining)
    assert windows.num_steps == len(remaining) == 23
    batch = windows.gather(drawn)
    last_of = {0: 5, 6: 18, 18: 24}  # start of an episode: the step after its last remaining one
    for row, start in enumerate(drawn.tolist()):
        begin = max(b for b in last_of if b <= start)
        steps = list(range(start, min(start + context, last_of[begin])))
        real = batch["padding_mask"][row]
        assert real.tolist() == [False] * (context - len(steps)) + [True] * len(steps)
        for position, step in enumerate(steps, start=context - len(steps)):
            following = store.observations[step + 1] if step not in (4, 17) else store.final_observations[begin // 3]
            shown = batch["next_observations"][row, position] * windows.state_std + windows.state_mean
            assert np.allclose(shown, following, atol=1e-5)
    assert np.allclose(windows.state_mean, store.observations[remaining].mean(0), atol=1e-5)


def test_a_dataset_without_remaining_steps_is_refused(tmp_path):
    store = factory.build(tmp_path / "s", [factory.episode(1, terminated=False, truncated=True)])
    with pytest.raises(ConfigError, match="no time steps"):
        Windows(store, WindowOptions(1, drop_timeouts=True))


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("delayed", [False, True])
def test_discounted_returns_continue_behind_a_time_limit(tmp_path, drop, delayed):
    """Cal-QL's rule for Kitchen: a terminated episode ends, a truncated one pays its last reward for ever."""
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    options = WindowOptions(1, return_scale=2.0, discount=0.9, drop_timeouts=drop, delayed_reward=delayed)
    windows = Windows(store, options)
    for episode in range(4):
        begin, end = store.episode_offsets[episode], store.episode_offsets[episode + 1]
        rewards = [float(reward) for reward in store.rewards[begin:end]]
        if delayed:
            rewards = [0.0] * (len(rewards) - 1) + [sum(rewards)]
        truncated = episode % 2 == 1
        if truncated and drop:
            rewards.pop()
        for step in range(len(rewards)):
            expected = sum(0.9**k * reward for k, reward in enumerate(rewards[step:]))
            if truncated:
                expected += sum(0.9**k * rewards[-1] for k in range(len(rewards) - step, 1000))
            found = windows.gather(torch.tensor([int(begin) + step]))["discounted_returns"]
            assert found.shape == (1, 1)
            assert found.item() == pytest.approx(expected / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("drop", [False, True])
def test_the_range_of_returns_is_that_of_the_kept_steps(tmp_path, drop):
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    options = WindowOptions(1, return_scale=2.0, discount=0.9, drop_timeouts=drop, top_fraction=0.5)
    windows = Windows(store, options)
    kept = windows._steps_of(windows.kept_episodes)
    shown = windows.gather(torch.from_numpy(kept))["discounted_returns"]
    assert windows.return_range(0.9) == pytest.approx((shown.min().item(), shown.max().item()), rel=1e-5)
    shifted = windows.return_range(0.0, lambda rewards: 3 * rewards + 1)
    rewards = 3 * windows.gather(torch.from_numpy(kept))["rewards"] + 1
    assert shifted == pytest.approx((rewards.min().item(), rewards.max().item()), rel=1e-5)


def test_discounted_returns_may_end_at_a_time_limit(tmp_path):
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    windows = Windows(store, WindowOptions(1, discount=0.9, endless_timeouts=False))
    found = windows.gather(torch.arange(store.num_steps))["discounted_returns"][:, 0].tolist()
    for begin, end in zip(store.episode_offsets[:-1], store.episode_offsets[1:], strict=True):
        for step in range(begin, end):
            expected = sum(0.9**k * float(reward) for k, reward in enumerate(store.rewards[step:end]))
            assert found[step] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("delayed", [False, True])
def test_a_termination_may_pay_something_else(tmp_path, delayed):
    """Everything that is summed from rewards has it; an episode that a time limit ended keeps its own."""
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    options = WindowOptions(
        1, return_scale=2.0, discount=0.9, endless_timeouts=False, termination_reward=-100.0, delayed_reward=delayed
    )
    batch = Windows(store, options).gather(torch.arange(store.num_steps))
    rewards, own = batch["rewards"][:, 0].numpy() * 2, np.array(store.rewards)
    for episode in range(4):
        begin, end = store.episode_offsets[episode], store.episode_offsets[episode + 1]
        expected = own[begin:end].copy()
        if delayed:
            expected = np.array([0.0] * (len(expected) - 1) + [expected.sum()])
        if episode % 2 == 0:
            expected[-1] = -100
        assert rewards[begin:end] == pytest.approx(expected, rel=1e-5)
        assert batch["returns_to_go"][begin, 0].item() == pytest.approx(expected.sum() / 2, rel=1e-5, abs=1e-5)
        discounted = sum(0.9**k * reward for k, reward in enumerate(expected)) / 2
        assert batch["discounted_returns"][begin, 0].item() == pytest.approx(discounted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_all_kept_steps_are_gone_through_once(tmp_path, monkeypatch, ratio):
    monkeypatch.setattr("dtbench.data.windows._CHUNK", 4)
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    windows = Windows(store, WindowOptions(3, trajectory_ratio=ratio, discount=0.9))
    parts = list(windows.steps())
    kept = [range(*store.episode_offsets[episode : episode + 2]) for episode in windows.kept_episodes]
    starts = torch.tensor([step for steps in kept for step in steps])
    assert [len(part["rewards"]) for part in parts[:-1]] == [4] * (len(parts) - 1)
    expected = windows.gather(starts)
    for name in ("observations", "actions", "rewards", "discounted_returns", "timesteps"):
        first = expected["padding_mask"].long().argmax(dim=1)  # a window's first step is where its padding ends
        whole = torch.cat([part[name] for part in parts])
        assert torch.equal(whole[:, 0], expected[name][torch.arange(len(starts)), first]), name
    assert windows.options.context_length == 3


def test_frames_are_gone_through_in_smaller_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("dtbench.data.windows._FRAMES_CHUNK", 10)
    store = factory.game_store(tmp_path / "s", (5, 1, 12, 7))
    parts = list(Windows(store, WindowOptions(3, normalize_states=False)).steps())
    assert [len(part["observations"]) for part in parts] == [10, 10, 5]


def test_best_share_by_steps_equals_the_loop_of_the_decision_transformer(tmp_path):
    """gym/experiment.py: the best always, and then as many of the next best as fit into a share of the steps."""
    rng = np.random.default_rng(0)
    for share in (0.01, 0.1, 0.35, 0.9):
        for _ in range(20):
            returns, lengths = rng.normal(size=15), rng.integers(1, 40, size=15)
            budget, kept, used = int(share * lengths.sum()), [], 0
            for episode in sorted(range(15), key=lambda e: -returns[e]):
                if kept and used + lengths[episode] > budget:
                    break
                kept.append(episode)
                used += lengths[episode]
            options = WindowOptions(4, top_fraction=share, top_by="steps")
            assert kept_episodes(returns, options, lengths).tolist() == sorted(kept)


def test_by_steps_the_statistics_are_those_of_all_trajectories(tmp_path):
    store = factory.store(tmp_path / "s")
    by_steps = Windows(store, WindowOptions(4, top_fraction=0.25, top_by="steps"))
    assert len(by_steps.kept_episodes) < store.num_episodes
    assert np.allclose(by_steps.state_mean, store.observations.mean(0), atol=1e-5)
    assert by_steps.num_steps == store.episode_lengths[by_steps.kept_episodes].sum()


def test_the_floor_of_the_standard_deviation_can_be_chosen(tmp_path):
    store = factory.store(tmp_path / "s")
    one, other = (Windows(store, WindowOptions(4, state_std_floor=floor)) for floor in (1e-6, 1e-3))
    assert torch.allclose(other.state_std - one.state_std, torch.full((3,), 1e-3 - 1e-6), atol=1e-6)
