"""Train one model on one dataset: Lightning does the work, a checkpoint makes it resumable at any step."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from dtbench.config import RunConfig
from dtbench.console import err
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.models.base import OfflineModule
from dtbench.results.schema import TrainingRecord
from dtbench.runs.folder import FINAL, LATEST, RECORD, STEP_FILE

#: How often TensorBoard's file is written.
_FLUSH_SECONDS = 5


class StepFile(Callback):
    """Leave the number of steps done in a file, for whoever watches from another process."""

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every == 0 and trainer.is_global_zero:
            self.file.write_text(str(batch_idx + 1))


class Stopwatch(Callback):
    """Wall time spent in training, kept in the checkpoint."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


def fit(
    module: OfflineModule,
    data: TrajectoryDataModule,
    config: RunConfig,
    folder: Path,
    callbacks: list[Callback] | None = None,
) -> TrainingRecord:
    """Train `module` in place, from `folder`'s checkpoint if there is one.

    A step is one batch; the whole training is one epoch of `config.training.steps` batches. Everything random is a
    function of (seed, step, rank), so an interrupted and resumed run ends where an uninterrupted one would.
    """
    final, record_file = folder / FINAL, folder / RECORD
    if final.is_file():
        load_weights(module, final)
        return TrainingRecord(**json.loads(record_file.read_text()))
    stopwatch = Stopwatch()
    hardware = config.hardware
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=hardware.precision,  # type: ignore[arg-type]
        callbacks=[
            stopwatch,
            StepFile(folder / STEP_FILE, config.training.log_every),
            *_checkpoints(config, folder),
            *_progress_bar(),
            *(callbacks or []),
        ],
        logger=_loggers(folder),
        log_every_n_steps=config.training.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ranks draw their own windows (data/windows.py)
        enable_model_summary=False,
        enable_progress_bar=err.is_terminal,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data, ckpt_path=_usable(folder / LATEST), weights_only=True)
    loss = module.final_loss
    record = TrainingRecord(
        steps=config.training.steps,
        wall_s=round(stopwatch.seconds, 3),
        steps_per_s=round(config.training.steps / stopwatch.seconds, 3),
        device=_device_name(trainer),
        precision=str(trainer.precision),
        world_size=trainer.world_size,
        final_loss=loss if math.isfinite(loss) else None,
    )
    if trainer.is_global_zero:
        record_file.write_text(json.dumps(asdict(record), indent=2) + "\n")
    trainer.save_checkpoint(final, weights_only=True)
    (folder / STEP_FILE).unlink(missing_ok=True)
    (folder / LATEST).unlink(missing_ok=True)
    return record


def load_weights(module: OfflineModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into `module`; nothing but tensors and plain values is unpickled."""
    module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])


def _usable(checkpoint: Path) -> Path | None:
    """Return the checkpoint to resume from; one that cannot be read is set aside and training starts afresh."""
    if not checkpoint.is_file():
        return None
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        aside = checkpoint.with_suffix(".unreadable")
        checkpoint.replace(aside)
        err.print(
            f"Checkpoint {checkpoint} cannot be read ({type(error).__name__}); set aside, training starts afresh."
        )
        return None
    return checkpoint


def _checkpoints(config: RunConfig, folder: Path) -> list[Callback]:
    return [
        ModelCheckpoint(
            dirpath=folder,
            filename=LATEST.removesuffix(".ckpt"),
            every_n_train_steps=config.training.checkpoint_every,
            save_top_k=1,
            enable_version_counter=False,
        )
    ]


def _loggers(folder: Path) -> list[Logger]:
    """TensorBoard and CSV; a resumed run starts another CSV file, because the logger would overwrite the first.

    Ctrl-C in the midst of handing a record to TensorBoard's thread leaves that thread asleep until its next flush, and
    the end of the run waits for it: so it flushes every few seconds, not every two minutes.
    """
    part = len(list(folder.glob("csv/part-*")))
    return [
        TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=_FLUSH_SECONDS),
        CSVLogger(folder, name="csv", version=f"part-{part}"),
    ]


def _progress_bar() -> list[Callback]:
    return [RichProgressBar(leave=False, console_kwargs={"stderr": True})] if err.is_terminal else []


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
