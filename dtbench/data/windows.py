"""The one place where windows are drawn, padded and masked.

A window is K consecutive time steps of one episode. It runs forward from its start, at most to the episode's end, and
is LEFT-padded to K: the real steps are at the right. Padding is 0 in every field (observations after normalisation),
and `padding_mask` is True for real steps. Starts are drawn uniformly over the time steps of the kept trajectories,
which draws a trajectory with probability proportional to its length and a uniform start within it, as in DT's code
(kzl/decision-transformer, gym/experiment.py).

Where a store holds single frames, an observation is the stack of the last few of its episode. A window's frames are
fetched once each, K + stack − 1 of them, and the stacks are overlapping views of these. Frames before an episode's
first are 0: nothing ever reaches across its start.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtbench.config import NEAR_END
from dtbench.data.store import TrajectoryStore
from dtbench.data.store_files import give_back_pages
from dtbench.determinism import generator
from dtbench.errors import ConfigError
from dtbench.spaces import Frames

_CHUNK = 1 << 18
#: What `top_fraction` is a share of.
TOP_BY = ("trajectories", "steps")
#: A window of frames brings up to so much of their memory map into the process: Linux maps a file in pieces of 2 MiB
#: where its cache holds such. After the most bytes, all is given back; it stays in the system's cache.
_BYTES_PER_WINDOW, _MOST_BYTES = 2 << 20, 1 << 30
#: Steps of frames at a time, where all are gone through.
_FRAMES_CHUNK = 1 << 10


@dataclass(frozen=True)
class WindowOptions:
    """How raw trajectories become training windows.

    Attributes:
        context_length: K, time steps per window.
        return_scale: rewards and returns-to-go are divided by it.
        normalize_states: (s − mean) / (std + state_std_floor) over the kept trajectories; False for frames.
        state_std_floor: added to the standard deviation: 1e-6 in DT's code, 1e-3 in CORL's.
        delayed_reward: an episode's whole return is paid at its last step.
        trajectory_ratio: share of the trajectories to keep, a random subset seeded by `subset_seed`; 1 keeps all.
        top_fraction: share of those to keep by return, best first; 1 keeps all.
        top_by: whether `top_fraction` counts trajectories (CORL) or their time steps (DT's code, which also takes the
            state statistics from all trajectories then).
        next_observations: also gather `next_observations` and `terminations` (transitions for Q-learning).
        drop_timeouts: leave out the last step of every episode that a time limit cut, as D4RL's `qlearning_dataset`.
        discount: γ of `discounted_returns`, which are also gathered then.
        endless_timeouts: whether these go on after a time limit with the last reward for ever, as in Cal-QL's code, or
            end there as after a termination.
        termination_reward: what the last step of an episode that terminated pays instead of its own reward, before
            `return_scale`; None for its own.
        near_end: what becomes of a window that would run past its episode's end. `pad` keeps its start and pads.
            `shift` moves the start back until K real steps end with the episode, as DT's code for Atari
            (kzl/decision-transformer, atari/run_dt_atari.py), so that there is no padding. An episode shorter than K is
            padded all the same; there the reference runs into the episode before, and so mixes two.
        return_includes_reward: whether the return-to-go of step t contains its reward r_t, as everywhere but in LaMo's
            code for Atari, which starts the sum at r_{t+1}. An evaluation that lowers the target by each reward after
            it was paid shows a model the former: with False, it asks in every step for the next reward on top.
    """

    context_length: int
    return_scale: float = 1.0
    normalize_states: bool = True
    state_std_floor: float = 1e-6
    delayed_reward: bool = False
    trajectory_ratio: float = 1.0
    top_fraction: float = 1.0
    top_by: str = "trajectories"
    subset_seed: int = 0
    next_observations: bool = False
    drop_timeouts: bool = False
    discount: float | None = None
    endless_timeouts: bool = True
    termination_reward: float | None = None
    near_end: str = "pad"
    return_includes_reward: bool = True

    def __post_init__(self) -> None:
        for name in ("trajectory_ratio", "top_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in (0, 1], not {getattr(self, name)}.")
        if self.return_scale <= 0 or self.context_length <= 0:
            raise ConfigError("return_scale and context_length must be positive.")
        if self.state_std_floor <= 0:
            raise ConfigError(f"state_std_floor must be positive, not {self.state_std_floor}.")
        if self.top_by not in TOP_BY:
            raise ConfigError(f"top_by must be one of {', '.join(TOP_BY)}, not {self.top_by!r}.")
        if self.discount is not None and not 0 <= self.discount < 1:
            raise ConfigError(f"discount must lie in [0, 1), not {self.discount}.")
        if self.near_end not in NEAR_END:
            raise ConfigError(f"near_end must be one of {', '.join(NEAR_END)}, not {self.near_end!r}.")


class Windows:
    """Windows over a store: `draw` chooses their starts, `gather` fetches a batch in one indexed operation.

    Attributes:
        kept_episodes: (E',) int64, the trajectories that windows are drawn from, in the store's order.
        state_mean, state_std: (obs_dim,) float32; 0 and 1 without normalisation. `state_std` includes the floor. Of
            frames, which are not normalised, they are 0 and 1 of shape (1,).

    Raises:
        ConfigError: `drop_timeouts` leaves no time steps; or frames are to be normalised.
    """

    def __init__(self, store: TrajectoryStore, options: WindowOptions) -> None:
        self.store, self.options = store, options
        space = store.observation_space
        self._stack = space.stack if isinstance(space, Frames) else None
        if self._stack is not None and options.normalize_states:
            raise ConfigError(
                f"{store.metadata['dataset_id']} holds {space}, which are not normalised; set "
                "data.normalize_states=false."
            )
        self.kept_episodes = kept_episodes(store.episode_returns, options, store.episode_lengths)
        ends = _ends(store, options)
        self._ends = torch.from_numpy(ends)
        self._kept_steps = self._steps_of_kept()
        if self.num_steps == 0:
            raise ConfigError("Without the steps that a time limit cut, the dataset has no time steps.")
        mean, std = self._state_statistics()
        rewards = _delayed(store) if options.delayed_reward else np.asarray(store.rewards)
        if options.termination_reward is not None:
            rewards = np.where(store.terminations, np.float32(options.termination_reward), rewards)
        self.state_mean, self.state_std = torch.from_numpy(mean), torch.from_numpy(std)
        self._offsets = _shared(store.episode_offsets)
        self._observations = _shared(store.observations)
        self._final_observations = _shared(store.final_observations)
        self._actions = _shared(store.actions)
        self._terminations = _shared(store.terminations)
        self._rewards = torch.from_numpy((rewards / np.float32(options.return_scale)).astype(np.float32))
        to_go = returns_to_go(rewards, store.episode_offsets)
        if not options.return_includes_reward:
            to_go -= rewards
        self._returns_to_go = torch.from_numpy((to_go / options.return_scale).astype(np.float32))
        if options.discount is not None:
            cut = _cut(store) & options.endless_timeouts
            discounted = discounted_returns(rewards, store.episode_offsets, ends, cut, options.discount)
            self._discounted_returns = torch.from_numpy((discounted / options.return_scale).astype(np.float32))
        lengths = ends - store.episode_offsets[:-1]
        self._shortest = int(lengths[lengths > 0].min())
        self._windows_read = 0

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
            With `discount`: discounted_returns (B, K) float32.
            Of frames, observations and next_observations are (B, K, stack, height, width) uint8, as they are in the
            game, and may be views in which stacks share frames: write to a copy only.
        """
        length = self.options.context_length
        starts = starts.to(self._offsets.device)
        episodes = torch.searchsorted(self._offsets, starts, right=True) - 1
        if self.options.near_end == "shift":
            latest = self._ends[episodes] - length
            starts = torch.maximum(torch.minimum(starts, latest), self._offsets[episodes])
        pads = (length - (self._ends[episodes] - starts)).clamp(min=0)[:, None]
        position = torch.arange(length, device=starts.device) - pads
        mask = position >= 0
        index = starts[:, None] + position.clamp(min=0)
        batch = {
            **self._shown(starts - pads[:, 0], index, episodes, mask),
            "actions": _take(self._actions, index) * (mask[..., None] if self._actions.dim() == 2 else mask),
            "rewards": _take(self._rewards, index) * mask,
            "returns_to_go": _take(self._returns_to_go, index) * mask,
            "timesteps": (index - self._offsets[episodes][:, None]) * mask,
            "padding_mask": mask,
        }
        if self.options.next_observations:
            batch["terminations"] = _take(self._terminations, index) & mask
        if self.options.discount is not None:
            batch["discounted_returns"] = _take(self._discounted_returns, index) * mask
        return batch

    def steps(self) -> Iterator[dict[str, Tensor]]:
        """Go through the time steps of the kept trajectories once, in the store's order.

        Yields:
            Windows of one step, many at a time: keys of `gather`, shapes (N, 1, …).
        """
        single = copy.copy(self)
        single.options = replace(self.options, context_length=1)
        starts = torch.arange(self.num_steps) if self._kept_steps is None else torch.from_numpy(self._kept_steps)
        for part in starts.split(_CHUNK if self._stack is None else _FRAMES_CHUNK):
            yield single.gather(part)

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

    def return_range(
        self, discount: float, change: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda rewards: rewards
    ) -> tuple[float, float]:
        """Return the least and the largest discounted return that a kept step of the data continues with.

        As in `discounted_returns`, an episode that a time limit cut is continued with its last reward for ever.

        Args:
            discount: γ.
            change: what a model makes of the rewards that windows hold: (N,) → (N,).
        """
        rewards, ends = change(self._rewards.cpu().numpy()), self._ends.cpu().numpy()
        found = discounted_returns(rewards, self.store.episode_offsets, ends, _cut(self.store), discount)
        kept = found if self._kept_steps is None else found[self._kept_steps]
        return float(kept.min()), float(kept.max())

    @property
    def returns_to_go_range(self) -> tuple[float, float]:
        """The least and the largest return-to-go, as windows hold them, of the steps of the kept trajectories."""
        returns = self._returns_to_go
        if self._kept_steps is not None:
            returns = returns[torch.from_numpy(self._kept_steps).to(returns.device)]
        return float(returns.min()), float(returns.max())

    @property
    def nbytes(self) -> int:
        """Memory that `to` takes on a device."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def _shown(self, firsts: Tensor, index: Tensor, episodes: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return `observations`, and `next_observations` if they are asked for.

        Args:
            firsts: (B,) the store's step at each window's first place, as if padding were steps.
            index: (B, K) the store's step at each place; that of padding is any.
            episodes: (B,) the windows' episodes.
            mask: (B, K) True for real steps.
        """
        if self._stack is None:
            shown = {"observations": self._normalize(_take(self._observations, index), mask)}
            if self.options.next_observations:
                shown["next_observations"] = self._normalize(self._next_observations(index, episodes), mask)
            return shown
        frames = self._frames(firsts, episodes, self._stack)
        shown = {"observations": frames[:, : mask.shape[1] + self._stack - 1]}
        if self.options.next_observations:
            shown["next_observations"] = frames[:, 1:]
        has_padding = self._has_padding(mask)
        return {name: _stacks(part, self._stack, mask if has_padding else None) for name, part in shown.items()}

    def _frames(self, firsts: Tensor, episodes: Tensor, stack: int) -> Tensor:
        """Fetch each frame of the windows once: (B, K + stack − 1, height, width), one more for next observations.

        Frames before an episode's first are 0; the one after its last is its final observation.
        """
        count = self.options.context_length + stack - 1 + self.options.next_observations
        index = firsts[:, None] + torch.arange(1 - stack, count + 1 - stack, device=firsts.device)
        frames = _take(self._observations, index.clamp(0, len(self._observations) - 1))
        self._keep_memory_small(len(frames))
        if self.options.next_observations:  # only the last place can lie behind the episode
            behind = index[:, -1] == self._offsets[episodes + 1]
            frames[:, -1] = torch.where(behind[:, None, None], self._final_observations[episodes], frames[:, -1])
        before = index < self._offsets[episodes][:, None]
        return _zeroed(frames, before)

    def _keep_memory_small(self, windows: int) -> None:
        """Give back what was read of the frames' memory map from time to time, whatever its size."""
        self._windows_read += windows
        if self._windows_read * _BYTES_PER_WINDOW >= _MOST_BYTES:
            give_back_pages(self.store.observations)
            self._windows_read = 0

    def _has_padding(self, mask: Tensor) -> bool:
        """Report whether a batch may have padding; asking a GPU would make the CPU wait for it."""
        if self.options.near_end == "shift" and self._shortest >= self.options.context_length:
            return False
        return mask.device.type != "cpu" or not bool(mask.all())

    def _normalize(self, observations: Tensor, mask: Tensor) -> Tensor:
        return (observations - self.state_mean) / self.state_std * mask[..., None]

    def _next_observations(self, index: Tensor, episodes: Tensor) -> Tensor:
        last = index + 1 == self._offsets[episodes + 1][:, None]
        following = _take(self._observations, torch.where(last, index, index + 1))
        final = self._final_observations[episodes][:, None]
        return torch.where(last[..., None], final, following)

    def _steps_of_kept(self) -> NDArray[np.int64] | None:
        """Return the time steps of the kept trajectories, or None when these are all of the store's."""
        return self._steps_of(self.kept_episodes)

    def _steps_of(self, episodes: NDArray[np.int64]) -> NDArray[np.int64] | None:
        offsets, ends = self.store.episode_offsets, self._ends.cpu().numpy()
        if len(episodes) == self.store.num_episodes and np.array_equal(ends, offsets[1:]):
            return None
        return np.concatenate([np.arange(offsets[e], ends[e]) for e in episodes])

    def _state_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._stack is not None:
            return np.zeros(1, np.float32), np.ones(1, np.float32)
        dim = self.store.observation_dim
        if not self.options.normalize_states:
            return np.zeros(dim, np.float32), np.ones(dim, np.float32)
        steps = self._kept_steps
        if self.options.top_by == "steps":
            everything = replace(self.options, top_fraction=1.0)
            steps = self._steps_of(kept_episodes(self.store.episode_returns, everything, self.store.episode_lengths))
        count = self.store.num_steps if steps is None else len(steps)
        chunks = range(0, count, _CHUNK)
        mean = sum(self._chunk(steps, start).sum(axis=0) for start in chunks) / count
        variance = sum(np.square(self._chunk(steps, start) - mean).sum(axis=0) for start in chunks) / count
        return mean.astype(np.float32), (np.sqrt(variance) + self.options.state_std_floor).astype(np.float32)

    def _chunk(self, steps: NDArray[np.int64] | None, start: int) -> NDArray[np.float64]:
        rows: Any = slice(start, start + _CHUNK)
        if steps is not None:
            rows = steps[rows]
        return np.asarray(self.store.observations[rows], dtype=np.float64)


def kept_episodes(
    returns: NDArray[np.float64], options: WindowOptions, lengths: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Choose the trajectories to keep, in the store's order.

    The code of LaMo and of GPT2-DTMA negates the returns and compares strictly, so that even a ratio of 1 loses the
    best trajectory; here 1 keeps all, and `top_fraction` always keeps the best.

    Args:
        returns: (E,) float64, undiscounted returns.
        options: the shares to keep.
        lengths: (E,) int64, steps of each trajectory; needed where `top_by` is `steps`.
    """
    kept = np.arange(len(returns))
    if options.trajectory_ratio < 1:
        generator = np.random.default_rng(np.random.SeedSequence((options.subset_seed, len(returns))))
        kept = np.sort(generator.permutation(len(returns))[: _share(len(returns), options.trajectory_ratio)])
    if options.top_fraction < 1:
        best_first = kept[np.argsort(-returns[kept], kind="stable")]
        count = _share(len(kept), options.top_fraction)
        if options.top_by == "steps" and lengths is not None:
            budget = int(options.top_fraction * lengths[kept].sum())
            count = max(1, int(np.searchsorted(np.cumsum(lengths[best_first]), budget, side="right")))
        kept = np.sort(best_first[:count])
    return kept


def discounted_returns(
    rewards: NDArray[Any], offsets: NDArray[np.int64], ends: NDArray[np.int64], cut: NDArray[np.bool_], discount: float
) -> NDArray[np.float64]:
    """Sum the discounted rewards from each step to its episode's end: (N,) → (N,) float64.

    An episode that is `cut` is continued with its last reward for ever, as in Cal-QL's code for Kitchen, where a time
    limit ended it (JaxCQL/replay_buffer.py, `infinite_horizon`).

    Args:
        rewards: (N,).
        offsets: (E + 1,) int64, the episodes' first steps.
        ends: (E,) int64, the step after the last one that counts; the result is 0 behind it.
        cut: (E,) bool, whether the episode is continued.
        discount: γ.
    """
    found = np.zeros(len(rewards))
    for start, end, endless in zip(offsets[:-1], ends, cut, strict=True):
        value = float(rewards[end - 1]) / (1 - discount) if endless and end > start else 0.0
        for step in range(end - 1, start - 1, -1):
            value = float(rewards[step]) + discount * value
            found[step] = value
    return found


def _ends(store: TrajectoryStore, options: WindowOptions) -> NDArray[np.int64]:
    """Return the step after each episode's last one that windows may hold: (E,) int64."""
    ends: NDArray[np.int64] = np.array(store.episode_offsets[1:], dtype=np.int64)
    if options.drop_timeouts:
        ends -= _cut(store)
    return ends


def _cut(store: TrajectoryStore) -> NDArray[np.bool_]:
    """Say which episodes a time limit ended: (E,) bool."""
    last = store.episode_offsets[1:] - 1
    cut: NDArray[np.bool_] = store.truncations[last] & ~store.terminations[last]
    return cut


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


def _stacks(frames: Tensor, stack: int, mask: Tensor | None) -> Tensor:
    """View frames (B, K + stack − 1, H, W) as stacks (B, K, stack, H, W) without a copy; with a mask, zero padding.

    The frames before a window's first real step belong to its stack and to those of the padding before it, so a view
    cannot show 0 for the latter: a batch with padding is copied.
    """
    stacks = frames.unfold(1, stack, 1).movedim(-1, 2)
    return stacks if mask is None else _zeroed(stacks.clone(memory_format=torch.contiguous_format), ~mask)


def _zeroed(frames: Tensor, where: Tensor) -> Tensor:
    """Set frames (B, T, …) to 0 where (B, T) says so, in place."""
    if frames.device.type == "cpu":  # a few rows; on a GPU, counting them would make the CPU wait
        frames.flatten(0, 1).index_fill_(0, where.flatten().nonzero()[:, 0], 0)
        return frames
    return frames.masked_fill_(where.reshape(*where.shape, *(1,) * (frames.dim() - 2)), 0)
