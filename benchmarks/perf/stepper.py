"""Time one thing again and again, on request: `against.py` runs this beside itself under two versions of dtbench.

    python stepper.py dt 32-true     a training step
    python stepper.py evaluation 32-true     200 steps of ten HalfCheetahs with the paper's `dt`

It reads a number of repetitions per line from its input and answers with their seconds as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS, LENGTH, OBSERVATION_DIM, ACTION_DIM = 100_000, 1000, 11, 3
EPISODES, EVALUATION_STEPS = 10, 200
#: Preset and batch size of each model's step: as published, except that the GPT-2 models have the bundled backbone.
PRESETS = {
    "dt": "paper",
    "dc": "paper",
    "cql": "paper",
    "gpt2_dt": "quick",
    "lamo": "quick",
    "gpt2_dtma": "quick",
}
BATCHES = {"cql": 256}


def main() -> None:
    what, precision = sys.argv[1:]
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        repeat = evaluation(precision) if what == "evaluation" else training(what, precision, Path(folder))
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                started = time.perf_counter()
                repeat()
                seconds.append(time.perf_counter() - started)
            print(json.dumps(seconds), flush=True)  # noqa: T201


def training(name: str, precision: str, folder: Path) -> Callable[[], None]:
    """Return a step as the Trainer does it: batch, seed, loss, backward, clip, update, schedule."""
    model = build(name, PRESETS[name], {"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM}).train()
    windows = make_windows(folder, model)
    wanted = model.configure_optimizers()
    optimizer, schedule = wanted["optimizer"], wanted["lr_scheduler"]["scheduler"]
    steps = iter(range(10**9))

    def step() -> None:
        model.step = number = next(steps)
        batch = windows.gather(windows.draw(BATCHES.get(name, 64), seed=0, step=number))
        torch.manual_seed(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = model.loss(batch)[0]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        model.configure_gradient_clipping(optimizer)
        optimizer.step()
        schedule.step()

    return step


def evaluation(precision: str) -> Callable[[], None]:
    from dtbench.evaluation import rollout

    model = build("dt", "paper", {"observation_dim": 17, "action_dim": 6}).eval()
    protocol_class = getattr(rollout, "EvaluationProtocol", None) or rollout.Protocol
    mean, std = np.zeros(17, np.float32), np.ones(17, np.float32)
    protocol = protocol_class("HalfCheetah-v5", EVALUATION_STEPS, 1000.0, mean, std)
    options: dict[str, Any] = {} if precision == "32-true" else {"precision": precision}
    return lambda: rollout.evaluate(model, protocol, 6000.0, EPISODES, **options)


def build(name: str, preset: str, dims: dict[str, int]) -> Any:
    """Build a model with one version's functions or the other's."""
    from dtbench.config import compose, load_preset
    from dtbench.registry import model_entry

    dims = {**dims, "max_timesteps": LENGTH}
    entry, layer = model_entry(name), load_preset(preset)
    if hasattr(entry, "settings"):
        from dtbench.suites.suites import load_suite

        suite = load_suite("d4rl-short")
        return entry.load()(compose(entry.settings, preset=layer, suite=suite, task=suite.tasks[0]), dims)
    from dtbench.suites import load_suite  # type: ignore[attr-defined]

    suite = load_suite("d4rl-short")
    config = compose(name, entry.load().Config, entry.defaults, layer, suite, suite.tasks[0], None, ())  # type: ignore
    return entry.load()(config.to_dict(), dims)


def make_windows(folder: Path, model: Any) -> Any:
    """Return windows over a random store of 100,000 steps with Hopper's dimensions."""
    from dtbench.data import store as stores
    from dtbench.data.windows import WindowOptions, Windows

    try:
        from dtbench.data.episodes import Episode
    except ImportError:
        Episode = stores.Episode  # type: ignore[attr-defined,misc]
    random, ended = np.random.default_rng(0), np.arange(LENGTH) == LENGTH - 1
    episodes = (
        Episode(
            random.normal(size=(LENGTH + 1, OBSERVATION_DIM)).astype(np.float32),
            random.uniform(-1, 1, size=(LENGTH, ACTION_DIM)).astype(np.float32),
            random.normal(size=LENGTH).astype(np.float32),
            np.zeros(LENGTH, dtype=bool),
            ended,
        )
        for _ in range(STEPS // LENGTH)
    )
    bound = np.ones(ACTION_DIM, dtype=np.float32)
    names = {"source": "test", "dataset_id": "perf", "env_id": "Hopper-v5"}
    store = stores.build_store(folder / "s", episodes, **names, action_low=-bound, action_high=bound)
    options = {"return_scale": 1000.0, **model.window_options}
    return Windows(store, WindowOptions(model.context_length, **options))


def keep_freed_memory() -> None:
    try:
        from dtbench.hardware import keep_freed_memory as keep
    except ImportError:
        return
    keep()


if __name__ == "__main__":
    main()
