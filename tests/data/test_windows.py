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


@pytest.mark.parametrize("bad", [{"trajectory_ratio": 0.0}, {"top_fraction": 1.5}, {"return_scale": 0.0}])
def test_impossible_options_are_refused(bad):
    with pytest.raises(ConfigError):
        WindowOptions(4, **bad)
