"""Roll out a trained SAC actor of Stable-Baselines3 with several noise levels and write D4RL's HDF5 layout.

    python benchmarks/fidelity/roll_out_actor.py --actor HalfCheetah-v3.zip --output data.hdf5

Needs none of Stable-Baselines3: of the archive only `policy.pth` is read, with `weights_only=True`, and the actor is
rebuilt as what it is, an MLP with ReLU between its layers and tanh at its end.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dtbench.determinism import one_thread
from dtbench.environments.make import make_environment

Column = NDArray[np.float32] | NDArray[np.bool_]


def read_actor(archive: Path) -> nn.Sequential:
    """Build the deterministic actor, from observation to the mean action in [−1, 1], from an archive of SB3's."""
    with zipfile.ZipFile(archive) as content:
        weights = torch.load(io.BytesIO(content.read("policy.pth")), map_location="cpu", weights_only=True)
    names = ["actor.latent_pi.0", "actor.latent_pi.2", "actor.mu"]
    layers: list[nn.Module] = []
    for name, follower in zip(names, (nn.ReLU(), nn.ReLU(), nn.Tanh()), strict=True):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, follower]
    return nn.Sequential(*layers)


def roll_out(actor: nn.Module, env_id: str, noise: float, seed: int, steps: int) -> dict[str, Column]:
    """Play one episode with Gaussian noise of standard deviation `noise` on the actions, which are then clipped."""
    env, rng = make_environment(env_id, steps), np.random.default_rng(seed)
    rows: dict[str, list[NDArray[np.float32] | float | bool]] = {}
    observation, over = env.reset(seed=seed)[0], False
    while not over:
        with torch.no_grad():
            action = actor(torch.from_numpy(observation.astype(np.float32))).numpy()
        action = np.clip(action + noise * rng.normal(size=action.shape), -1, 1).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        row = {
            "observations": observation.astype(np.float32),
            "actions": action,
            "rewards": float(reward),
            "next_observations": following.astype(np.float32),
            "terminals": terminated,
            "timeouts": truncated and not terminated,
        }
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
        observation = following
    env.close()
    flags = ("terminals", "timeouts")
    return {key: np.asarray(values, dtype=bool if key in flags else np.float32) for key, values in rows.items()}


def main() -> None:
    """Roll out and write the file."""
    parser = argparse.ArgumentParser(description="Roll out an actor of Stable-Baselines3 into D4RL's HDF5 layout.")
    parser.add_argument("--actor", type=Path, required=True, help="the archive, e.g. HalfCheetah-v3.zip")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.3, 0.6])
    parser.add_argument("--episodes", type=int, default=15, help="per noise level")
    parser.add_argument("--steps", type=int, default=1000, help="length of an episode")
    options = parser.parse_args()
    actor = read_actor(options.actor)
    episodes = []
    with one_thread():
        for level, noise in enumerate(options.noise):
            seeds = range(level * options.episodes, (level + 1) * options.episodes)
            played = [roll_out(actor, options.env, noise, seed, options.steps) for seed in seeds]
            returns = [float(episode["rewards"].sum(dtype=np.float64)) for episode in played]
            spread = f"{np.mean(returns):.0f} ± {np.std(returns):.0f}, {min(returns):.0f} to {max(returns):.0f}"
            print(f"noise {noise}: returns {spread}", flush=True)
            episodes += played
    with h5py.File(options.output, "w") as file:
        for key in episodes[0]:
            values = np.concatenate([episode[key] for episode in episodes])
            file.create_dataset(key, data=values, compression="gzip")


if __name__ == "__main__":
    main()
