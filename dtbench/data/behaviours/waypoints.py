"""A controller that follows waypoints through a maze, as the public PointMaze data were made.

Breadth-first search on the map gives the cells to cross, a PD controller on the position (p 10, d −1) steers to their
middles and at last to the goal itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dtbench.mazes import Cell, Maze

#: (obs_dim,) → (action_dim,) float32.
Act = Callable[[NDArray[np.floating]], NDArray[np.float32]]

GAIN_P, GAIN_D = 10.0, -1.0
#: A waypoint is passed at this distance; a goal is reached where gymnasium-robotics says so.
_PASSED, REACHED = 0.1, 0.45
#: Standard deviation of the noise on the actions of D4RL's maze2d data.
_NOISE = 0.5


class Waypoints:
    """Steers to a place in a maze; observations begin with (x, y, velocity x, velocity y)."""

    def __init__(self, maze: Maze, goal: NDArray[np.floating]) -> None:
        self.maze, self.goal = maze, np.asarray(goal, dtype=np.float64)
        self.way: list[Cell] | None = None

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the action before any noise, clipped to [−1, 1]."""
        position, velocity = observation[:2], observation[2:4]
        if self.way is None:
            self.way = self.maze.path(self.maze.cell(position), self.maze.cell(self.goal))[1:]
        while len(self.way) > 1 and np.linalg.norm(self.maze.centre(self.way[0]) - position) <= _PASSED:
            self.way.pop(0)
        target = self.maze.centre(self.way[0]) if len(self.way) > 1 else self.goal
        return np.clip(GAIN_P * (target - position) + GAIN_D * velocity, -1, 1)

    def has_reached(self, observation: NDArray[np.floating]) -> bool:
        return bool(np.linalg.norm(observation[:2] - self.goal) <= REACHED)


def then_anything(maze: Maze) -> Callable[[np.random.Generator], Act]:
    """GPT2-DTMA's recipe: go to the episode's goal (the last two numbers seen), then act at random."""

    def begin(rng: np.random.Generator) -> Act:
        walker: Waypoints | None = None
        arrived = False

        def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
            nonlocal walker, arrived
            walker = walker or Waypoints(maze, observation[-2:])
            arrived = arrived or walker.has_reached(observation)
            action = rng.uniform(-1, 1, size=2) if arrived else walker.act(observation)
            return action.astype(np.float32)

        return act

    return begin


def goal_after_goal(maze: Maze) -> Callable[[np.random.Generator], Act]:
    """D4RL's recipe for maze2d: walk to a free cell drawn at random, then to the next one, with noise on the actions.

    The environment goes on paying for its own goal, whatever place the walker has in mind; D4RL relabels its rewards to
    the same end. An episode here has the task's horizon, where D4RL's file is cut at each place reached.
    """
    cells = maze.free_cells

    def begin(rng: np.random.Generator) -> Act:
        walker: Waypoints | None = None

        def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
            nonlocal walker
            if walker is None or walker.has_reached(observation):
                walker = Waypoints(maze, maze.centre(cells[rng.integers(len(cells))]) + rng.uniform(-0.1, 0.1, size=2))
            action = walker.act(observation) + _NOISE * rng.standard_normal(2)
            return np.clip(action, -1, 1).astype(np.float32)

        return act

    return begin
