"""Behaviours for Atari that see the console's memory: a softmax policy in numpy, and how it plays a game.

128 bytes say all that the screen shows, so a small network plays without convolutions, and no frame is drawn while it
learns. The models of the benchmark see frames; these are recorded while such a policy plays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

RAM_SIZE = 128
FEATURES = 2 * RAM_SIZE
LAYERS = ("hidden.0", "hidden.1", "logits")
#: Games in which nothing happens until FIRE is pressed, at the start of each life.
NEEDS_FIRE = frozenset({"breakout"})
FIRE = 1

Weights = dict[str, NDArray[np.float32]]


def features(ram: NDArray[np.uint8], previous: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the policy sees, (256,) float32: the memory (128,) in [−1, 1], and its change since `previous`.

    >>> features(np.full(128, 255, np.uint8), np.zeros(128, np.uint8))[[0, 128]].tolist()
    [1.0, 2.0]
    """
    now = ram.astype(np.float32) / 127.5 - 1
    return np.concatenate((now, now - (previous.astype(np.float32) / 127.5 - 1)))


@dataclass(frozen=True)
class RamActor:
    """The actor of PPO: two ReLU layers, then one logit per action.

    Args:
        weights: `<layer>.weight` (out, in) and `<layer>.bias` (out,) float32 of the layers hidden.0, hidden.1, logits.
    """

    weights: Weights

    @classmethod
    def uniform(cls, actions: int) -> RamActor:
        """Return the actor of a training's start, whatever its weights: all actions are equally likely.

        stable-baselines3 starts the last layer at a hundredth of the others' scale.
        """
        sizes = zip(LAYERS, (1, 1, actions), (FEATURES, 1, 1), strict=True)
        weights: Weights = {}
        for layer, rows, columns in sizes:
            weights[f"{layer}.weight"] = np.zeros((rows, columns), np.float32)
            weights[f"{layer}.bias"] = np.zeros(rows, np.float32)
        return cls(weights)

    def logits(self, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one number per action for observations: (…, 256) → (…, n) float32."""
        x = seen
        for layer in LAYERS[:2]:
            x = np.maximum(self._linear(x, layer), 0)
        return self._linear(x, LAYERS[2])

    def sample(self, seen: NDArray[np.float32], rng: np.random.Generator) -> int:
        """Draw an action from the softmax of one observation's logits (256,): the largest after Gumbel noise."""
        logits = self.logits(seen)
        return int(np.argmax(logits + rng.gumbel(size=logits.shape)))

    def _linear(self, x: NDArray[np.float32], layer: str) -> NDArray[np.float32]:
        return x @ self.weights[f"{layer}.weight"].T + self.weights[f"{layer}.bias"]


@dataclass
class RamPlayer:
    """One game's player: it remembers the memory before, and serves in games that need FIRE.

    With `serves`, the first action of each life is FIRE, as in the training.
    """

    actor: RamActor
    serves: bool
    rng: np.random.Generator
    _previous: NDArray[np.uint8] | None = field(default=None, init=False)
    _lives: int = field(default=-1, init=False)

    def act(self, ram: NDArray[np.uint8], lives: int) -> int:
        """Choose the next action from the memory (128,) and the number of lives left."""
        seen = features(ram, ram if self._previous is None else self._previous)
        begins = lives != self._lives
        self._previous, self._lives = ram, lives
        return FIRE if self.serves and begins else self.actor.sample(seen, self.rng)


def read_weights(file: Path, prefix: str = "") -> Weights:
    """Read an actor's layers from a safetensors file; `prefix` selects one of several, e.g. `step-0110000/`."""
    with safe_open(file, framework="np") as content:
        names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
        return {name: content.get_tensor(prefix + name).astype(np.float32) for name in names}
