"""Train the Atari behaviours that the `local` source rolls out (extras `train-behaviours` and `atari`).

    python -m dtbench.data.behaviours.make.train_atari pong --steps 4000000 --output runs/pong

Proximal Policy Optimisation (Schulman et al., 2017) from stable-baselines3 on the console's memory, in one process and
one thread: run a game per core. Steps are the environment's, four frames each, of all eight games together. An episode
of the training is one life, and rewards are signs; the curve shows whole games and raw returns. FIRE is pressed at the
start of a life where nothing happens without it.

Every `--snapshot-every` steps the actor is written as `step-<n>.safetensors`, a line is added to `progress.csv`, and
the state of the training is saved in `checkpoint.safetensors`. The same command, also with more `--steps`, resumes from
it; SIGTERM and Ctrl-C save it first. A resumed training starts new games, so its snapshots differ from those of one
that was never interrupted. `make.choose_atari` evaluates the snapshots and chooses the levels.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dtbench.atomic import replacing
from dtbench.data.behaviours.ram import FEATURES, FIRE, NEEDS_FIRE, features
from dtbench.environments.atari import env_id
from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError

COLUMNS = ("steps", "seconds", "games", "return_mean", "return_std", "length_mean")
#: Games over which a line of the curve takes its mean.
RECENT = 20


@dataclass(frozen=True)
class PpoSettings:
    """Settings of one PPO training; written beside the snapshots and into their card."""

    game: str
    seed: int = 0
    environments: int = 8
    steps_per_update: int = 128
    batch_size: int = 256
    epochs: int = 4
    learning_rate: float = 3e-4
    entropy: float = 0.01
    clip: float = 0.1
    gamma: float = 0.99
    gae_lambda: float = 0.95
    width: int = 256
    snapshot_every: int = 102_400


class Lives(gym.Env[NDArray[np.float32], int]):
    """A game of which each life is an episode: `features` of the memory, and the signs of the rewards.

    When the game itself is over, `info["game"]` is its (raw return, length in steps).
    """

    def __init__(self, game: str) -> None:
        self.env = make_environment(env_id(game), kwargs={"ram": True})
        self.serves = game in NEEDS_FIRE
        self.observation_space = gym.spaces.Box(-2, 2, (FEATURES,), np.float32)
        self.action_space = self.env.action_space
        self.over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if self.over or seed is not None:
            self.ram, info = self.env.reset(seed=seed)
            self.previous, self.lives = self.ram, info["lives"]
            self.raw, self.length, self.over = 0.0, 0, False
        if self.serves:
            self._advance(FIRE)
        return features(self.ram, self.previous), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward, terminated, truncated, lives = self._advance(int(action))
        lost, self.lives = lives < self.lives, lives
        self.over = terminated or truncated
        info = {"game": (self.raw, self.length)} if self.over else {}
        return features(self.ram, self.previous), float(np.sign(reward)), terminated or lost, truncated, info

    def close(self) -> None:
        self.env.close()

    def _advance(self, action: int) -> tuple[float, bool, bool, int]:
        self.previous = self.ram
        self.ram, reward, terminated, truncated, info = self.env.step(action)
        self.raw += float(reward)
        self.length += 1
        return float(reward), terminated, truncated, info["lives"]


class Training:
    """A PPO model, its folder, and how far it has come.

    Args:
        settings: of the training.
        output: its folder; an earlier training of the same settings in it is resumed.

    Raises:
        ConfigError: the folder holds a training of other settings.
    """

    def __init__(self, settings: PpoSettings, output: Path) -> None:
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import DummyVecEnv
        from torch import nn, set_num_threads

        set_num_threads(1)
        self.settings, self.output = settings, output
        self._claim_folder()
        self.model: Any = PPO(
            "MlpPolicy",
            DummyVecEnv([lambda: Lives(settings.game)] * settings.environments),
            n_steps=settings.steps_per_update,
            batch_size=settings.batch_size,
            n_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            ent_coef=settings.entropy,
            clip_range=settings.clip,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            policy_kwargs={"net_arch": [settings.width] * 2, "activation_fn": nn.ReLU},
            seed=settings.seed,
            device="cpu",
        )
        self.games: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.games_played, self.seconds = 0, 0.0
        if self._checkpoint.is_file():
            self._load()

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return int(self.model.num_timesteps)

    def run(self, total_steps: int) -> bool:
        """Train until `total_steps`; return False if a signal came before."""
        with _signals_noted() as signals:
            if not self._snapshot(self.steps).is_file():
                self._write()
            due = self.steps + self.settings.snapshot_every
            while self.steps < total_steps and not signals:
                self._update()
                if self.steps >= due or self.steps >= total_steps or signals:
                    due = self.steps + self.settings.snapshot_every
                    self._save()
                    self._write()
        return not signals

    def _update(self) -> None:
        """Play one round of all games, and learn from it."""
        started = time.monotonic()
        steps = self.settings.steps_per_update * self.settings.environments
        self.model.learn(steps, callback=self._note_games, reset_num_timesteps=False)
        self.seconds += time.monotonic() - started

    def _note_games(self, local: dict[str, Any], _: dict[str, Any]) -> bool:
        for info in local["infos"]:
            if "game" in info:
                self.games.append(info["game"])
                self.games_played += 1
        return True

    def _claim_folder(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        file, content = self.output / "settings.json", json.dumps(asdict(self.settings), indent=2) + "\n"
        if file.is_file() and file.read_text(encoding="utf-8") != content:
            raise ConfigError(f"{file} is of a training with other settings; choose another --output.")
        file.write_text(content, encoding="utf-8")

    def _snapshot(self, steps: int) -> Path:
        return self.output / f"step-{steps:07d}.safetensors"

    @property
    def _checkpoint(self) -> Path:
        return self.output / "checkpoint.safetensors"

    def _write(self) -> None:
        """Write the actor, and a line of the curve."""
        from safetensors.torch import save_file

        policy = self.model.policy
        network = policy.mlp_extractor.policy_net
        layers = {"hidden.0": network[0], "hidden.1": network[2], "logits": policy.action_net}
        tensors = {
            f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()
        }
        save_file(tensors, self._snapshot(self.steps))
        returns, lengths = zip(*self.games, strict=True) if self.games else ((np.nan,), (np.nan,))
        figures = (np.mean(returns), np.std(returns), np.mean(lengths))
        curve = self.output / "progress.csv"
        is_new = not curve.is_file()
        with curve.open("a", encoding="utf-8", newline="") as content:
            rows = csv.writer(content)
            if is_new:
                rows.writerow(COLUMNS)
            rows.writerow([self.steps, round(self.seconds), self.games_played, *(f"{value:.1f}" for value in figures)])

    def _save(self) -> None:
        """Write weights, optimiser and counts, as a whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"policy/{name}": value for name, value in self.model.policy.state_dict().items()}
        for index, state in self.model.policy.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
        counts = {"steps": self.steps, "games_played": self.games_played, "seconds": self.seconds}
        with replacing(self._checkpoint) as file:
            save_file(tensors, file, metadata={"counts": json.dumps({**counts, "games": list(self.games)})})

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self._checkpoint, framework="pt") as content:
            counts = json.loads(content.metadata()["counts"])
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # it is no dict
        policy, optimizer = self.model.policy, self.model.policy.optimizer
        parts = {name.removeprefix("policy/"): value for name, value in tensors.items() if name.startswith("policy/")}
        policy.load_state_dict(parts)
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.model.num_timesteps = counts["steps"]
        self.games_played, self.seconds = counts["games_played"], counts["seconds"]
        self.games.extend((raw, length) for raw, length in counts["games"])
        self.model.set_random_seed(self.settings.seed + counts["steps"])  # not the games that it began with


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of ending at once: an update must not be cut in the middle."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Read the settings from the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("game", help="ale-py's name, e.g. breakout")
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=PpoSettings.seed)
    parser.add_argument("--learning-rate", type=float, default=PpoSettings.learning_rate)
    parser.add_argument("--entropy", type=float, default=PpoSettings.entropy)
    parser.add_argument("--gamma", type=float, default=PpoSettings.gamma)
    parser.add_argument("--width", type=int, default=PpoSettings.width)
    parser.add_argument("--snapshot-every", type=int, default=PpoSettings.snapshot_every)
    parser.add_argument("--output", type=Path, required=True)
    args = vars(parser.parse_args())
    total_steps, output = args.pop("steps"), args.pop("output")
    try:
        finished = Training(PpoSettings(**args), output).run(total_steps)
    except ConfigError as error:
        parser.error(str(error))
    if not finished:
        raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
