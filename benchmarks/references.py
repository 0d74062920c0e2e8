"""Measure the reference returns of `pointmaze-dtma-*` and `pointmaze-stitch-*`, as given in their suites' files.

    python benchmarks/references.py

Random: uniform actions. Expert: the waypoint controller, which stays at the goal. 100 episodes each, seeds 0 to 99.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from dtbench.data.behaviours.waypoints import Waypoints
from dtbench.environments.make import make_environment
from dtbench.environments.pointmaze import DTMA_MAZES

#: Task without its maze → its environment.
ENVIRONMENTS = {"pointmaze-dtma": "dtbench/PointMazeDTMA-{}-v1", "pointmaze-stitch": "dtbench/PointMazeStitch-{}-v0"}


def episode_return(name: str, seed: int, expert: bool, task: str = "pointmaze-dtma") -> float:
    """Return the undiscounted return of one episode."""
    env: Any = make_environment(ENVIRONMENTS[task].format(name))
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
    for task, name, expert in itertools.product(ENVIRONMENTS, DTMA_MAZES, (False, True)):
        returns = [episode_return(name, seed, expert, task) for seed in range(100)]
        who = "expert" if expert else "random"
        print(f"{task}-{name} {who}: {np.mean(returns):.2f} ± {np.std(returns):.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
