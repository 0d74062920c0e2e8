"""Atari: the environments against a plain loop over ale-py's own interface, and what the evaluation's protocol says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dtbench.environments.make import make_environment
from dtbench.errors import ConfigError

ale_py = pytest.importorskip("ale_py", reason="ale-py is not installed (extra atari)")
cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra atari)")


def make(game: str = "Breakout", max_episode_steps: int | None = None, **kwargs):
    return make_environment(f"dtbench/Atari-{game}-v0", max_episode_steps, kwargs=kwargs)


def actions_for(env, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(int(env.action_space.n), size=count).tolist()


def play(env, seed: int, count: int):
    """Return the observations, rewards and ends of `count` steps with random actions, over as many episodes as fit."""
    seen, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for action in actions_for(env, count):
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0])
    return np.stack(seen), rewards, ends


class PlainLoop:
    """Skip, maximum, resize and stack by hand; the console's seed and the no-ops are drawn as ale-py and we do."""

    def __init__(self, game: str, noop_max: int = 29, sticky: float = 0.0) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.game, self.noop_max = game, noop_max
        self.ale.setFloat("repeat_action_probability", sticky)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            words = np.random.SeedSequence(seed).generate_state(2)
            self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(words[0]))))
            self.ale.setInt("random_seed", int(np.int32(words[1])))
            self.ale.loadROM(ale_py.roms.get_rom_path(self.game))
        self.ale.reset_game()
        for _ in range(self.rng.integers(self.noop_max + 1)):
            self.ale.act(0)
        self.frames = [np.zeros((84, 84), np.uint8)] * 3
        self.newest = self.ale.getScreenGrayscale()
        return self.stacked()

    def stacked(self) -> np.ndarray:
        self.frames.append(cv2.resize(self.newest, (84, 84), interpolation=cv2.INTER_AREA))
        return np.stack(self.frames[-4:])

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        reward, screens = 0.0, []
        for _ in range(4):
            reward += self.ale.act(self.ale.getMinimalActionSet()[action])
            if self.ale.game_over():
                return self.stacked(), reward, True
            screens.append(self.ale.getScreenGrayscale())
        self.newest = np.maximum(screens[-2], screens[-1])
        return self.stacked(), reward, False


@pytest.mark.parametrize("game", ["breakout", "seaquest", "space_invaders"])
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_equals_a_plain_loop(game, sticky):
    """Space Invaders draws its shots in every second frame, so that a wrong maximum would show."""
    env = make(game.title().replace("_", ""), repeat_action_probability=sticky)
    oracle = PlainLoop(game, sticky=sticky)
    assert np.array_equal(env.reset(seed=11)[0], oracle.reset(11))
    ended = 0
    for action in actions_for(env, 700):
        observation, reward, terminated, truncated, _ = env.step(action)
        expected, expected_reward, over = oracle.step(action)
        assert (reward, terminated, truncated) == (expected_reward, over, False)
        if over:
            ended += 1
            observation, expected = env.reset()[0], oracle.reset()
        assert np.array_equal(observation, expected)
    assert ended >= 1  # a second episode, which is not seeded, was compared as well


def test_spaces_and_frames_before_the_start():
    env = make()
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    assert env.action_space.n == 4  # Breakout's minimal set
    assert env.spec.max_episode_steps == 27_000
    first, _ = env.reset(seed=0)
    assert first.dtype == np.uint8
    assert [frame.any() for frame in first] == [False, False, False, True]
    second = env.step(1)[0]
    assert np.array_equal(second[2], first[3])
    assert not second[:2].any()


def test_single_frames_are_the_newest_of_the_stacks():
    stacks, rewards, ends = play(make("Seaquest"), 3, 150)
    frames, *same = play(make("Seaquest", stack=0), 3, 150)
    assert frames.shape == (len(stacks), 84, 84)
    assert np.array_equal(frames, stacks[:, -1])
    assert same == [rewards, ends]


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_the_memory_is_that_of_the_same_game(sticky):
    """Behaviours are trained on the console's memory alone and rolled out where frames are drawn."""
    drawn = make("Breakout", repeat_action_probability=sticky)
    bare = make("Breakout", repeat_action_probability=sticky, ram=True)
    assert bare.observation_space.shape == (128,)
    drawn.reset(seed=5)
    assert np.array_equal(bare.reset(seed=5)[0], drawn.unwrapped.ale.getRAM())
    for step, action in enumerate(actions_for(bare, 500)):
        ram, *rest = bare.step(action)
        _, *expected = drawn.step(action)
        assert rest[:3] == expected[:3]
        if rest[1]:  # seeded, as sticky actions draw for the frames of a step after the game's end, too
            ram, _ = bare.reset(seed=step)
            drawn.reset(seed=step)
        assert np.array_equal(ram, drawn.unwrapped.ale.getRAM())


def test_episodes_are_a_function_of_their_seed():
    for sticky in (0.0, 0.25):
        first, again, other = (play(make(repeat_action_probability=sticky), seed, 150) for seed in (7, 7, 8))
        assert np.array_equal(first[0], again[0])
        assert first[1:] == again[1:]
        assert not np.array_equal(first[0][:150], other[0][:150])


def test_a_seed_starts_the_same_game_whatever_was_played_before():
    env = make("Seaquest")
    fresh = play(env, 4, 100)
    play(env, 9, 50)
    again = play(env, 4, 100)
    assert np.array_equal(fresh[0], again[0])


def test_starts_differ_by_up_to_29_frames_without_input():
    """60 starts: all numbers are within 0 to 29, and 20 different ones or more (expected 26) come up."""
    env = make("Pong", stack=0)
    env.reset(seed=0)
    numbers = []
    for _ in range(60):
        env.reset()
        numbers.append(env.unwrapped.ale.getEpisodeFrameNumber())
    without = make("Pong", stack=0, noop_max=0)
    without.reset(seed=0)
    begin = without.unwrapped.ale.getEpisodeFrameNumber()
    assert min(numbers) >= begin
    assert max(numbers) <= begin + 29
    assert len(set(numbers)) >= 20
    assert begin in numbers or begin + 1 in numbers


def test_sticky_actions_repeat_the_last_one():
    """Frames in which the action before is used although another one was chosen: 0.25 of them, by ale-py's draws.

    Pong's paddle tells: after many steps down, one frame up (frame skip 1) does not always turn it.
    """
    turned = {}
    for sticky in (0.0, 0.25):
        env = make("Pong", repeat_action_probability=sticky, frame_skip=1, noop_max=0, ram=True)
        env.reset(seed=0)
        console = env.unwrapped.ale
        for _ in range(80):
            console.act(0)
        start = console.cloneState(include_rng=False)
        counts = 0
        for trial in range(200):
            console.restoreState(start)
            console.act(ale_py.Action.RIGHT)
            with_right = console.cloneState(include_rng=False)
            results = []
            for _ in range(2):
                console.restoreState(with_right)
                env.step(5 if trial % 2 else 4)
                results.append(tuple(console.getRAM()))
            counts += results[0] != results[1]
        turned[sticky] = counts
    assert turned[0.0] == 0
    assert turned[0.25] > 0


def test_a_lost_life_does_not_end_the_game():
    env = make()
    env.reset(seed=0)
    lives = [env.unwrapped.ale.lives()]
    terminated = False
    while not terminated:
        *_, terminated, truncated, info = env.step(1)  # FIRE serves, and nobody moves
        assert not truncated
        if info["lives"] != lives[-1]:
            lives.append(info["lives"])
    assert lives == [5, 4, 3, 2, 1, 0]


def test_the_horizon_truncates():
    env = make(max_episode_steps=12)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(12)]
    assert ends == [(False, False)] * 11 + [(False, True)]
    assert make(max_episode_steps=27_000).spec.max_episode_steps * 4 == 108_000


def test_rewards_are_raw():
    """The first bricks of Q*bert are worth 25 points each."""
    _, rewards, _ = play(make("Qbert"), 0, 200)
    assert max(rewards) >= 25
    assert {reward % 25 for reward in rewards} == {0}


def test_a_game_renders_in_colour():
    env = make_environment("dtbench/Atari-Pong-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"sticky": 0.25}, "does not take the arguments {'sticky': 0.25}"),
        ({"repeat_action_probability": "high"}, r"repeat_action_probability must lie in \[0, 1\), not 'high'"),
        ({"repeat_action_probability": 1.0}, r"repeat_action_probability must lie in \[0, 1\), not 1"),
        ({"noop_max": -1}, "noop_max must be a whole number of at least 0, not -1"),
        ({"frame_skip": 0}, "frame_skip must be a whole number of at least 1, not 0"),
        ({"stack": True}, "stack must be a whole number of at least 0, not True"),
        ({"ram": 1}, "ram must be true or false, not 1"),
    ],
)
def test_wrong_arguments_give_a_sentence(kwargs, expected):
    with pytest.raises(ConfigError, match=expected):
        make("Pong", **kwargs)


def test_a_game_that_is_none():
    with pytest.raises(ConfigError, match="Did you mean: `Atari-Breakout`"):
        make("Breakut")


@pytest.mark.parametrize("missing", ["ale_py", "cv2"])
@pytest.mark.parametrize("env_id", ["dtbench/Atari-Pong-v0", "ALE/Pong-v5"])
def test_without_a_package_the_pip_line_is_named(monkeypatch, missing, env_id):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf"needs a package .* {missing} .*`pip install 'dtbench\[atari\]'`\.$"):
        make_environment(env_id)


def test_nothing_is_printed():
    """ALE prints a banner from C++, so that only a process of its own shows whether it is silent."""
    code = "from dtbench.environments.make import make_environment as m; m('dtbench/Atari-Pong-v0').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
