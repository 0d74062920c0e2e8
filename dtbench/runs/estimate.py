"""How long planned runs will take, roughly: for `--dry-run`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from dtbench.determinism import one_thread
from dtbench.environments.make import action_space, make_environment, observation_space
from dtbench.errors import DtbenchError
from dtbench.hardware import autocast
from dtbench.models.base import OfflineModule
from dtbench.results.files import scan
from dtbench.results.schema import DONE, Result
from dtbench.runs.plan import RunPlan
from dtbench.spaces import Discrete, Frames, Spaces

#: Seconds that a process takes to import torch, open its data and write its files.
_START_S = 6.0
_WARM_UP, _TIMED = 1, 3


def estimate_seconds(plans: Sequence[RunPlan], output: Path, jobs: int) -> list[float | None]:
    """Estimate the seconds of each run, without building its data; None where it cannot be told.

    Where `output` has finished runs of the same configuration and task, their median time counts. Else a few training
    steps, actions and environment steps are timed here, and episodes count with their full length.
    """
    measured = _measured(output)
    timed: dict[tuple[str, str, str], float | None] = {}
    seconds: list[float | None] = []
    with one_thread() if jobs > 1 else nullcontext():
        for plan in plans:
            key = (plan.model.name, plan.config.hash(), plan.task.id)
            if key not in measured and key not in timed:
                try:
                    timed[key] = _time(plan)
                except DtbenchError:  # e.g. weights that are not on this machine: the run itself will say so
                    timed[key] = None
            seconds.append(measured.get(key, timed.get(key)))
    return seconds


def _measured(output: Path) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for result in scan(output)[0] if output.is_dir() else []:
        if result.status == DONE:
            key = (result.model.name, result.model.config_hash, result.task.id)
            found.setdefault(key, []).append(_wall_seconds(result))
    return {key: statistics.median(values) for key, values in found.items()}


def _wall_seconds(result: Result) -> float:
    """Return the seconds that a run took; of seeds that were trained as one, the run's share."""
    began, ended = (datetime.fromisoformat(text) for text in (result.provenance.started, result.provenance.finished))
    training = result.measured.training
    return max((ended - began).total_seconds(), training.wall_s) / len(training.stacked_seeds or [result.seed])


def _time(plan: RunPlan) -> float:
    """Time the parts of a run on this machine and add them up."""
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
    window = random_window(config.evaluation.episodes, config.training.context_length, spaces)
    with autocast(torch.device("cpu"), config.hardware.precision):
        training_step = _seconds(_training_step(module, config.training.batch_size, spaces), _TIMED)
        module.eval()
        with torch.no_grad():
            acting = _seconds(lambda: module.act(window), _TIMED)
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


def random_window(batch_size: int, context_length: int, spaces: Spaces) -> dict[str, Tensor]:
    """Return a batch of windows of random numbers, keys and shapes as in `data/windows.py`."""
    steps, seen, done = (batch_size, context_length), spaces.observation, spaces.action
    actions = torch.randint(done.count, steps) if isinstance(done, Discrete) else torch.rand(*steps, done.size) * 2 - 1

    def observations() -> Tensor:
        if isinstance(seen, Frames):
            return torch.randint(256, (*steps, *seen.shape), dtype=torch.uint8)
        return torch.randn(*steps, *seen.shape)

    return {
        "observations": observations(),
        "next_observations": observations(),
        "actions": actions,
        "rewards": torch.randn(steps),
        "returns_to_go": torch.randn(steps),
        "timesteps": torch.arange(context_length).clamp(max=spaces.max_timesteps - 1).expand(steps),
        "terminations": torch.zeros(steps, dtype=torch.bool),
        "padding_mask": torch.ones(steps, dtype=torch.bool),
    }
