"""Checks that refuse data which cannot be trusted, naming dataset, episode, field and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.data.episodes import Block, Episode
from dtbench.errors import DataError

#: Actions are stored as float32, whose rounding may exceed a bound that was float64.
_ACTION_SLACK = 1e-6


class ActionSpace:
    """A box with bounds (action_dim,), or a number of discrete actions."""

    def __init__(self, low: NDArray[Any] | None, high: NDArray[Any] | None, count: int | None = None) -> None:
        if (low is None) != (high is None) or (low is None) == (count is None):
            raise DataError("An action space is either a low and a high bound, or a number of discrete actions.")
        self.low = None if low is None else np.asarray(low, dtype=np.float32)
        self.high = None if high is None else np.asarray(high, dtype=np.float32)
        self.count = count
        if self.low is not None and self.high is not None and not np.isfinite([self.low, self.high]).all():
            raise DataError("The bounds of an action space must be finite.")

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds, or the number of actions, as JSON values."""
        if self.low is None or self.high is None:
            return {"n": self.count}
        return {"low": self.low.tolist(), "high": self.high.tolist()}


class EpisodeChecker:
    """Checks the episodes of one dataset in their order and casts them to the store's types.

    Args:
        dataset: its id, for the messages.
        space: the actions.
        frames: the observations are frames (height, width) uint8 instead of vectors (obs_dim,).
    """

    def __init__(self, dataset: str, space: ActionSpace, *, frames: bool = False) -> None:
        self.dataset, self.space, self.frames = dataset, space, frames
        self.index = 0
        self.observation_shape: tuple[int, ...] | None = None

    def check(self, given: Episode | Block) -> Block:
        """Return one episode, or a block of them, in the store's types.

        Raises:
            DataError: NaN or infinite values, no steps, wrong dimensions, frames that are not uint8, actions outside
                the action space.
        """
        if isinstance(given, Episode):
            self._check_observations(given)
        block = Block.of(given) if isinstance(given, Episode) else given
        ends = np.cumsum(block.lengths)
        empty = np.flatnonzero(block.lengths <= 0)
        if len(empty) or not len(ends):
            self._refuse(int(empty[0]) if len(empty) else 0, "rewards", "has no steps", "drop it from the source")
        self._check_shapes(block)
        for field in ("actions", "rewards") if self.frames else ("observations", "actions", "rewards"):
            self._check_finite(field, getattr(block, field), ends)
        if not self.frames:
            self._check_final_observations(block)
        self._check_actions(block.actions, ends)
        discrete = self.space.low is None
        kind = np.uint8 if self.frames else np.float32
        checked = Block(
            observations=np.asarray(block.observations, dtype=kind),
            final_observations=np.asarray(block.final_observations, dtype=kind),
            actions=np.asarray(block.actions, dtype=np.int64 if discrete else np.float32),
            rewards=np.asarray(block.rewards, dtype=np.float32),
            terminations=np.asarray(block.terminations, dtype=np.bool_),
            truncations=np.asarray(block.truncations, dtype=np.bool_),
            lengths=block.lengths,
        )
        self._check_ends(checked, ends)
        self.index += len(block.lengths)
        return checked

    def check_totals(self, found: Mapping[str, int], expected: Mapping[str, int] | None) -> None:
        """Compare the totals that were read with those that the source's metadata claim.

        Raises:
            DataError: they differ, as after a broken download.
        """
        for name, claimed in (expected or {}).items():
            if found[name] != claimed:
                raise DataError(
                    f"{self.dataset}: {found[name]:,} {name} were read, its metadata claims {claimed:,}; "
                    "the file is incomplete, download it again."
                )

    def _check_observations(self, episode: Episode) -> None:
        steps, shape = len(episode.rewards), np.shape(episode.observations)
        if steps and (len(shape) != (3 if self.frames else 2) or shape[0] != steps + 1):
            wanted = f"({steps + 1}, {'height, width' if self.frames else 'obs_dim'}) for {steps} steps"
            fix = "give single frames, and keep the last one" if self.frames else "keep the last observation"
            self._refuse(0, "observations", f"has shape {shape}, not {wanted}", fix)

    def _check_shapes(self, block: Block) -> None:
        steps, episodes = int(block.lengths.sum()), len(block.lengths)
        tail = self._observation_tail(block)
        actions = (steps,) if self.space.low is None else (steps, *self.space.low.shape)
        shapes: dict[str, tuple[int, ...]] = {"observations": (steps, *tail), "final_observations": (episodes, *tail)}
        shapes |= {"actions": actions} | dict.fromkeys(("rewards", "terminations", "truncations"), (steps,))
        for field, shape in shapes.items():
            found = np.shape(getattr(block, field))
            if found != shape:
                self._refuse(0, field, f"has shape {found}, not {shape}", "use data of the task's environment")

    def _observation_tail(self, block: Block) -> tuple[int, ...]:
        """Return the shape of one observation, which must be that of the episodes before."""
        shape = np.shape(block.observations)[1:]
        if self.observation_shape is None:
            if self.frames and len(shape) != 2:
                what = f"has shape {np.shape(block.observations)}, not (steps, height, width)"
                self._refuse(0, "observations", what, "give single frames")
            self.observation_shape = shape
        before = self.observation_shape
        if self.frames:
            for field in ("observations", "final_observations"):
                held = np.asarray(getattr(block, field)).dtype
                if held != np.uint8:
                    self._refuse(0, field, f"holds {held}, not uint8", "give frames as bytes of 0 to 255")
        if shape != before and self.frames:
            what = f"has frames of {_size(shape)}, the episodes before have {_size(before)}"
            self._refuse(0, "observations", what, "use data of one environment")
        if shape[-1:] != before[-1:]:
            what = f"has {shape[-1] if shape else 0} dimensions, the episodes before have {before[-1]}"
            self._refuse(0, "observations", what, "use data of one environment")
        return before

    def _check_final_observations(self, block: Block) -> None:
        finals = np.isfinite(block.final_observations).all(axis=1)
        if not finals.all():
            episode = int(np.argmin(finals))
            what = f"has NaN or infinity at step {block.lengths[episode]}"
            self._refuse(episode, "observations", what, "repair the source or drop the episode")

    def _check_finite(self, field: str, values: NDArray[Any], ends: NDArray[np.int64]) -> None:
        if np.isfinite(np.sum(values, dtype=np.float64)):  # a sum is finite only if every value is, and is cheaper
            return
        finite = np.isfinite(values)
        if not finite.all():
            episode, step = self._place(int(np.argwhere(~finite)[0][0]), ends)
            what = f"has {np.asarray(values)[~finite][0]} at step {step}"
            self._refuse(episode, field, what, "repair the source or drop the episode")

    def _check_actions(self, actions: NDArray[Any], ends: NDArray[np.int64]) -> None:
        if self.space.low is None or self.space.high is None:
            outside: NDArray[Any] = (actions < 0) | (actions >= (self.space.count or 0))
            space = f"0 … {(self.space.count or 0) - 1}"
        else:
            low, high = self.space.low - _ACTION_SLACK, self.space.high + _ACTION_SLACK
            outside = np.any((actions < low) | (actions > high), axis=-1)
            space = f"[{self.space.low.min():g}, {self.space.high.max():g}]"
        if outside.any():
            row = int(np.argmax(outside))
            episode, step = self._place(row, ends)
            what = f"has {np.array2string(np.asarray(actions)[row], precision=4)} at step {step}, outside {space}"
            self._refuse(episode, "actions", what, "scale the actions to the environment's action space")

    def _check_ends(self, block: Block, ends: NDArray[np.int64]) -> None:
        marked, last = block.terminations | block.truncations, np.zeros(len(block.rewards), dtype=bool)
        last[ends - 1] = True
        if (marked & ~last).any():
            episode, step = self._place(int(np.argmax(marked & ~last)), ends)
            what = f"end it at step {step} of {block.lengths[episode]}"
            self._refuse(episode, "terminations and truncations", what, "split it there")
        if (last & ~marked).any():
            episode, _ = self._place(int(np.argmax(last & ~marked)), ends)
            fix = "mark its last step as terminated or truncated"
            self._refuse(episode, "terminations and truncations", "do not end it", fix)

    def _place(self, row: int, ends: NDArray[np.int64]) -> tuple[int, int]:
        """Return the episode within the block and the step within the episode of a row."""
        episode = int(np.searchsorted(ends, row, side="right"))
        return episode, row - (int(ends[episode - 1]) if episode else 0)

    def _refuse(self, episode: int, field: str, what: str, fix: str) -> None:
        raise DataError(f"{self.dataset}, episode {self.index + episode}: {field} {what}; {fix}.")


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
