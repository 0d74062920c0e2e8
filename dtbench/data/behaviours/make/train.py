"""Train the behaviour policies that the `local` source rolls out (extra `train-behaviours`).

    python -m dtbench.data.behaviours.make.train Hopper-v5 --steps 400000 --output runs/hopper

Soft Actor-Critic (Haarnoja et al., 2018) from stable-baselines3, one environment and one thread per process. Every
`--snapshot-every` environment steps the actor is written as `step-<n>.safetensors`; `make.choose` evaluates the
snapshots, chooses the levels and writes the float16 files that dtbench ships.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SacSettings:
    """Settings of one SAC training; written beside the snapshots and into their card."""

    env_id: str
    total_steps: int
    seed: int = 0
    learning_rate: float = 3e-4
    batch_size: int = 256
    tau: float = 0.005
    gamma: float = 0.99
    train_freq: int = 4
    gradient_steps: int = 2
    learning_starts: int = 5_000
    buffer_size: int = 1_000_000
    width: int = 256
    snapshot_every: int = 10_000


def train(settings: SacSettings, output: Path) -> None:
    """Train SAC and write the actor's snapshots to `output`."""
    import gymnasium as gym
    import torch
    from safetensors.torch import save_file
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    (output / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")

    class Snapshots(BaseCallback):  # type: ignore[misc, unused-ignore]  # the package is an extra
        def _on_training_start(self) -> None:
            self.started = time.monotonic()
            self._save()

        def _on_step(self) -> bool:
            if self.num_timesteps % settings.snapshot_every == 0:
                self._save()
            return True

        def _save(self) -> None:
            actor: Any = self.model.policy.actor
            layers = {
                "hidden.0": actor.latent_pi[0],
                "hidden.1": actor.latent_pi[2],
                "mean": actor.mu,
                "log_std": actor.log_std,
            }
            tensors = {}
            for name, layer in layers.items():
                tensors[f"{name}.weight"] = layer.weight.detach().clone().contiguous()
                tensors[f"{name}.bias"] = layer.bias.detach().clone().contiguous()
            save_file(tensors, output / f"step-{self.num_timesteps:07d}.safetensors")
            recent = [episode["r"] for episode in self.model.ep_info_buffer or []][-20:]
            mean = sum(recent) / len(recent) if recent else float("nan")
            with (output / "progress.csv").open("a", encoding="utf-8") as log:
                log.write(f"{self.num_timesteps},{time.monotonic() - self.started:.0f},{mean:.1f}\n")

    model = SAC(
        "MlpPolicy",
        gym.make(settings.env_id),
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        learning_starts=settings.learning_starts,
        buffer_size=settings.buffer_size,
        policy_kwargs={
            "net_arch": [settings.width, settings.width],
            "optimizer_kwargs": {"fused": True},
        },
        seed=settings.seed,
        device="cpu",
    )
    model.learn(settings.total_steps, callback=Snapshots())


def main() -> None:
    """Run the command."""
    """Read the settings from the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_id")
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=SacSettings.learning_rate)
    parser.add_argument("--tau", type=float, default=SacSettings.tau)
    parser.add_argument("--batch-size", type=int, default=SacSettings.batch_size)
    parser.add_argument("--width", type=int, default=SacSettings.width)
    parser.add_argument("--snapshot-every", type=int, default=SacSettings.snapshot_every)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    settings = SacSettings(
        env_id=args.env_id,
        total_steps=args.steps,
        seed=args.seed,
        learning_rate=args.learning_rate,
        tau=args.tau,
        batch_size=args.batch_size,
        width=args.width,
        snapshot_every=args.snapshot_every,
    )
    train(settings, args.output)


if __name__ == "__main__":
    main()
