"""Episodes before they are stored: single ones, or blocks of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Episode:
    """One episode of T steps: observations (T + 1, obs_dim), the last one after the last step; the others (T, …).

    Of a game the observations are single frames, (T + 1, height, width) uint8: what a policy sees stacks the last few.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminations: NDArray[Any]
    truncations: NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Whole episodes end to end, as a store holds them: E of them, of `lengths` (E,) steps, N in all.

    observations (N, obs_dim) before each step and final_observations (E, obs_dim) after the last; the others (N, …).
    Frames are (N, height, width) and (E, height, width) uint8.
    """

    observations: NDArray[Any]
    final_observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminations: NDArray[Any]
    truncations: NDArray[Any]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, episode: Episode) -> Block:
        """Return a block of one episode."""
        return cls(
            np.asarray(episode.observations)[:-1],
            np.asarray(episode.observations)[-1:],
            np.asarray(episode.actions),
            np.asarray(episode.rewards),
            np.asarray(episode.terminations),
            np.asarray(episode.truncations),
            np.array([len(episode.rewards)]),
        )

    @classmethod
    def joined(cls, episodes: Sequence[Episode]) -> Block:
        """Return one block of several episodes, at least one."""
        blocks = [cls.of(episode) for episode in episodes]
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})
