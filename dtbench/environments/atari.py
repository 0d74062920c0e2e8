"""Atari 2600 games from the Arcade Learning Environment, preprocessed as the DQN replay data and evaluated as DT does.

`register` adds `dtbench/Atari-<Game>-v0` for every game of ale-py; `make_environment` calls it where an id needs it.

A step repeats its action for `frame_skip` frames; what is seen is the maximum of the last two frames in grey, resized
to 84 × 84. That is gymnasium's `AtariPreprocessing`: it takes the maximum first and resizes by area (`cv2.INTER_AREA`)
as dopamine does (discrete_domains/atari_lib.py), with which the DQN replay data were logged. DT's evaluation
(kzl/decision-transformer, atari/mingpt/trainer_atari.py) resizes each frame linearly and takes the maximum after it;
we keep what the data have. As in DT's evaluation there are 0 to 29 no-ops after a reset, frames of zeros before an
episode's first, no FIRE pressed by the environment, raw rewards, and the whole game: a lost life ends nothing. DT's cap
of 108,000 frames is the horizon of 27,000 steps, in which the no-ops do not count.

The frame after a game's last step is the one before it, as the screen is not read any more (dopamine's code, too).
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

PREFIX = "dtbench/Atari-"
INSTALL = "pip install 'dtbench[atari]'"
#: 108,000 frames, 30 minutes of play.
HORIZON = 27_000
SIZE = 84
STACK = 4
#: Games of several players: ale-py has no single-player version of them.
_MULTIPLAYER = frozenset({"combat", "joust", "maze_craze", "warlords"})


def env_id(game: str) -> str:
    """Return the id of a game that is called as in ale-py.

    >>> env_id("space_invaders")
    'dtbench/Atari-SpaceInvaders-v0'
    """
    return f"{PREFIX}{game.title().replace('_', '')}-v0"


def register() -> None:
    """Register all games with gymnasium.

    Raises:
        ImportError: ale-py is not installed.
    """
    from ale_py import roms

    for game in sorted(set(roms.get_all_rom_ids()) - _MULTIPLAYER):
        if env_id(game) not in gym.registry:
            gym.register(
                env_id(game),
                "dtbench.environments.atari:atari",
                max_episode_steps=HORIZON,
                kwargs={"game": game},
            )


def atari(
    game: str,
    repeat_action_probability: float = 0.0,
    noop_max: int = 29,
    frame_skip: int = 4,
    stack: int = STACK,
    ram: bool = False,
    render_mode: Literal["human", "rgb_array"] | None = None,
) -> gym.Env:
    """Make a game with its minimal set of actions; everything in it is a function of the seed given to `reset`.

    Observations are the last `stack` frames, (stack, 84, 84) uint8, the newest last.

    Args:
        game: ale-py's name, e.g. `space_invaders`.
        repeat_action_probability: of the last action, in each frame: sticky actions (Machado et al., 2018, use 0.25).
        noop_max: after a reset the game runs without input for 0 to `noop_max` frames, all equally likely.
        frame_skip: frames per step.
        stack: frames per observation; 0 gives the newest one alone, (84, 84), for recording.
        ram: observe the console's memory, (128,) uint8, instead of frames, which nobody draws then. The episode
            after `reset(seed=…)` is the same one.
        render_mode: gymnasium's.

    Raises:
        ConfigError: an argument of the wrong type or out of its range.
        ImportError: ale-py or OpenCV is not installed.
    """
    import ale_py
    from ale_py.env import AtariEnv
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    _check(repeat_action_probability, noop_max, frame_skip, stack, ram)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # the first console made would print a banner
    console = AtariEnv(
        game,
        obs_type="ram" if ram else "grayscale",
        frameskip=frame_skip if ram else 1,
        repeat_action_probability=repeat_action_probability,
        render_mode=render_mode,
    )
    env: gym.Env = RandomStart(console, noop_max)
    if ram:
        return env
    env = AtariPreprocessing(env, noop_max=0, frame_skip=frame_skip, screen_size=SIZE)
    return FrameStackObservation(env, stack, padding_type="zero") if stack else env


class RandomStart(gym.Wrapper):
    """Lets a game run for 0 to `noop_max` frames after each reset, the number drawn from the environment's generator.

    gymnasium's own draws 1 to `noop_max`.
    """

    def __init__(self, env: gym.Env, noop_max: int) -> None:
        super().__init__(env)
        self.noop_max = noop_max

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        console: Any = self.env.unwrapped
        for _ in range(int(self.np_random.integers(self.noop_max + 1))):
            console.ale.act(0)
            if console.ale.game_over():
                console.ale.reset_game()
        return console._get_obs(), info


def _check(repeat_action_probability: object, noop_max: object, frame_skip: object, stack: object, ram: object) -> None:
    """Refuse arguments from a suite's `env_kwargs` that ale-py would take in silence."""
    from dtbench.errors import ConfigError

    number = isinstance(repeat_action_probability, (int, float)) and not isinstance(repeat_action_probability, bool)
    if not (number and 0 <= repeat_action_probability < 1):  # type: ignore[operator]  # mypy cannot follow `number`
        raise ConfigError(f"repeat_action_probability must lie in [0, 1), not {repeat_action_probability!r}.")
    for name, value, least in (("noop_max", noop_max, 0), ("frame_skip", frame_skip, 1), ("stack", stack, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    if not isinstance(ram, bool):
        raise ConfigError(f"ram must be true or false, not {ram!r}.")
