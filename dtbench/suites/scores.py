"""Normalised scores: each episode's return on the 0–1 scale between a random and an expert reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ReferenceScores:
    """Two returns that define the 0–1 scale, and the name of the table they come from (it travels with the score)."""

    table: str
    random: float
    expert: float

    def normalize(self, returns: ArrayLike) -> NDArray[np.float64]:
        """Map episode returns to the 0–1 scale, element by element.

        Normalise first and take mean and spread afterwards: a standard deviation must never be sent through this
        affine map, whose offset does not belong to it.

        >>> ReferenceScores("d4rl", random=-20.272305, expert=3234.3).normalize([3234.3]).tolist()
        [1.0]
        """
        return (np.asarray(returns, dtype=np.float64) - self.random) / (self.expert - self.random)
