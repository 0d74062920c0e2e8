"""Hand-written behaviours: each episode has an intention of its own, so the mean of all actions is no good policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtbench.data.behaviours.waypoints import Act, walk_from_place_to_place, walk_half_way, walk_then_act_randomly
from dtbench.environments.pointmaze import D4RL_MAZES, DTMA_HORIZON, DTMA_MAZES, STITCH_MAZES
from dtbench.environments.reacher2d import HORIZON as REACHER_HORIZON
from dtbench.environments.reacher2d import LINKS, MOUNTED
from dtbench.environments.toys import BanditChain, PointToGoal, Stitch


@dataclass(frozen=True)
class Scripted:
    """A behaviour and its environment: `begin` starts an episode with an intention drawn from the generator.

    `recipe` is the behaviour's name in the dataset's metadata. Where `horizon` is given, every episode has that many
    steps, and a dataset holds whole episodes only, at most `most_episodes`. `version` changes whenever the data would.
    """

    env_id: str
    begin: Callable[[np.random.Generator], Act]
    recipe: str
    horizon: int | None = None
    most_episodes: int | None = None
    version: int = 1


def _noisy(action: NDArray[np.floating] | list[float], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    return np.clip(np.asarray(action) + scale * rng.standard_normal(len(action)), -1, 1).astype(np.float32)


def pull_any_arm(rng: np.random.Generator) -> Act:
    """Pull one of the arms, all equally likely, a little off its middle; then act at random, which changes nothing."""
    pull = BanditChain.centre(int(rng.integers(len(BanditChain.WORTH)))) + rng.uniform(-0.1, 0.1)

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.array([pull if observation[0] else rng.uniform(-0.5, 0.5)], dtype=np.float32)

    return act


def seek_or_shun(rng: np.random.Generator) -> Act:
    """Go to the goal (in 2 of 5 episodes) or away from it in each of two rooms; one episode in six reaches both."""
    seeks = rng.random(2) < 0.4

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        intention = seeks[0 if observation[0] else 1]
        return _noisy([observation[3] * (1 if intention else -1)], 0.2, rng)

    return act


def three_ways(rng: np.random.Generator) -> Act:
    """Go to the goal (3 of 10 episodes), to the opposite corner (4 of 10), or anywhere (3 of 10)."""
    goal = (PointToGoal.GOAL, -PointToGoal.GOAL, None)[rng.choice(3, p=(0.3, 0.4, 0.3))]

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        if goal is None:
            return rng.uniform(-1, 1, size=2).astype(np.float32)
        return _noisy(np.clip((goal - observation) / PointToGoal.STRIDE, -1, 1), 0.2, rng)

    return act


def west_or_east(rng: np.random.Generator) -> Act:
    """Enter the hall of `Stitch`; walkers from the east leave by the right-hand door, those from the west never do.

    Walkers from the west keep well away from the pit, each at a distance of its own, which decides what it is paid.
    """
    pace, walked, from_west = rng.uniform(-0.4, 0.2), -1, False

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        nonlocal walked, from_west
        walked += 1
        from_west = bool(observation[0] == 0) if walked == 0 else from_west
        if walked < Stitch.ENTRANCE:
            return _noisy([pace if from_west else 0.8], 0.05, rng)
        if observation[2]:
            return _noisy([-0.6 if from_west else 0.6], 0.05, rng)
        return rng.uniform(-0.5, 0.5, size=1).astype(np.float32)

    return act


def reach_hesitantly(rng: np.random.Generator) -> Act:
    """Turn the joints until the fingertip meets the target; each episode draws its own strength and noise.

    The joint angles are the closed form for a two-link arm; the elbow bends to the side on which its limits leave more
    room. Strengths are drawn so that the mean return, 40.3 of 100, is near that of the papers' medium data (36.0).
    """
    strength, noise = rng.uniform(*_STRENGTH), rng.uniform(*_NOISE)

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        angles = np.arctan2(observation[0:2], observation[2:4])
        wanted = _joint_angles(observation[8:10])
        away = (wanted - angles + np.pi) % (2 * np.pi) - np.pi
        away[1] = wanted[1] - angles[1]  # the elbow has limits and cannot go round
        speeds = observation[4:6] / _REACHER_SECONDS
        return _noisy(np.clip(strength * (away - _REACHER_DAMPING * speeds), -1, 1), noise, rng)

    return act


def _joint_angles(target: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the shoulder and elbow angles that bring the fingertip to `target` (2,), or as close as possible."""
    upper, lower = LINKS
    cosine = (target @ target - upper**2 - lower**2) / (2 * upper * lower)
    bend = float(np.arccos(np.clip(cosine, -1, 1)))
    direction = np.arctan2(target[1], target[0])
    shoulder = direction - np.arctan2(lower * np.sin(bend), upper + lower * np.cos(bend))
    angles: NDArray[np.float64] = np.array([shoulder, bend]) - MOUNTED
    return angles


#: Seconds per step, how many seconds ahead `reach_hesitantly` brakes, and the ranges that it draws from.
_REACHER_SECONDS, _REACHER_DAMPING = 0.15, 1.0
_STRENGTH, _NOISE = (0.0, 3.0), (0.0, 1.0)

SCRIPTED = {
    "reacher2d-medium": Scripted(
        "dtbench/Reacher2d-v0", reach_hesitantly, "reach_hesitantly", REACHER_HORIZON, most_episodes=50
    ),
    "bandit-chain": Scripted("dtbench/BanditChain-v0", pull_any_arm, "pull_any_arm"),
    "key-to-door": Scripted("dtbench/KeyToDoor-v0", seek_or_shun, "seek_or_shun"),
    "stitch": Scripted("dtbench/Stitch-v0", west_or_east, "west_or_east"),
    "point-to-goal": Scripted("dtbench/PointToGoal-v0", three_ways, "three_ways"),
    **{
        f"pointmaze-{name}{reward}": Scripted(
            f"dtbench/PointMaze-{name}{reward}-v0",
            walk_from_place_to_place(maze),
            "waypoints, goal after goal",
            horizon,
            version=2,
        )
        for name, (maze, horizon) in D4RL_MAZES.items()
        for reward in ("", "-dense")
    },
    **{
        f"pointmaze-dtma-{name}": Scripted(
            f"dtbench/PointMazeDTMA-{name}-v1",
            walk_then_act_randomly(maze),
            "waypoints, then random actions",
            DTMA_HORIZON,
            most_episodes=1_000,
            version=3,
        )
        for name, maze in DTMA_MAZES.items()
    },
    **{
        f"pointmaze-stitch-{name}": Scripted(
            f"dtbench/PointMazeHalves-{name}-v0",
            walk_half_way(maze, middle, horizon),
            "waypoints, half of the way",
            horizon,
            most_episodes=1_000,
        )
        for name, (maze, horizon, middle) in STITCH_MAZES.items()
    },
}
