"""Four small environments with known answers, for the suite `sanity`: checks of models, never a ranking.

Importing this module registers them with gymnasium; `make_environment("dtbench/KeyToDoor-v0")` imports it.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Observation = NDArray[np.float32]
Start = tuple[Observation, dict[str, Any]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def _box(low: float, high: float, size: int) -> gym.spaces.Box:
    return gym.spaces.Box(low, high, (size,), np.float32)


class BanditChain(gym.Env):
    """Pull one of five arms, then walk a chain that pays the arm's value in equal parts, whatever the actions there.

    The action of the first step chooses the arm: each has a fifth of [−1, 1]. An episode's return is `WORTH[arm]`. The
    mean of all arms is the worst arm, so a model that averages the data gets least; and no episode is better than the
    best one in the data, so nothing is gained by stitching. Observation: (at the arms?, share of the chain walked, what
    the chain pays per step).
    """

    WORTH = (4.0, 5.0, 1.0, 2.0, 3.0)
    LENGTH = 4

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = _box(0, 2, 3), _box(-1, 1, 1)

    @classmethod
    def arm(cls, action: float) -> int:
        """Return the arm that an action in [−1, 1] pulls."""
        return int(np.clip((action + 1) / 2 * len(cls.WORTH), 0, len(cls.WORTH) - 1))

    @classmethod
    def centre(cls, arm: int) -> float:
        """Return the action in the middle of an arm."""
        return (arm + 0.5) / len(cls.WORTH) * 2 - 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        super().reset(seed=seed)
        self.walked, self.pay = 0, 0.0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> Step:
        if self.walked == 0:
            self.pay = self.WORTH[self.arm(float(action[0]))] / self.LENGTH
        self.walked += 1
        return self._observe(), self.pay, self.walked == self.LENGTH, False, {}

    def _observe(self) -> Observation:
        return np.array([self.walked == 0, self.walked / self.LENGTH, self.pay], dtype=np.float32)


class KeyToDoor(gym.Env):
    """Fetch a key, cross an empty room, open a door: the delayed credit of the Decision Transformer paper.

    In the first and the last room the agent starts at 0 and has `ROOM` steps to reach the side (−1 or +1) of the key or
    of the door; in between it waits for `CORRIDOR` steps. The only reward, 1, is paid at the very end, if both were
    reached. The observation does not show whether the agent has the key, so a value function learnt step by step cannot
    carry the door's reward back to it. Observation: (key's room?, corridor?, door's room?, side of the goal, position).
    """

    ROOM, CORRIDOR, STRIDE = 4, 4, 0.5

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = _box(-1, 1, 5), _box(-1, 1, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        super().reset(seed=seed)
        self.sides = self.np_random.choice([-1.0, 1.0], size=2)
        self.reached = [False, False]
        self.time, self.position = 0, 0.0
        return self._observe(), {}

    @property
    def room(self) -> int:
        """0 is the key's room, 1 the corridor, 2 the door's room."""
        return 0 if self.time < self.ROOM else 1 if self.time < self.ROOM + self.CORRIDOR else 2

    def step(self, action: NDArray[np.float32]) -> Step:
        room = self.room
        if room != 1:
            self.position = float(np.clip(self.position + self.STRIDE * float(action[0]), -1, 1))
            self.reached[room // 2] |= self.position * self.sides[room // 2] > 0.9
        self.time += 1
        if self.room != room:
            self.position = 0.0
        over = self.time == 2 * self.ROOM + self.CORRIDOR
        return self._observe(), float(over and all(self.reached)), over, False, {}

    def _observe(self) -> Observation:
        side = 0.0 if self.room == 1 else self.sides[self.room // 2]
        return np.array([*(self.room == room for room in range(3)), side, self.position], dtype=np.float32)


class PointToGoal(gym.Env):
    """Move a point in a square to a fixed goal; a step pays 1 − distance, at least 0.

    In the data some episodes go to the goal and more go elsewhere: a model that averages them goes elsewhere, while
    values and returns tell them apart. Observation: the position (x, y).
    """

    GOAL = np.array([0.6, 0.6])
    STRIDE, HORIZON = 0.2, 20

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = _box(-1, 1, 2), _box(-1, 1, 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, size=2)
        return self.position.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> Step:
        self.position = np.clip(self.position + self.STRIDE * np.clip(action, -1, 1), -1, 1)
        reward = max(0.0, 1 - float(np.linalg.norm(self.position - self.GOAL)))
        return self.position.astype(np.float32), reward, False, False, {}


class Stitch(gym.Env):
    """Enter a hall from the west or from the east, and choose a door at its end; the right-hand one pays `PRIZE`.

    Each entrance is `ENTRANCE` steps long, the hall `HALL` steps, in which actions do nothing. In the west a step of
    more than `LIMIT` to the right falls into a pit; before that it pays the more the further to the right it is, up to
    `WEST_PAY` in all. In the east everything but such a step falls. In the data nobody from the west takes the
    right-hand door, and everybody from the east does: the best way from the west is made of two trajectories.

    Nothing in the hall tells where the agent came from, so that a policy which asks at each step for the most that the
    data continue with leaves by the right-hand door, wherever it came from. A policy that asks for the prize from the
    start does what all did who got it: a large step to the right, in the west into the pit. That they were in the east
    is harder to see than their return: the east has two entrances, to the left and to the right of the western one.
    Observation: (entrance: −1 or 1 in the east, 0 in the west and in the hall; share of the way walked; at the doors?).
    """

    ENTRANCE, HALL = 2, 4
    LIMIT, WEST_PAY, PRIZE = 0.5, 1.0, 4.0
    #: A smaller step to the right does not reach the right-hand door.
    DOOR = 0.3

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = _box(-1, 1, 3), _box(-1, 1, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Start:
        super().reset(seed=seed)
        self.entrance, self.walked = float(self.np_random.choice([-1, 0, 0, 1])), 0
        return self._observe(), {}

    @property
    def from_west(self) -> bool:
        """Whether the agent entered from the west."""
        return self.entrance == 0

    def step(self, action: NDArray[np.float32]) -> Step:
        right, reward, fallen = float(action[0]), 0.0, False
        if self.walked < self.ENTRANCE:
            fallen = (right > self.LIMIT) == self.from_west
            if self.from_west and not fallen:
                reward = self.WEST_PAY / self.ENTRANCE * max(0.0, 0.5 + right)
        at_doors = self.walked == self.ENTRANCE + self.HALL
        if at_doors and right > self.DOOR:
            reward = self.PRIZE
        self.walked += 1
        return self._observe(), reward, fallen or at_doors, False, {}

    def _observe(self) -> Observation:
        length = self.ENTRANCE + self.HALL
        entrance = self.entrance if self.walked < self.ENTRANCE else 0.0
        return np.array([entrance, min(1, self.walked / length), self.walked == length], dtype=np.float32)


gym.register("dtbench/BanditChain-v0", "dtbench.environments.toys:BanditChain")
gym.register("dtbench/KeyToDoor-v0", "dtbench.environments.toys:KeyToDoor")
gym.register("dtbench/PointToGoal-v0", "dtbench.environments.toys:PointToGoal", max_episode_steps=PointToGoal.HORIZON)
gym.register("dtbench/Stitch-v0", "dtbench.environments.toys:Stitch")
