"""PointMaze tasks with fixed goals, in gymnasium-robotics' own environment: D4RL's mazes and those of GPT2-DTMA.

Importing this module registers them with gymnasium; `make_environment("dtbench/PointMaze-large-v0")` imports it.
Observations are position, velocity and goal, as in Minari's datasets; the mazes of GPT2-DTMA show position and velocity
only, as its code does (experiment-pointmaze, envs/pointmaze/utils/maze_utils.py).
For stitching there are two environments per maze: `PointMazeStitch` starts at the start, and `PointMazeHalves`, which
the data are from, there or in the middle of the way.
Episodes never terminate: the point stays in the maze until the time limit, and every step near the goal is rewarded, as
in D4RL's maze2d and in GPT2-DTMA's evaluation.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]


@dataclass(frozen=True)
class Maze:
    """Cells of one unit, centred on the origin. Rows run from the top: `#` is a wall, `G` the goal, `S` the start.

    Without an `S` the point starts in any free cell, with several in one of them.
    """

    rows: tuple[str, ...]

    def to_map(self) -> list[list[int | str]]:
        """Return gymnasium-robotics' form: 1 for walls, 0 for free cells, `g` and `r` for goal and start."""
        letters: dict[str, int | str] = {"#": 1, " ": 0, "G": "g", "S": "r"}
        return [[letters[letter] for letter in row] for row in self.rows]

    def is_free(self, cell: Cell) -> bool:
        """Return whether a cell is no wall."""
        return self.rows[cell[0]][cell[1]] != "#"

    @property
    def goal_cell(self) -> Cell:
        """The (row, column) of the goal."""
        return next(cell for cell in self.free_cells if self.rows[cell[0]][cell[1]] == "G")

    @property
    def free_cells(self) -> list[Cell]:
        """All cells that are no walls, row by row."""
        return [(i, j) for i, row in enumerate(self.rows) for j in range(len(row)) if self.is_free((i, j))]

    def with_start(self, cell: Cell) -> Maze:
        """Return the same maze with one more start; each is as likely."""
        row, column = cell
        changed = self.rows[row][:column] + "S" + self.rows[row][column + 1 :]
        return Maze((*self.rows[:row], changed, *self.rows[row + 1 :]))

    def centre(self, cell: Cell) -> NDArray[np.float64]:
        """Return the (x, y) of a cell's centre; y decreases from row to row."""
        return np.array([cell[1] + 0.5 - len(self.rows[0]) / 2, len(self.rows) / 2 - cell[0] - 0.5])

    def cell(self, position: NDArray[np.floating]) -> Cell:
        """Return the (row, column) of the cell that contains an (x, y)."""
        x, y = float(position[0]), float(position[1])
        return int(np.floor(len(self.rows) / 2 - y)), int(np.floor(x + len(self.rows[0]) / 2))

    def path(self, start: Cell, goal: Cell) -> list[Cell]:
        """Return a shortest path over free cells, both ends included (breadth-first search)."""
        came_from: dict[Cell, Cell] = {goal: goal}
        queue = deque([goal])
        while queue and start not in came_from:
            row, column = queue.popleft()
            for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if cell not in came_from and self.is_free(cell):
                    came_from[cell] = (row, column)
                    queue.append(cell)
        way = [start]
        while way[-1] != goal:
            way.append(came_from[way[-1]])
        return way


#: D4RL's maze2d mazes with their goals (d4rl/pointmaze/maze_model.py); horizons 300, 600, 800.
D4RL_MAZES = {
    "umaze": (
        Maze(("#####", "#G  #", "### #", "#   #", "#####")),
        300,
    ),
    "medium": (
        Maze(("########", "#  ##  #", "#  #   #", "##   ###", "#  #   #", "# #  # #", "#   # G#", "########")),
        600,
    ),
    "large": (
        Maze(
            (
                "############",
                "#    #     #",
                "# ## # # # #",
                "#      #   #",
                "# #### ### #",
                "#  # #     #",
                "## # # # ###",
                "#  #   # G #",
                "############",
            )
        ),
        800,
    ),
}

#: GPT2-DTMA's (experiment-pointmaze), with fixed starts; horizon 300.
DTMA_HORIZON = 300
DTMA_MAZES = {
    "u": Maze(("#####", "#S  #", "### #", "#G  #", "#####")),
    "medium": Maze(
        ("########", "#S ##  #", "#  #   #", "##   ###", "#  #   #", "# #  # #", "#   # G#", "########"),
    ),
    "large": Maze(
        (
            "############",
            "#S   #     #",
            "# ## # # # #",
            "#      #   #",
            "# #### ### #",
            "#  # #     #",
            "## # # # ###",
            "#  #   #  G#",
            "############",
        )
    ),
}

#: For stitching: GPT2-DTMA's maps, the horizon, and a cell at about the middle of the way from start to goal.
STITCH_MAZES: dict[str, tuple[Maze, int, Cell]] = {
    "u": (DTMA_MAZES["u"], 300, (2, 3)),
    "medium": (DTMA_MAZES["medium"], 600, (4, 4)),
    "large": (DTMA_MAZES["large"], 600, (3, 6)),
}


def point_maze(
    maze: str, reward_type: str, show_goal: bool = True, render_mode: str | None = None, **kwargs: Any
) -> gym.Env:
    """Make gymnasium-robotics' PointMaze over a maze of `MAZES`; the task continues after the goal is reached.

    Without `show_goal`, an observation is (x, y, velocity x, velocity y) instead of gymnasium-robotics' Dict.
    """
    from dtbench.environments.make import import_robotics

    import_robotics()
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    rows = MAZES[maze].to_map()
    env: Any = PointMazeEnv(rows, render_mode, reward_type, continuing_task=True, reset_target=False, **kwargs)
    Path(env.tmp_xml_file_path).unlink(missing_ok=True)  # it is loaded, and nothing else deletes it
    if not show_goal:
        env = gym.wrappers.TransformObservation(env, itemgetter("observation"), env.observation_space["observation"])
    made: gym.Env[Any, Any] = env
    return made


#: All mazes by the name that an environment's specification uses.
MAZES = {f"d4rl/{name}": maze for name, (maze, _) in D4RL_MAZES.items()}
MAZES |= {f"dtma/{name}": maze for name, maze in DTMA_MAZES.items()}
MAZES |= {f"halves/{name}": maze.with_start(middle) for name, (maze, _, middle) in STITCH_MAZES.items()}


def _register(name: str, maze: str, reward_type: str, horizon: int, show_goal: bool = True) -> None:
    kwargs = {"maze": maze, "reward_type": reward_type, "show_goal": show_goal}
    gym.register(
        f"dtbench/{name}", "dtbench.environments.pointmaze:point_maze", max_episode_steps=horizon, kwargs=kwargs
    )


for _name, (_, _horizon) in D4RL_MAZES.items():
    _register(f"PointMaze-{_name}-v0", f"d4rl/{_name}", "sparse", _horizon)
    _register(f"PointMaze-{_name}-dense-v0", f"d4rl/{_name}", "dense", _horizon)
for _name in DTMA_MAZES:
    _register(f"PointMazeDTMA-{_name}-v1", f"dtma/{_name}", "dense", DTMA_HORIZON, show_goal=False)
for _name, _stitched in STITCH_MAZES.items():
    _register(f"PointMazeStitch-{_name}-v0", f"dtma/{_name}", "sparse", _stitched[1], show_goal=False)
    _register(f"PointMazeHalves-{_name}-v0", f"halves/{_name}", "sparse", _stitched[1], show_goal=False)
