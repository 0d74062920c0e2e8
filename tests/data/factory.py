"""Small stores of random episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store

OBSERVATION_DIM, ACTION_DIM = 3, 2
FRAME, STACK, ACTIONS = (5, 4), 4, 3


def episode(steps: int, seed: int = 0, *, terminated: bool = True, truncated: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    terminations, truncations = np.zeros(steps, dtype=bool), np.zeros(steps, dtype=bool)
    if steps:
        terminations[-1], truncations[-1] = terminated, truncated
    return Episode(
        rng.normal(size=(steps + 1, OBSERVATION_DIM)).astype(np.float32) + 5,
        rng.uniform(-1, 1, size=(steps, ACTION_DIM)).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        terminations,
        truncations,
    )


def build(path: Path, episodes, **changes) -> TrajectoryStore:
    bound = np.ones(ACTION_DIM, dtype=np.float32)
    options = {"source": "test", "dataset_id": "random", "env_id": "none", "action_low": -bound, "action_high": bound}
    return build_store(path, episodes, **{**options, **changes})


def store(path: Path, lengths=(5, 1, 12, 7), **changes) -> TrajectoryStore:
    episodes = (episode(n, seed, terminated=seed % 2 == 0, truncated=seed % 2 == 1) for seed, n in enumerate(lengths))
    return build(path, episodes, **changes)


def game(steps: int, seed: int = 0, *, terminated: bool = True, truncated: bool = False) -> Episode:
    """Return an episode of frames without a 0, so that a missing frame shows, and discrete actions."""
    rng, vectors = np.random.default_rng(seed), episode(steps, seed, terminated=terminated, truncated=truncated)
    frames = rng.integers(1, 256, size=(steps + 1, *FRAME), dtype=np.uint8)
    return Episode(
        frames, rng.integers(ACTIONS, size=steps), vectors.rewards, vectors.terminations, vectors.truncations
    )


def build_games(path: Path, episodes, **changes) -> TrajectoryStore:
    options = {"action_low": None, "action_high": None, "action_count": ACTIONS, "frame_stack": STACK}
    return build(path, episodes, **{**options, **changes})


def game_store(path: Path, lengths=(5, 1, 12, 7), **changes) -> TrajectoryStore:
    episodes = (game(n, seed, terminated=seed % 2 == 0, truncated=seed % 2 == 1) for seed, n in enumerate(lengths))
    return build_games(path, episodes, **changes)
