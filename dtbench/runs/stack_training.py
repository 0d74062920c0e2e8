"""Train several seeds as one: what `training.fit` does for one run.

Each seed keeps the files of its lone run: loss curve, progress, checkpoint, weights. So a seed of a stack can go on
alone, and runs that were interrupted alone can go on as a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from dtbench.config import RunConfig
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.determinism import fixed_order
from dtbench.evaluation.callback import EvaluationCallback
from dtbench.models.base import OfflineModule
from dtbench.models.checkpoint import load_checkpoint
from dtbench.results.schema import ErrorRecord, TrainingRecord
from dtbench.runs.folder import RunFolder
from dtbench.runs.stack import Stack, StackData
from dtbench.runs.trackers import loggers
from dtbench.runs.training import (
    AtomicCheckpointIO,
    Stopwatch,
    finished_training,
    fit,
    readable,
    record_training,
    training_trainer,
)
from dtbench.signals import raise_if_stopped

#: The keys of callbacks' states in a lone run's checkpoint: the names of their classes.
_STOPWATCH, _EVALUATION = Stopwatch.__qualname__, EvaluationCallback.__qualname__


@dataclass(frozen=True)
class Seed:
    """One seed that is to be trained.

    Attributes:
        watch: evaluates it during training, if that is wanted.
    """

    module: OfflineModule
    data: TrajectoryDataModule
    folder: RunFolder
    watch: EvaluationCallback | None = None


def fit_seeds(seeds: Sequence[Seed], config: RunConfig) -> list[TrainingRecord | ErrorRecord]:
    """Train the seeds in place, each from its own checkpoint; those that stand at the same step are trained as one.

    Returns:
        One record per seed; an error where an evaluation during training failed.
    """
    if len(seeds) == 1:
        return _fit_stack(seeds, config)
    found: dict[int, TrainingRecord | ErrorRecord] = {}
    waiting: dict[int, list[int]] = {}
    for index, seed in enumerate(seeds):
        finished = finished_training(seed.module, seed.folder)
        if finished is None:
            waiting.setdefault(_step(seed.folder), []).append(index)
        else:
            found[index] = finished
    for numbers in waiting.values():
        found |= zip(numbers, _fit_stack([seeds[index] for index in numbers], config), strict=True)
    return [found[index] for index in range(len(seeds))]


def _step(folder: RunFolder) -> int:
    """Return how many steps of training the folder's checkpoint holds, 0 without one."""
    latest = readable(folder.latest)
    return 0 if latest is None else int(load_checkpoint(latest)["global_step"])


def _fit_stack(seeds: Sequence[Seed], config: RunConfig) -> list[TrainingRecord | ErrorRecord]:
    if len(seeds) == 1:
        (seed,) = seeds
        return [fit(seed.module, seed.data, config, seed.folder, [seed.watch] if seed.watch else [])]
    folders, stack, stopwatch = [seed.folder for seed in seeds], Stack([seed.module for seed in seeds]), Stopwatch()
    logs, checkpoints = SeedLogs(seeds, config), StackCheckpoints(stack, folders)
    trainer = training_trainer(config, folders, [stopwatch, logs], checkpoints, logger=False)
    try:
        data = StackData([seed.data for seed in seeds])
        with fixed_order():
            trainer.fit(stack, datamodule=data, ckpt_path=readable(folders[0].latest), weights_only=True)
    finally:
        logs.finalize()
    seconds, together = stopwatch.seconds, [seed.module.seed for seed in seeds]
    trainer.save_checkpoint(folders[0].final, weights_only=True)
    records = [
        record_training(trainer, seconds, seed.module, config, seed.folder, made, together)
        for seed, made in zip(seeds, logs.loggers, strict=True)
    ]
    return [logs.failures.get(index, record) for index, record in enumerate(records)]


class StackCheckpoints(AtomicCheckpointIO):
    """Keeps the checkpoint of a stack as those of the lone runs, one in each seed's folder."""

    def __init__(self, stack: Stack, folders: Sequence[RunFolder]) -> None:
        self.stack, self.folders = stack, folders

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save each seed's part under the name of `path`, in its own folder."""
        for index, folder in enumerate(self.folders):
            lone = self.stack.split(checkpoint, index)
            if "callbacks" in checkpoint:
                lone["callbacks"] = _callbacks_of(checkpoint["callbacks"], index)
            super().save_checkpoint(lone, folder.path / Path(path).name, storage_options)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load the seeds' checkpoints, which stand at the same step."""
        loaded = []
        for folder in self.folders:
            loaded.append(super().load_checkpoint(folder.path / Path(path).name, *args, **kwargs))
        callbacks = [checkpoint["callbacks"] for checkpoint in loaded]
        return {**self.stack.join(loaded), "callbacks": _join_callbacks(callbacks)}


def _callbacks_of(states: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return what the callbacks of one seed's lone run keep."""
    own = states[SeedLogs.__qualname__]["seeds"][index]
    return {_STOPWATCH: states[_STOPWATCH]} | ({_EVALUATION: own} if own else {})


def _join_callbacks(lone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a stack's callbacks keep; its time is that of the seed that took longest so far."""
    slowest = max((states[_STOPWATCH] for states in lone), key=lambda state: state["seconds"])
    return {_STOPWATCH: slowest, SeedLogs.__qualname__: {"seeds": [states.get(_EVALUATION) for states in lone]}}


class SeedLogs(Callback):
    """Writes each seed's losses and metrics where its lone run logs them, and evaluates it where that is wanted.

    Attributes:
        failures: by the seed's place, the error that an evaluation raised; the seed is not evaluated again.
    """

    def __init__(self, seeds: Sequence[Seed], config: RunConfig) -> None:
        self.seeds, self.every, self.names = seeds, config.training.log_every, config.hardware.loggers
        self.failures: dict[int, ErrorRecord] = {}
        self.loggers: list[list[Logger]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the logs."""
        for seed in self.seeds:
            self.loggers.append(loggers(seed.folder, self.names))
            for logger in self.loggers[-1]:
                logger.log_hyperparams(dict(seed.module.hparams))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every `every` steps, and evaluate the seeds whose time it is."""
        if (batch_idx + 1) % self.every == 0:
            values = {"loss": outputs["losses"], **outputs["metrics"]}
            columns = {f"train/{name}": value.tolist() for name, value in values.items()}
            for index in range(len(self.seeds)):
                self._log(index, {name: column[index] for name, column in columns.items()}, batch_idx)
        for index, seed in enumerate(self.seeds):
            if seed.watch is not None and (batch_idx + 1) % seed.watch.every == 0 and index not in self.failures:
                self._evaluate(index, seed.watch, batch_idx)

    def _evaluate(self, index: int, watch: EvaluationCallback, step: int) -> None:
        module = self.seeds[index].module
        try:
            score = watch.evaluate(module, step + 1, next(module.parameters()).device)
        except Exception as failure:  # noqa: BLE001 - one seed's failure must not end the others
            raise_if_stopped()  # a signal came amid a library's clean-up, which then failed
            module.train()
            self.failures[index] = ErrorRecord.from_exception(failure)
        else:
            self._log(index, {watch.name: 100 * score}, step)

    def _log(self, index: int, metrics: dict[str, float], step: int) -> None:
        for logger in self.loggers[index]:
            logger.log_metrics({"epoch": 0, **metrics}, step)
            logger.save()

    def finalize(self) -> None:
        """Close the logs."""
        for logger in _flat(self.loggers):
            logger.finalize("finished")

    def state_dict(self) -> dict[str, Any]:
        return {"seeds": [seed.watch.state_dict() if seed.watch else None for seed in self.seeds]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for seed, state in zip(self.seeds, state_dict["seeds"], strict=True):
            if seed.watch is not None and state is not None:
                seed.watch.load_state_dict(state)


def _flat(groups: Iterable[Iterable[Logger]]) -> list[Logger]:
    return [logger for group in groups for logger in group]
