"""How long the parts of a run take on this machine: a few training steps, actions and environment steps are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dtbench.environments.make import action_space, make_environment, observation_space
from dtbench.hardware import autocast
from dtbench.models.base import OfflineModule
from dtbench.runs.plan import RunPlan
from dtbench.spaces import Discrete, Frames, Spaces

#: Seconds that a process takes to import torch, open its data and write its files.
_START_S = 6.0
_WARM_UP, _TIMED = 1, 3


def time_run(plan: RunPlan) -> float:
    """Time the parts of a run on this machine and add them up: seconds.

    Raises:
        DtbenchError: the model cannot be built, e.g. because its pretrained weights are not here.
    """
    task, config = plan.task, plan.config
    env = make_environment(task.environment(plan.source), task.max_episode_steps, kwargs=task.env_kwargs)
    spaces = Spaces(observation_space(env), action_space(env), task.max_episode_steps)
    env.reset(seed=0)
    action = env.action_space.sample()

    def step_environment() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    environment_step = _seconds(step_environment, 50)
    env.close()
    module = plan.model.load()(config, spaces, plan.seed)
    with autocast(torch.device("cpu"), config.hardware.precision):
        training_step = _seconds(_training_step(module, config.training.batch_size, spaces), _TIMED)
        module.eval()
        with torch.no_grad():
            acting = _seconds(_acting(module, config.evaluation.episodes, spaces), _TIMED)
    horizon = min(config.evaluation.max_episode_steps or task.max_episode_steps, task.max_episode_steps)
    evaluation = horizon * (acting + config.evaluation.episodes * environment_step)
    return _START_S + config.training.steps * training_step + _evaluations(plan) * evaluation


def _evaluations(plan: RunPlan) -> int:
    """Return how often the policy is evaluated: during training, and then at each target."""
    options = plan.config.evaluation
    during = plan.config.training.steps // options.every if options.every else 0
    further = len(plan.task.targets) if options.all_targets else 0
    return during + 1 + further + (options.data_targets if plan.model.conditions_on_return else 0)


def _training_step(module: OfflineModule, batch_size: int, spaces: Spaces) -> Callable[[], None]:
    optimizer = module.configure_optimizers()["optimizer"]
    batch = random_window(batch_size, module.context_length, spaces)
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        module.loss(batch)[0].backward()
        optimizer.step()

    return step


def _acting(module: OfflineModule, episodes: int, spaces: Spaces) -> Callable[[], object]:
    state = module.initial_state(episodes)
    if state is None:
        window = random_window(episodes, module.context_length, spaces, module.draws)
        return lambda: module.act(window)
    last = random_window(episodes, 2, spaces)
    return lambda: module.act_step(last, state)


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the median seconds of a call, after a first one that warms up."""
    for _ in range(_WARM_UP):
        call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def random_window(batch_size: int, context_length: int, spaces: Spaces, draws: int = 0) -> dict[str, Tensor]:
    """Return a batch of windows of random numbers, keys and shapes as in `data/windows.py`; with `draws` to act on."""
    steps, seen, done = (batch_size, context_length), spaces.observation, spaces.action
    actions = torch.randint(done.count, steps) if isinstance(done, Discrete) else torch.rand(*steps, done.size) * 2 - 1

    def observations() -> Tensor:
        if isinstance(seen, Frames):
            return torch.randint(256, (*steps, *seen.shape), dtype=torch.uint8)
        return torch.randn(*steps, *seen.shape)

    return {
        **({"draws": torch.rand(batch_size, draws)} if draws else {}),
        "observations": observations(),
        "next_observations": observations(),
        "actions": actions,
        "rewards": torch.randn(steps),
        "returns_to_go": torch.randn(steps),
        "discounted_returns": torch.randn(steps),
        "timesteps": torch.arange(context_length).clamp(max=spaces.max_timesteps - 1).expand(steps),
        "terminations": torch.zeros(steps, dtype=torch.bool),
        "padding_mask": torch.ones(steps, dtype=torch.bool),
    }
