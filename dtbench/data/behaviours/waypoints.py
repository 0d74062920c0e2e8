"""A controller that follows waypoints through a maze, as the public PointMaze data were made.

Breadth-first search on the map gives the cells to cross; a PD controller on the position (p 10, d −1) steers to their
centres and finally to the goal itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dtbench.environments.pointmaze import Cell, Maze

#: (obs_dim,) → (action_dim,) float32.
Act = Callable[[NDArray[np.floating]], NDArray[np.float32]]

GAIN_P, GAIN_D = 10.0, -1.0
#: Distance at which a waypoint counts as passed, and for D4RL's walker a place as reached.
PASSED = 0.1
#: Distance at which GPT2-DTMA's walker counts its place as reached.
DTMA_REACHED = 0.5
#: Largest distances, per axis, of waypoints and of the two recipes' places from the centres of cells.
JITTER, D4RL_PLACE_JITTER, DTMA_PLACE_JITTER = 0.2, 0.1, 0.25
#: Standard deviation of the noise on the actions of D4RL's maze2d data.
_NOISE = 0.5


class Waypoints:
    """Steers to a place in a maze; observations begin with (x, y, velocity x, velocity y).

    With an `rng`, all waypoints but the first are drawn up to `JITTER` to the left of and below a cell's centre, as in
    the public generators.
    """

    def __init__(self, maze: Maze, goal: NDArray[np.floating], rng: np.random.Generator | None = None) -> None:
        self.maze, self.goal, self.rng = maze, np.asarray(goal, dtype=np.float64), rng
        self.way: list[NDArray[np.float64]] | None = None

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the action before any noise, clipped to [−1, 1]."""
        position, velocity = observation[:2], observation[2:4]
        if self.way is None:
            self.way = self._way(position)
        while len(self.way) > 1 and np.linalg.norm(self.way[0] - position) <= PASSED:
            self.way.pop(0)
        return np.clip(GAIN_P * (self.way[0] - position) + GAIN_D * velocity, -1, 1)

    def has_reached(self, observation: NDArray[np.floating], within: float) -> bool:
        """Return whether the observed position is at most `within` from the goal."""
        return bool(np.linalg.norm(observation[:2] - self.goal) <= within)

    def _way(self, position: NDArray[np.floating]) -> list[NDArray[np.float64]]:
        cells = self.maze.path(self.maze.cell(position), self.maze.cell(self.goal))[1:-1]
        points = [self.maze.centre(cell) for cell in cells]
        if self.rng is not None:
            points[1:] = [point - self.rng.uniform(0, JITTER, size=2) for point in points[1:]]
        return [*points, self.goal]


def walk_then_act_randomly(maze: Maze) -> Callable[[np.random.Generator], Act]:
    """Return GPT2-DTMA's recipe: walk to a place near the goal, over new waypoints each time, then act at random.

    The place is drawn around the centre of the goal's cell: it is not the goal itself (`cell2xy` of its maze_utils.py).
    """

    def begin(rng: np.random.Generator) -> Act:
        walker: Waypoints | None = None
        arrived = False

        def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
            nonlocal walker, arrived
            if walker is None:
                walker = Waypoints(maze, _place(maze, maze.goal_cell, DTMA_PLACE_JITTER, rng), rng)
            arrived = arrived or walker.has_reached(observation, DTMA_REACHED)
            action = rng.uniform(-1, 1, size=2) if arrived else walker.act(observation)
            return action.astype(np.float32)

        return act

    return begin


def walk_from_place_to_place(maze: Maze) -> Callable[[np.random.Generator], Act]:
    """Return D4RL's recipe for maze2d: walk to one random free cell after the other, with noise on the actions.

    It follows d4rl/pointmaze/waypoint_controller.py, with the noise of Minari's datasets. Rewards are those of the
    environment's fixed goal, wherever the walker is going; D4RL relabels its rewards to the same effect. Here an
    episode has the task's horizon, while D4RL's file is cut at each place reached.
    """
    cells = maze.free_cells

    def begin(rng: np.random.Generator) -> Act:
        walker: Waypoints | None = None

        def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
            nonlocal walker
            if walker is None or walker.has_reached(observation, PASSED):
                cell = cells[rng.integers(len(cells))]
                walker = Waypoints(maze, _place(maze, cell, D4RL_PLACE_JITTER, rng), rng)
            action = walker.act(observation) + _NOISE * rng.standard_normal(2)
            return np.clip(action, -1, 1).astype(np.float32)

        return act

    return begin


def walk_half_way(maze: Maze, middle: Cell, horizon: int) -> Callable[[np.random.Generator], Act]:
    """Return the recipe for stitching: from the start to the middle, or from the middle to the goal, and stay there.

    No trajectory leads from the start to the goal. Walkers that begin in the middle leave it at a time of their own,
    within the first half of the horizon, so that neither the time nor the place tells where an agent came from.
    """

    def begin(rng: np.random.Generator) -> Act:
        leaves, step = int(rng.integers(horizon // 2)), -1
        walker: Waypoints | None = None
        begins_in_middle = False

        def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
            nonlocal walker, begins_in_middle, step
            step += 1
            if walker is None:
                begins_in_middle = maze.cell(observation[:2]) == middle
                walker = Waypoints(maze, _place(maze, middle, D4RL_PLACE_JITTER, rng), rng)
            if begins_in_middle and step == leaves:
                walker = Waypoints(maze, _place(maze, maze.goal_cell, D4RL_PLACE_JITTER, rng), rng)
            action = walker.act(observation) + _NOISE * rng.standard_normal(2)
            return np.clip(action, -1, 1).astype(np.float32)

        return act

    return begin


def _place(maze: Maze, cell: Cell, jitter: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return maze.centre(cell) + rng.uniform(-jitter, jitter, size=2)
