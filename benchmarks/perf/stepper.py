"""Time one thing again and again, on request: `against.py` runs this beside itself under two versions of dtbench.

    python stepper.py dt 32-true     a training step
    python stepper.py evaluation 32-true     200 steps of ten HalfCheetahs with the paper's `dt`

It reads a number of repetitions per line from its input and answers with their seconds as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from dtbench.data.datamodule import WindowLoader

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
    """Repeat what the command line names as often as each line of the input says."""
    what, precision = sys.argv[1:]
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        repeat = evaluation(precision) if what == "evaluation" else training(what, precision, Path(folder))
        for line in sys.stdin:
            print(json.dumps(repeat(int(line))), flush=True)  # noqa: T201


class Clock(Callback):
    """Seconds of each step but the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def training(name: str, precision: str, folder: Path) -> Callable[[int], list[float]]:
    """Return what trains for some steps with Lightning's Trainer: batch, seed, loss, backward, clip, update, log."""
    model = build(name, PRESETS[name], {"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM}).train()
    windows = make_windows(folder, model)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def steps(count: int) -> list[float]:
        clock = Clock()
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            precision=precision,  # type: ignore[arg-type]
            callbacks=[clock],
            logger=CSVLogger(folder),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, WindowLoader(windows, BATCHES.get(name, 64), count + 1, seed=0))
        return clock.seconds

    return steps


def evaluation(precision: str) -> Callable[[int], list[float]]:
    """Return what evaluates some times."""
    from dtbench.evaluation import rollout

    model = build("dt", "paper", {"observation_dim": 17, "action_dim": 6}).eval()
    protocol_class = getattr(rollout, "EvaluationProtocol", None) or rollout.Protocol
    mean, std = np.zeros(17, np.float32), np.ones(17, np.float32)
    protocol = protocol_class("HalfCheetah-v5", EVALUATION_STEPS, 1000.0, mean, std)
    options: dict[str, Any] = {} if precision == "32-true" else {"precision": precision}

    def evaluate(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            rollout.evaluate(model, protocol, 6000.0, EPISODES, **options)
            seconds.append(time.perf_counter() - started)
        return seconds

    return evaluate


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
    """Do as a worker of the present version does."""
    try:
        from dtbench.hardware import keep_freed_memory as keep
    except ImportError:
        return
    keep()


if __name__ == "__main__":
    main()
