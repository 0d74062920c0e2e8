"""Measure the reference returns of the `pointmaze-dtma-*` tasks, as given in suites/d4rl-long.yaml.

    python benchmarks/references.py

Random: uniform actions. Expert: the waypoint controller, which stays at the goal. 100 episodes each, seeds 0 to 99.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtbench.data.behaviours.waypoints import Waypoints
from dtbench.environments.make import make_environment
from dtbench.environments.pointmaze import DTMA_MAZES


def episode_return(name: str, seed: int, expert: bool) -> float:
    """Return the undiscounted return of one episode."""
    env: Any = make_environment(f"dtbench/PointMazeDTMA-{name}-v1")
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    walker = Waypoints(DTMA_MAZES[name], env.unwrapped.goal)
    total, over = 0.0, False
    while not over:
        action = walker.act(observation) if expert else rng.uniform(-1, 1, size=2)
        observation, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
        total, over = total + float(reward), terminated or truncated
    env.close()
    return total


def main() -> None:
    """Print the mean returns."""
    for name in DTMA_MAZES:
        for expert in (False, True):
            returns = [episode_return(name, seed, expert) for seed in range(100)]
            who = "expert" if expert else "random"
            print(f"pointmaze-dtma-{name} {who}: {np.mean(returns):.2f} ± {np.std(returns):.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
