"""Normalised scores: each episode's return on the 0–1 scale between a random and an expert reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dtbench.errors import ConfigError
from dtbench.suites import fields


@dataclass(frozen=True)
class ReferenceScores:
    """Two returns that define the 0–1 scale, and the name of the table they come from (shown with every score).

    Raises:
        ConfigError: a return that is not finite, or two equal ones.
    """

    table: str
    random: float
    expert: float

    def __post_init__(self) -> None:
        """Check every field."""
        object.__setattr__(self, "table", fields.text(self.table, "table"))
        object.__setattr__(self, "random", fields.number(self.random, "random"))
        object.__setattr__(self, "expert", fields.number(self.expert, "expert"))
        if self.random == self.expert:
            raise ConfigError(f"random and expert must differ, both are {self.random:g}.")

    def normalize(self, returns: ArrayLike) -> NDArray[np.float64]:
        """Map episode returns to the 0–1 scale, element by element.

        Normalise first and take mean and spread afterwards: this affine map has an offset, which a standard deviation
        must not be shifted by.

        >>> ReferenceScores("d4rl", random=-20.272305, expert=3234.3).normalize([3234.3]).tolist()
        [1.0]
        """
        return (np.asarray(returns, dtype=np.float64) - self.random) / (self.expert - self.random)
