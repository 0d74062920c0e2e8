"""What an agent sees and does on a task, as data: embeddings, heads, losses and evaluation follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dtbench.errors import ConfigError


@dataclass(frozen=True)
class Vector:
    """Observations (size,) float32."""

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return (self.size,)

    def __str__(self) -> str:
        return f"vectors of {self.size} numbers"


@dataclass(frozen=True)
class Frames:
    """Observations (stack, height, width) uint8: the last `stack` frames of a game, the newest last."""

    stack: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Numbers per observation."""
        return self.stack * self.height * self.width

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return (self.stack, self.height, self.width)

    def __str__(self) -> str:
        return f"stacks of {self.stack} frames of {self.height} × {self.width}"


@dataclass(frozen=True)
class Continuous:
    """Actions (size,) float32 in a box with the bounds `low` and `high`."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Numbers per action, and per output of a model."""
        return len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return (self.size,)

    def __str__(self) -> str:
        return f"actions of {self.size} numbers"


@dataclass(frozen=True)
class Discrete:
    """Actions 0 … count − 1, () int64."""

    count: int

    @property
    def size(self) -> int:
        """Numbers per output of a model: one for each action."""
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return ()

    def __str__(self) -> str:
        return f"one of {self.count} actions"


_OBSERVATIONS: tuple[type[Vector | Frames], ...] = (Vector, Frames)
_ACTIONS: tuple[type[Continuous | Discrete], ...] = (Continuous, Discrete)
_OLD_KEYS = ("observation_dim", "action_dim", "max_timesteps")


@dataclass(frozen=True)
class Spaces(Mapping[str, int]):
    """The spaces of a task's data, and how long an episode can be.

    It is also the mapping that models were built from when all observations were vectors: `spaces["action_dim"]` is the
    size of a continuous action. A model that reads it takes nothing else, so that it is refused on other tasks.

    Attributes:
        observation: what the agent sees.
        action: what it does.
        max_timesteps: the most steps that an episode has, in the data or in evaluation.
        longest_episode: the most steps of an episode of the data; `max_timesteps` where it is not given.
    """

    observation: Vector | Frames
    action: Continuous | Discrete
    max_timesteps: int
    longest_episode: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest_episode", self.longest_episode or self.max_timesteps)

    def __getitem__(self, key: str) -> int:
        if key == "observation_dim":
            if isinstance(self.observation, Vector):
                return self.observation.size
            raise ConfigError(f"This model takes vectors as observations, and the task shows {self.observation}.")
        if key == "action_dim":
            if isinstance(self.action, Continuous):
                return self.action.size
            raise ConfigError(f"This model takes continuous actions, and the task has {self.action}.")
        if key == "max_timesteps":
            return self.max_timesteps
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(_OLD_KEYS)

    def __len__(self) -> int:
        return len(_OLD_KEYS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "observation": asdict(self.observation),
            "action": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.action).items()},
            "max_timesteps": self.max_timesteps,
            "longest_episode": self.longest_episode,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Spaces:
        """Return spaces as they are, or rebuild them from what `to_dict` returned.

        The mapping of older records is taken as well: `observation_dim`, `action_dim` and `max_timesteps`. It does not
        know the actions' bounds, which are set to ±1; models do not read them.

        Raises:
            ConfigError: an entry is missing or of the wrong type.
        """
        if isinstance(content, Spaces):
            return content
        try:
            if "observation" not in content:
                sizes = [_count(content[key]) for key in _OLD_KEYS]
                return cls(Vector(sizes[0]), unit_box(sizes[1]), sizes[2])
            return cls(
                _rebuilt(_OBSERVATIONS, content["observation"]),
                _rebuilt(_ACTIONS, content["action"]),
                _count(content["max_timesteps"]),
                _count(content["longest_episode"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"These are not the spaces of a task: {content!r}.") from error


def unit_box(size: int) -> Continuous:
    """Return actions of `size` numbers in [−1, 1]."""
    return Continuous((-1.0,) * size, (1.0,) * size)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a number of something")
    return value


def _rebuilt(kinds: tuple[Any, ...], content: Mapping[str, Any]) -> Any:
    """Build the kind of space whose fields these are."""
    for kind in kinds:
        if set(content) == set(kind.__dataclass_fields__):
            if kind is Continuous:
                return Continuous(*(tuple(float(bound) for bound in content[name]) for name in ("low", "high")))
            return kind(**{name: _count(value) for name, value in content.items()})
    raise ValueError(f"{content!r} is no space")
