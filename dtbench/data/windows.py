"""The one place where windows are drawn, padded and masked.

A window is K consecutive time steps of one episode. It runs forward from its start, at most to the episode's end, and
is LEFT-padded to K: the real steps are at the right. Padding is 0 in every field (observations after normalisation),
and `padding_mask` is True for real steps. Starts are drawn uniformly over the time steps of the kept trajectories,
which draws a trajectory with probability proportional to its length and a uniform start within it, as in DT's code
(kzl/decision-transformer, gym/experiment.py).
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtbench.data.store import TrajectoryStore
from dtbench.determinism import generator
from dtbench.errors import ConfigError

_STD_FLOOR = 1e-6  # DT's code adds it to the standard deviation
_CHUNK = 1 << 18


@dataclass(frozen=True)
class WindowOptions:
    """How raw trajectories become training windows.

    Attributes:
        context_length: K, time steps per window.
        return_scale: rewards and returns-to-go are divided by it.
        normalize_states: (s − mean) / (std + 1e-6) over the kept trajectories.
        delayed_reward: an episode's whole return is paid at its last step.
        trajectory_ratio: share of the trajectories to keep, a random subset seeded by `subset_seed`; 1 keeps all.
        top_fraction: share of those to keep by return, best first; 1 keeps all.
        next_observations: also gather `next_observations` and `terminations` (transitions for Q-learning).
    """

    context_length: int
    return_scale: float = 1.0
    normalize_states: bool = True
    delayed_reward: bool = False
    trajectory_ratio: float = 1.0
    top_fraction: float = 1.0
    subset_seed: int = 0
    next_observations: bool = False

    def __post_init__(self) -> None:
        for name in ("trajectory_ratio", "top_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in (0, 1], not {getattr(self, name)}.")
        if self.return_scale <= 0 or self.context_length <= 0:
            raise ConfigError("return_scale and context_length must be positive.")


class Windows:
    """Windows over a store: `draw` chooses their starts, `gather` fetches a batch in one indexed operation.

    Attributes:
        kept_episodes: (E',) int64, the trajectories that windows are drawn from, in the store's order.
        state_mean, state_std: (obs_dim,) float32; 0 and 1 without normalisation. `state_std` includes the 1e-6.
    """

    def __init__(self, store: TrajectoryStore, options: WindowOptions) -> None:
        self.store, self.options = store, options
        self.kept_episodes = kept_episodes(store.episode_returns, options)
        self._kept_steps = self._steps_of_kept()
        mean, std = self._state_statistics()
        rewards = _delayed(store) if options.delayed_reward else np.asarray(store.rewards)
        self.state_mean, self.state_std = torch.from_numpy(mean), torch.from_numpy(std)
        self._offsets = _shared(store.episode_offsets)
        self._observations = _shared(store.observations)
        self._final_observations = _shared(store.final_observations)
        self._actions = _shared(store.actions)
        self._terminations = _shared(store.terminations)
        self._rewards = torch.from_numpy((rewards / np.float32(options.return_scale)).astype(np.float32))
        self._returns_to_go = torch.from_numpy(
            (returns_to_go(rewards, store.episode_offsets) / options.return_scale).astype(np.float32)
        )

    @property
    def num_steps(self) -> int:
        """Time steps of the kept trajectories: the number of different windows."""
        return self.store.num_steps if self._kept_steps is None else len(self._kept_steps)

    def draw(self, batch_size: int, *, seed: int, step: int, rank: int = 0) -> Tensor:
        """Draw window starts: (B,) int64, indices into the store's time steps.

        A pure function of (seed, step, rank): a resumed run draws what the uninterrupted one would, and every rank
        draws windows of its own.
        """
        drawn = generator(seed, step, rank).integers(self.num_steps, size=batch_size)
        return torch.from_numpy(drawn if self._kept_steps is None else self._kept_steps[drawn])

    def gather(self, starts: Tensor) -> dict[str, Tensor]:
        """Fetch the windows that begin at `starts` (B,) int64.

        Returns:
            observations (B, K, obs_dim), actions (B, K, action_dim) or (B, K), rewards (B, K), returns_to_go (B, K),
            all float32 (discrete actions int64); timesteps (B, K) int64, 0-based in the episode; padding_mask (B, K)
            bool. With `next_observations`: next_observations (B, K, obs_dim) float32 and terminations (B, K) bool.
        """
        length = self.options.context_length
        starts = starts.to(self._offsets.device)
        episodes = torch.searchsorted(self._offsets, starts, right=True) - 1
        pads = (length - (self._offsets[episodes + 1] - starts)).clamp(min=0)[:, None]
        position = torch.arange(length, device=starts.device) - pads
        mask = position >= 0
        index = starts[:, None] + position.clamp(min=0)
        batch = {
            "observations": self._normalize(_take(self._observations, index), mask),
            "actions": _take(self._actions, index) * (mask[..., None] if self._actions.dim() == 2 else mask),
            "rewards": _take(self._rewards, index) * mask,
            "returns_to_go": _take(self._returns_to_go, index) * mask,
            "timesteps": (index - self._offsets[episodes][:, None]) * mask,
            "padding_mask": mask,
        }
        if self.options.next_observations:
            batch["next_observations"] = self._normalize(self._next_observations(index, episodes), mask)
            batch["terminations"] = _take(self._terminations, index) & mask
        return batch

    def to(self, device: torch.device) -> Windows:
        """Move the arrays to `device`, so that batches are gathered there; on the CPU they stay memory maps."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def split(self, share: float, seed: int) -> tuple[Windows, Windows]:
        """Split the kept trajectories at random: windows over 1 − `share` of them, and over the rest.

        Both use the state statistics of all kept trajectories, and the same arrays.

        Raises:
            ConfigError: fewer than two trajectories.
        """
        if len(self.kept_episodes) < 2:
            raise ConfigError("Held-out trajectories need a dataset of at least two.")
        generator = np.random.default_rng(np.random.SeedSequence((seed, len(self.kept_episodes))))
        order = generator.permutation(self.kept_episodes)
        count = min(_share(len(order), share), len(order) - 1)
        return self._only(np.sort(order[count:])), self._only(np.sort(order[:count]))

    def _only(self, episodes: NDArray[np.int64]) -> Windows:
        part = copy.copy(self)
        part.kept_episodes = episodes
        part._kept_steps = part._steps_of_kept()
        return part

    @property
    def nbytes(self) -> int:
        """Memory that `to` takes on a device."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def _normalize(self, observations: Tensor, mask: Tensor) -> Tensor:
        return (observations - self.state_mean) / self.state_std * mask[..., None]

    def _next_observations(self, index: Tensor, episodes: Tensor) -> Tensor:
        last = index + 1 == self._offsets[episodes + 1][:, None]
        following = _take(self._observations, torch.where(last, index, index + 1))
        final = self._final_observations[episodes][:, None]
        return torch.where(last[..., None], final, following)

    def _steps_of_kept(self) -> NDArray[np.int64] | None:
        """Return the time steps of the kept trajectories, or None when all are kept."""
        if len(self.kept_episodes) == self.store.num_episodes:
            return None
        offsets = self.store.episode_offsets
        return np.concatenate([np.arange(offsets[e], offsets[e + 1]) for e in self.kept_episodes])

    def _state_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        dim = self.store.observation_dim
        if not self.options.normalize_states:
            return np.zeros(dim, np.float32), np.ones(dim, np.float32)
        chunks = range(0, self.num_steps, _CHUNK)
        mean = sum(self._chunk(start).sum(axis=0) for start in chunks) / self.num_steps
        variance = sum(np.square(self._chunk(start) - mean).sum(axis=0) for start in chunks) / self.num_steps
        return mean.astype(np.float32), (np.sqrt(variance) + _STD_FLOOR).astype(np.float32)

    def _chunk(self, start: int) -> NDArray[np.float64]:
        rows: Any = slice(start, start + _CHUNK)
        if self._kept_steps is not None:
            rows = self._kept_steps[rows]
        return np.asarray(self.store.observations[rows], dtype=np.float64)


def kept_episodes(returns: NDArray[np.float64], options: WindowOptions) -> NDArray[np.int64]:
    """Choose the trajectories to keep, in the store's order.

    The code of LaMo and of GPT2-DTMA negates the returns and compares strictly, so that even a ratio of 1 loses the
    best trajectory; here 1 keeps all, and `top_fraction` always keeps the best.

    Args:
        returns: (E,) float64, undiscounted returns.
    """
    kept = np.arange(len(returns))
    if options.trajectory_ratio < 1:
        generator = np.random.default_rng(np.random.SeedSequence((options.subset_seed, len(returns))))
        kept = np.sort(generator.permutation(len(returns))[: _share(len(returns), options.trajectory_ratio)])
    if options.top_fraction < 1:
        best_first = kept[np.argsort(-returns[kept], kind="stable")]
        kept = np.sort(best_first[: _share(len(kept), options.top_fraction)])
    return kept


def _share(count: int, ratio: float) -> int:
    """Return a share of a count, rounded down, at least 1."""
    return max(1, int(count * ratio + 1e-9))  # the slack undoes 0.29 · 100 = 28.999…


def returns_to_go(rewards: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the rewards from each step to its episode's end, undiscounted: (N,) → (N,) float64.

    One cumulative sum over the whole dataset in float64; with 1e6 rewards of order 1 its rounding is about 1e-10.
    """
    upto = np.cumsum(rewards, dtype=np.float64)
    at_end = np.repeat(upto[offsets[1:] - 1], np.diff(offsets))
    remaining: NDArray[np.float64] = at_end - upto + rewards
    return remaining


def _delayed(store: TrajectoryStore) -> NDArray[np.float32]:
    """Pay each episode's whole return at its last step."""
    rewards = np.zeros(store.num_steps, dtype=np.float32)
    rewards[store.episode_offsets[1:] - 1] = store.episode_returns
    return rewards


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index] by `index_select`, which is faster than indexing with a matrix."""
    return values.index_select(0, index.flatten()).reshape(*index.shape, *values.shape[1:])


def _shared(array: NDArray[Any]) -> Tensor:
    """View a read-only memory map as a tensor without a copy; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
