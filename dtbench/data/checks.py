"""Data that cannot be trusted are refused, naming dataset, episode and field, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.data.store import Episode
from dtbench.errors import DataError

#: Actions are stored as float32; a bound that was float64 may be passed by its rounding.
_ACTION_SLACK = 1e-6


class ActionSpace:
    """A box with bounds (action_dim,), or a number of discrete actions."""

    def __init__(self, low: NDArray[Any] | None, high: NDArray[Any] | None, count: int | None = None) -> None:
        if (low is None) != (high is None) or (low is None) == (count is None):
            raise DataError("An action space is either a low and a high bound, or a number of discrete actions.")
        self.low = None if low is None else np.asarray(low, dtype=np.float32)
        self.high = None if high is None else np.asarray(high, dtype=np.float32)
        self.count = count

    def to_dict(self) -> dict[str, Any]:
        if self.low is None or self.high is None:
            return {"n": self.count}
        return {"low": self.low.tolist(), "high": self.high.tolist()}


class EpisodeChecker:
    """Checks the episodes of one dataset in their order and casts them to the store's types."""

    def __init__(self, dataset: str, space: ActionSpace) -> None:
        self.dataset, self.space = dataset, space
        self.index = 0
        self.observation_dim: int | None = None

    def check(self, episode: Episode) -> Episode:
        """Return the episode in the store's types.

        Raises:
            DataError: NaN or infinite values, no steps, wrong dimensions, actions outside the action space.
        """
        steps = len(episode.rewards)
        if steps == 0:
            self._refuse("rewards", "has no steps", "drop the episode from the source")
        self._check_shapes(episode, steps)
        for field in ("observations", "actions", "rewards"):
            self._check_finite(field, getattr(episode, field))
        self._check_actions(episode.actions)
        discrete = self.space.low is None
        checked = Episode(
            observations=np.asarray(episode.observations, dtype=np.float32),
            actions=np.asarray(episode.actions, dtype=np.int64 if discrete else np.float32),
            rewards=np.asarray(episode.rewards, dtype=np.float32),
            terminations=np.asarray(episode.terminations, dtype=np.bool_),
            truncations=np.asarray(episode.truncations, dtype=np.bool_),
        )
        self._check_ends(checked)
        self.index += 1
        return checked

    def check_totals(self, found: Mapping[str, int], expected: Mapping[str, int] | None) -> None:
        """Compare the totals that were read with those the source's metadata claims.

        Raises:
            DataError: they differ, as after a broken download.
        """
        for name, claimed in (expected or {}).items():
            if found[name] != claimed:
                raise DataError(
                    f"{self.dataset}: {found[name]:,} {name} were read, its metadata says {claimed:,}; "
                    "the file is incomplete, fetch it again."
                )

    def _check_shapes(self, episode: Episode, steps: int) -> None:
        observations = np.asarray(episode.observations)
        if observations.ndim != 2 or len(observations) != steps + 1:
            wanted = f"({steps + 1}, obs_dim) for {steps} steps"
            self._refuse("observations", f"has shape {observations.shape}, not {wanted}", "keep the last observation")
        if self.observation_dim is None:
            self.observation_dim = observations.shape[1]
        if observations.shape[1] != self.observation_dim:
            what = f"has {observations.shape[1]} dimensions, the episodes before have {self.observation_dim}"
            self._refuse("observations", what, "use data of one environment")
        actions = (steps,) if self.space.low is None else (steps, *self.space.low.shape)
        shapes = {"actions": actions, "rewards": (steps,), "terminations": (steps,), "truncations": (steps,)}
        for field, shape in shapes.items():
            found = np.shape(getattr(episode, field))
            if found != shape:
                self._refuse(field, f"has shape {found}, not {shape}", "use data of the task's environment")

    def _check_finite(self, field: str, values: NDArray[Any]) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            what = f"has {np.asarray(values)[~finite][0]} at step {step}"
            self._refuse(field, what, "repair the source or drop the episode")

    def _check_actions(self, actions: NDArray[Any]) -> None:
        if self.space.low is None or self.space.high is None:
            outside: NDArray[Any] = (actions < 0) | (actions >= (self.space.count or 0))
            space = f"0 … {(self.space.count or 0) - 1}"
        else:
            outside = np.any(
                (actions < self.space.low - _ACTION_SLACK) | (actions > self.space.high + _ACTION_SLACK), axis=-1
            )
            space = f"[{self.space.low.min():g}, {self.space.high.max():g}]"
        if outside.any():
            step = int(np.argmax(outside))
            what = f"has {np.array2string(np.asarray(actions)[step], precision=4)} at step {step}, outside {space}"
            self._refuse("actions", what, "scale the actions to the environment's action space")

    def _check_ends(self, episode: Episode) -> None:
        ends = episode.terminations | episode.truncations
        if ends[:-1].any():
            step = int(np.argmax(ends))
            self._refuse("terminations and truncations", f"end it at step {step} of {len(ends)}", "split it there")
        if not ends[-1]:
            fix = "mark its last step as terminated or truncated"
            self._refuse("terminations and truncations", "do not end it", fix)

    def _refuse(self, field: str, what: str, fix: str) -> None:
        raise DataError(f"{self.dataset}, episode {self.index}: {field} {what}; {fix}.")
