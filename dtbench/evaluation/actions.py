"""From a policy's outputs to the actions that the environments get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtbench.spaces import Continuous, Discrete

SAMPLED = "sampled"
#: Set the draws of actions, and the policy's own, apart from whatever else is drawn from an environment's seed.
_STREAM, _OWN_STREAM = 1, 2


class ActionChoice:
    """Chooses each environment's action from its row of the policy's outputs.

    Every environment has random numbers of its own, a function of its seed, so that episodes are the same whether they
    are evaluated together or one by one.

    Args:
        space: the environments' actions.
        seeds: of the environments.
        how: `greedy`, or `sampled` from the softmax at temperature 1; for discrete actions.
        random_share: share of discrete actions that are drawn uniformly instead.
    """

    def __init__(self, space: Continuous | Discrete, seeds: Sequence[int], how: str, random_share: float) -> None:
        self.space, self.how, self.random_share = space, how, random_share
        self._generators = [np.random.default_rng(np.random.SeedSequence((seed, _STREAM))) for seed in seeds]

    def __call__(self, outputs: Tensor, rows: NDArray[np.int_]) -> tuple[Tensor, NDArray[Any]]:
        """Choose the actions of the environments `rows`.

        Args:
            outputs: (len(rows), action size) float32.
            rows: the running environments.

        Returns:
            The actions as later windows show them (not clipped), and as the environments take them.
        """
        if isinstance(self.space, Continuous):
            return outputs, np.clip(outputs.cpu().numpy(), self.space.low, self.space.high, dtype=np.float32)
        logits = outputs.double().cpu().numpy()
        chosen = np.array([self._choose(row, self._generators[env]) for row, env in zip(logits, rows, strict=True)])
        return torch.from_numpy(chosen).to(outputs.device), chosen

    def _choose(self, logits: NDArray[np.float64], generator: np.random.Generator) -> int:
        if self.random_share and generator.random() < self.random_share:
            return int(generator.integers(len(logits)))
        if self.how == SAMPLED:  # the largest of logits with Gumbel noise is distributed as their softmax
            return int(np.argmax(logits + generator.gumbel(size=len(logits))))
        return int(np.argmax(logits))


class Draws:
    """The random numbers of policies that draw: a row per environment, a function of its seed and of the step.

    Args:
        seeds: of the environments.
        count: numbers per action.
    """

    def __init__(self, seeds: Sequence[int], count: int) -> None:
        self.count = count
        self._generators = [np.random.default_rng(np.random.SeedSequence((seed, _OWN_STREAM))) for seed in seeds]

    def __call__(self) -> Tensor:
        """Draw the numbers of one step: (environments, count) float32, uniform in [0, 1)."""
        numbers = [generator.random(self.count, dtype=np.float32) for generator in self._generators]
        return torch.from_numpy(np.stack(numbers))
