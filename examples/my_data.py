"""Data of your own from NumPy arrays: an imperfect controller balances a pole, and its steps become a dataset."""

import gymnasium as gym
import numpy as np

import dtbench


def controller(observation, rng, skill):
    """Push against the pole's fall; the less skill, the more noise."""
    position, angle, velocity, angular_velocity = observation
    push = 10 * angle + 2 * angular_velocity + 0.3 * position + 0.5 * velocity
    noise = rng.normal(0, 3 * (1 - skill))
    return np.clip([push + noise], -3, 3).astype(np.float32)


def collect(episodes, horizon):
    """Return the columns of a dataset: one row per step, episodes one after the other."""
    env = gym.make("InvertedPendulum-v5", max_episode_steps=horizon)
    rng = np.random.default_rng(0)
    rows = []
    for episode in range(episodes):
        skill = rng.uniform()
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = controller(observation, rng, skill)
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, action, reward, terminated, truncated, following))
            observation, ended = following, terminated or truncated
    names = ("observations", "actions", "rewards", "terminations", "truncations", "next_observations")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


if __name__ == "__main__":
    store = dtbench.make_dataset("my-pendulum", env_id="InvertedPendulum-v5", **collect(episodes=100, horizon=100))
    print(f"{store.num_episodes} episodes, {store.num_steps:,} steps, fingerprint {store.fingerprint[:12]}")
