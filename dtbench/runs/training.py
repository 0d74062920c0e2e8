"""Train one model on one dataset: Lightning does the work, a checkpoint makes it resumable at any step."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger

from dtbench import atomic
from dtbench.config import COMPILE_MODES, HardwareConfig, RunConfig
from dtbench.console import err
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.determinism import fixed_order
from dtbench.errors import ConfigError
from dtbench.hardware import started_by_srun, started_by_torchrun
from dtbench.models.base import OfflineModule
from dtbench.models.checkpoint import load_checkpoint
from dtbench.results.schema import TrainingRecord
from dtbench.runs.folder import Progress, RunFolder, set_aside
from dtbench.runs.trackers import loggers, tracker_ids
from dtbench.signals import raise_if_stopped


class ProgressFile(Callback):
    """Write how far the training is to a file per run, for whoever watches from another process."""

    def __init__(self, folders: Sequence[RunFolder], every: int) -> None:
        self.folders, self.every = folders, every
        self.began: tuple[int, float] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the progress every `every` steps; stop if a signal was swallowed earlier."""
        raise_if_stopped()
        step, now = batch_idx + 1, time.monotonic()
        first, since = self.began = self.began or (step, now)
        if step % self.every or not trainer.is_global_zero:
            return
        speed = (step - first) / (now - since) if step > first else None
        losses = torch.atleast_1d(outputs.get("losses", outputs["loss"])).tolist()
        for folder, loss in zip(self.folders, losses, strict=True):
            folder.write_progress(Progress(step, loss if math.isfinite(loss) else None, speed))


class Stopwatch(Callback):
    """Wall time spent in training, kept in the checkpoint."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the watch."""
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent in training, those before a resumption included."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the time of the checkpoint."""
        self.before = state_dict["seconds"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning writes to the system's temporary folder and moves the file, which on another file system is a copy that a
    full disk or a kill cuts in half.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save `checkpoint` as `path`, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides a full disk behind an "unexpected pos"
                if isinstance(error.__context__, OSError):
                    reason = error.__context__
                    raise OSError(reason.errno, reason.strerror, str(path)) from error
                raise


def fit(
    module: OfflineModule,
    data: TrajectoryDataModule,
    config: RunConfig,
    folder: RunFolder,
    callbacks: list[Callback] | None = None,
) -> TrainingRecord:
    """Train `module` in place, from `folder`'s checkpoint if there is one.

    A step is one batch; the whole training is one epoch of `config.training.steps` batches. Everything random is a
    function of (seed, step, rank), so an interrupted and resumed run ends where an uninterrupted one would. Files that
    cannot be read are set aside, and the training starts from what is left.
    """
    finished = finished_training(module, folder)
    if finished is not None:
        return finished
    compile_training(module, config.hardware)
    stopwatch = Stopwatch()
    own = [stopwatch, *(callbacks or [])]
    made = loggers(folder, config.hardware.loggers)
    trainer = training_trainer(config, [folder], own, AtomicCheckpointIO(), made or False)
    with fixed_order():
        trainer.fit(module, datamodule=data, ckpt_path=readable(folder.latest), weights_only=True)
    trainer.save_checkpoint(folder.final, weights_only=True)
    return record_training(trainer, stopwatch.seconds, module, config, folder, made)


def training_trainer(
    config: RunConfig,
    folders: Sequence[RunFolder],
    callbacks: Sequence[Callback],
    checkpoints: AtomicCheckpointIO,
    logger: list[Logger] | bool,
) -> lightning.Trainer:
    """Make the Trainer of one training: of one run, or of several that are trained as one.

    Args:
        config: the configuration of all of them.
        folders: of each run; Lightning keeps its own files in the first.
        callbacks: further ones.
        checkpoints: writes and reads the checkpoints.
        logger: what Lightning logs to.
    """
    return new_trainer(
        config.hardware,
        max_epochs=1,
        callbacks=[
            ProgressFile(folders, config.training.log_every),
            *_checkpoints(config, folders[0]),
            *_progress_bar(),
            *callbacks,
        ],
        plugins=[checkpoints],
        logger=logger,
        log_every_n_steps=config.training.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ranks draw their own windows (data/windows.py)
        enable_model_summary=False,
        enable_progress_bar=err.is_terminal,
        default_root_dir=folders[0].path,
    )


def record_training(
    trainer: lightning.Trainer,
    seconds: float,
    module: OfflineModule,
    config: RunConfig,
    folder: RunFolder,
    made: Sequence[Logger],
    stacked_seeds: list[int] | None = None,
) -> TrainingRecord:
    """Describe a training that has ended, beside its weights; its checkpoint to resume from is no longer needed."""
    loss = module.final_loss
    record = TrainingRecord(
        steps=config.training.steps,
        wall_s=round(seconds, 3),
        steps_per_s=round(config.training.steps / seconds, 3),
        device=_device_name(trainer),
        precision=str(trainer.precision),
        world_size=trainer.world_size,
        final_loss=loss if math.isfinite(loss) else None,
        checkpoint_sha256=sha256(folder.final) if trainer.is_global_zero else None,
        effective_batch=trainer.world_size * config.training.batch_size,
        stacked_seeds=stacked_seeds,
        trackers=tracker_ids(made) if trainer.is_global_zero else None,
    )
    if trainer.is_global_zero:
        atomic.write_text(folder.training, json.dumps(asdict(record), indent=2) + "\n")
        folder.progress.unlink(missing_ok=True)
        folder.latest.unlink(missing_ok=True)
    return record


def compile_training(module: OfflineModule, hardware: HardwareConfig) -> None:
    """Compile the module's training steps as `hardware.compile` asks; its weights keep their names."""
    if hardware.compile != "off" and not module.compile_training(mode=COMPILE_MODES[hardware.compile]):
        err.print(f"{type(module).__name__} has nothing to compile: hardware.compile changes nothing", markup=False)


def new_trainer(hardware: HardwareConfig, plugins: Sequence[Any] = (), **options: Any) -> lightning.Trainer:
    """Make Lightning's Trainer for the hardware asked for.

    Raises:
        ConfigError: Lightning does not know the accelerator, strategy or precision, or this machine lacks the devices.
    """
    if _numbers_its_own_ranks(hardware):
        plugins = [*plugins, LightningEnvironment()]
    try:
        return lightning.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            strategy=hardware.strategy,
            precision=hardware.precision,  # type: ignore[arg-type]
            plugins=list(plugins),
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        wanted = f"accelerator={hardware.accelerator}, devices={hardware.devices}, num_nodes={hardware.num_nodes}, "
        wanted += f"strategy={hardware.strategy}, precision={hardware.precision}"
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"Lightning refuses {wanted}: {reason}.") from error


def _numbers_its_own_ranks(hardware: HardwareConfig) -> bool:
    """Say whether Slurm has no part in a run, though its variables are there.

    Lightning takes them for srun's. In a batch script, which is a single process, it would wait for tasks that nobody
    starts; and tasks of one srun that train on one device each have nothing to do with each other.
    """
    is_alone = hardware.devices * hardware.num_nodes == 1
    return "SLURM_JOB_ID" in os.environ and not started_by_torchrun() and (is_alone or not started_by_srun())


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def load_weights(module: OfflineModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into `module`; nothing but tensors and plain values is unpickled.

    Raises:
        ConfigError: the file is damaged, or its weights are another model's.
    """
    state = load_checkpoint(checkpoint).get("state_dict")
    try:
        module.load_state_dict(state)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{checkpoint} holds no weights of this model ({reason}); train the run again.") from error


def finished_training(module: OfflineModule, folder: RunFolder) -> TrainingRecord | None:
    """Load the weights of a finished training and return its record; None if it is not finished or not readable."""
    if not (folder.final.is_file() and folder.training.is_file()):
        return None
    try:
        record = TrainingRecord(**json.loads(folder.training.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        set_aside(folder.training, type(error).__name__)
        return None
    if record.checkpoint_sha256 not in (None, sha256(folder.final)):
        set_aside(folder.final, "it is not what the training wrote")
        return None
    try:
        load_weights(module, folder.final)
    except ConfigError as error:
        set_aside(folder.final, str(error))
        return None
    return record


def readable(checkpoint: Path) -> Path | None:
    """Return the checkpoint to resume from; one that cannot be read is set aside and training starts afresh."""
    if not checkpoint.is_file():
        return None
    try:
        if {"state_dict", "optimizer_states", "loops"} <= set(load_checkpoint(checkpoint)):
            return checkpoint
    except ConfigError:
        pass
    set_aside(checkpoint, "it is no checkpoint of a training; training starts afresh")
    return None


def _checkpoints(config: RunConfig, folder: RunFolder) -> list[Callback]:
    return [
        ModelCheckpoint(
            dirpath=folder.path,
            filename=folder.latest.stem,
            every_n_train_steps=config.training.checkpoint_every,
            save_top_k=1,
            enable_version_counter=False,
        )
    ]


def _progress_bar() -> list[Callback]:
    return [RichProgressBar(leave=False, console_kwargs={"stderr": True})] if err.is_terminal else []


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
