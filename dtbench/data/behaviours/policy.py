"""The behaviour policies for rollouts: numpy, read from the shipped safetensors files.

A squashed Gaussian for MuJoCo is here, the softmax policy for Atari in `ram.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from dtbench.data.behaviours import ram
from dtbench.data.behaviours.ram import RamActor
from dtbench.errors import DataError, UnknownNameError

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = WEIGHTS / "behaviours.json"
_LAYERS = ("hidden.0", "hidden.1", "mean", "log_std")
_LOG_STD_RANGE = (-20.0, 2.0)  # stable-baselines3, sac/policies.py

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SacActor:
    """The actor of Soft Actor-Critic: two ReLU layers, then mean and log standard deviation of a squashed Gaussian.

    Args:
        weights: `<layer>.weight` (out, in) and `<layer>.bias` (out,) float32 of the layers hidden.0, hidden.1, mean and
            log_std.
        low: (action_dim,) float32 lower bounds of the action space.
        high: (action_dim,) float32 upper bounds.
    """

    weights: Weights
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def act(
        self, observations: NDArray[Any], rng: np.random.Generator, deterministic: bool = False
    ) -> NDArray[np.float32]:
        """Choose actions: (B, obs_dim) → (B, action_dim) float32 within the bounds."""
        x = np.asarray(observations, dtype=np.float32)
        for layer in _LAYERS[:2]:
            x = np.maximum(self._linear(x, layer), 0)
        action = self._linear(x, "mean")
        if not deterministic:
            std = np.exp(np.clip(self._linear(x, "log_std"), *_LOG_STD_RANGE))
            action += std * rng.standard_normal(action.shape, dtype=np.float32)
        squashed = np.tanh(action)
        return np.clip(self.low + (squashed + 1) / 2 * (self.high - self.low), self.low, self.high)

    def _linear(self, x: NDArray[np.float32], layer: str) -> NDArray[np.float32]:
        return product(x, self.weights[f"{layer}.weight"]) + self.weights[f"{layer}.bias"]


def product(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply (B, in) by a weight (out, in), transposed, to (B, out); a single row alike to the last bit on x86.

    OpenBLAS (`kernel/x86_64/sgemv_t_4.c`) sums inputs in multiples of four with the same instructions everywhere. The
    last one to three it adds in C, which its build fuses (one rounding for a product and its sum) for processors with
    AVX-512 alone. Here they are added as there; without it, an episode soon differs from one processor to another.
    """
    whole = weight.shape[1] // 4 * 4
    y = x[:, :whole] @ weight[:, :whole].T
    rest = [(x[:, i, None], weight[:, i]) for i in range(whole, weight.shape[1])]
    if not rest:
        return y
    if len(rest) == 1:
        return _fused(*rest[0], y)
    total = _fused(*rest[0], rest[1][0] * rest[1][1])
    for pair in rest[2:]:
        total = _fused(*pair, total)
    return y + total


def _fused(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a · b + c, rounded once: in float64 the product of two float32 is exact."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def read_weights(file: Path, prefix: str = "") -> Weights:
    """Read an actor's layers from a safetensors file; `prefix` selects one of several, e.g. `step-0110000/`."""
    with safe_open(file, framework="np") as content:
        names = [f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")]
        return {name: content.get_tensor(prefix + name).astype(np.float32) for name in names}


@cache
def manifest() -> dict[str, Any]:
    """Return what is shipped: environment → settings, file, snapshots and levels (`make/choose.py` writes it)."""
    if not MANIFEST.is_file():
        raise DataError(f"This installation ships no behaviour policies: {MANIFEST} is missing; reinstall dtbench.")
    content: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return content


def environment(name: str) -> dict[str, Any]:
    """Return the manifest's entry of an environment such as `hopper`."""
    if name not in manifest():
        raise UnknownNameError("behaviour environment", name, manifest())
    entry: dict[str, Any] = manifest()[name]
    return entry


def datasets(name: str) -> dict[str, list[int]]:
    """Return what is rolled out in an environment: level → the snapshots that act in it, in equal parts.

    Atari's levels are named in the manifest, as they are called by what they are.
    """
    entry = environment(name)
    if "datasets" in entry:
        named: dict[str, list[int]] = entry["datasets"]
        return named
    levels = entry["levels"]
    return {
        "medium": levels["medium"],
        "medium-replay": levels["replay"],
        "medium-expert": [*levels["medium"], *levels["expert"]],
    }


def is_atari(name: str) -> bool:
    """Return whether an environment of the manifest is a game, whose policy sees the console's memory."""
    return "game" in environment(name)


def load_actor(name: str, step: int) -> SacActor | RamActor:
    """Load a shipped snapshot of an environment's policy, taken after `step` environment steps of training.

    Snapshot 0 of a game acts uniformly at random, and no weights of it are shipped.
    """
    entry = environment(name)
    if is_atari(name):
        if step == 0:
            return RamActor.uniform(entry["actions"])
        return RamActor(ram.read_weights(WEIGHTS / entry["file"], f"step-{step:07d}/"))
    weights = read_weights(WEIGHTS / entry["file"], f"step-{step:07d}/")
    space = entry["action_space"]
    return SacActor(weights, np.array(space["low"], np.float32), np.array(space["high"], np.float32))
