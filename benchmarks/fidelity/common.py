"""What the three implementations share: their settings, the data, and an environment with the interface of old gym."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtbench.environments.make import make_environment
from dtbench.evaluation.rollout import Policy

ENV_ID, HORIZON, SCALE, CONTEXT = "HalfCheetah-v4", 1000, 1000.0, 20
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """The training settings that all sides are given; everything else is what each implementation publishes."""

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 6e-4
    warmup_steps: int = 300
    weight_decay: float = 1e-4
    dropout: float = 0.1


@dataclass(frozen=True)
class Trained:
    """A trained policy.

    Attributes:
        policy: for dtbench's evaluation.
        losses: the training loss of every step, a mean over the real steps of the windows.
        state_mean, state_std: (obs_dim,) float32, with which the side normalises observations.
        own_loop: the side's own evaluation of one target with one episode per seed, or None.
    """

    policy: Policy
    losses: list[float]
    state_mean: NDArray[np.float32]
    state_std: NDArray[np.float32]
    own_loop: Any = None


@dataclass(frozen=True)
class Acting:
    """A reference network as a policy of dtbench's.

    Attributes:
        model: the network.
        predict: (model, window) → the actions of the window's steps (B, K', action_dim), the last step's last.
    """

    model: nn.Module
    predict: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    context_length: int = CONTEXT

    def act(self, window: dict[str, Tensor]) -> Tensor:
        """Choose the actions of the last steps."""
        return self.predict(self.model, window)[:, -1]


def read_columns(file: Path) -> Columns:
    """Read D4RL's HDF5 layout: one array per column."""
    with h5py.File(file) as content:
        return {key: content[key][:] for key in content}


def split_episodes(columns: Columns) -> list[Columns]:
    """Split the columns at `terminals` and `timeouts`."""
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    return [
        {key: values[start:end] for key, values in columns.items()}
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


class OldGym:
    """The environment with the interface of gym before 0.26, which both reference programs call.

    Args:
        columns: what `get_dataset` returns, D4RL's addition to gym.
        seeds: of the resets, one after the other; None where the environment is only asked for its spaces.
    """

    def __init__(self, columns: Columns | None = None, seeds: list[int] | None = None) -> None:
        self.env = make_environment(ENV_ID, HORIZON)
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self.columns, self.seeds = columns, iter(seeds or [])

    def reset(self) -> NDArray[np.float64]:
        """Return the first observation."""
        return self.env.reset(seed=next(self.seeds))[0]

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, dict[str, Any]]:
        """Return observation, reward, whether the episode is over, and nothing."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, float(reward), terminated or truncated, {}

    def get_dataset(self) -> Columns:
        """Return the data."""
        assert self.columns is not None
        return self.columns


def seed_everything(seed: int) -> None:
    """Seed the global generators that the reference programs draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def stand_ins(folder: Path, **modules: dict[str, Any]) -> Iterator[None]:
    """Let modules be imported from `folder`, with stand-ins for packages that are not installed or have changed.

    Args:
        folder: put first on the path inside the block.
        modules: the stand-ins' contents by their names, in which `__` stands for a dot.
    """
    fakes: dict[str, ModuleType] = {}
    for name, content in modules.items():
        fake = fakes[name.replace("__", ".")] = ModuleType(name.replace("__", "."))
        vars(fake).update(content)
    before = {name: sys.modules.get(name) for name in fakes}
    sys.path.insert(0, str(folder))
    sys.modules.update(fakes)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def progress(side: str, losses: list[float]) -> None:
    """Print the loss now and then."""
    if len(losses) % 250 == 0:
        print(f"{side}: step {len(losses)}, loss {np.mean(losses[-100:]):.4f}", flush=True)


def nothing(*_: Any, **__: Any) -> SimpleNamespace:
    """Take any arguments and do nothing."""
    return SimpleNamespace()
