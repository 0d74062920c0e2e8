"""dtbench's own `dt`, trained by the classes that `dtbench run` uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import lightning
import torch
from common import CONTEXT, HORIZON, SCALE, Settings, Trained
from lightning.pytorch.callbacks import Callback

from dtbench.config import RunConfig, compose, load_preset
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.data.sources.d4rl import import_file
from dtbench.data.store import TrajectoryStore
from dtbench.data.windows import WindowOptions
from dtbench.models.base import OfflineModule
from dtbench.registry import model_entry
from dtbench.runs.training import new_trainer
from dtbench.suites.suites import load_suite

DATASET = "halfcheetah-medium-v2"


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self, side: str) -> None:
        self.side, self.losses = side, list[float]()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss."""
        self.losses.append(float(outputs["loss"]))
        common.progress(self.side, self.losses)


def store(file: Path) -> TrajectoryStore:
    """Import the data, or open them if they are imported."""
    return import_file(file, DATASET)


def configure(settings: Settings, changes: tuple[str, ...] = ()) -> RunConfig:
    """Compose preset `paper` of `dt` with the settings of the comparison and further `--set` changes."""
    suite = load_suite("d4rl-short")
    overrides = [
        f"training.steps={settings.steps}",
        f"training.batch_size={settings.batch_size}",
        f"training.context_length={CONTEXT}",
        f"optimizer.learning_rate={settings.learning_rate}",
        f"optimizer.warmup_steps={settings.warmup_steps}",
        f"optimizer.weight_decay={settings.weight_decay}",
        f"model.dropout={settings.dropout}",
        "hardware.accelerator=cpu",
        *changes,
    ]
    task = suite.task("halfcheetah-medium")
    return compose(model_entry("dt").settings, preset=load_preset("paper"), suite=suite, task=task, overrides=overrides)


def build(config: RunConfig, seed: int) -> OfflineModule:
    """Build the model with its initial weights."""
    dims = {"observation_dim": 17, "action_dim": 6, "max_timesteps": HORIZON}
    return model_entry("dt").load()(config, dims, seed)


def data_module(file: Path, settings: Settings, seed: int) -> TrajectoryDataModule:
    """Return the batches of a training."""
    options = WindowOptions(CONTEXT, return_scale=SCALE)
    return TrajectoryDataModule(
        store(file).path, options, batch_size=settings.batch_size, steps=settings.steps, seed=seed
    )


def train(file: Path, settings: Settings, seed: int, side: str = "ours", changes: tuple[str, ...] = ()) -> Trained:
    """Train `dt`."""
    config = configure(settings, changes)
    module, data, recorder = build(config, seed), data_module(file, settings, seed), Losses(side)
    trainer = new_trainer(
        config.hardware,
        max_epochs=1,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    windows = data.windows
    return Trained(module.eval(), recorder.losses, windows.state_mean.numpy(), windows.state_std.numpy())


def copy_from_kzl(module: OfflineModule, reference: torch.nn.Module) -> None:
    """Copy the weights of the authors' network."""
    weights = dict(reference.named_parameters())
    copied = _embeddings(weights, "embed_ln", "predict_action.0")
    for layer in range(module.options.layers):
        block, prefix = f"trunk.blocks.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):  # a Conv1D's weight is (in, out)
            together = weights[f"{prefix}.attn.c_attn.{part}"].chunk(3, dim=-1)
            for name, piece in zip(("query", "key", "value"), together, strict=True):
                copied[f"{block}.mixer.{name}.{part}"] = piece.t() if part == "weight" else piece
            pairs = {"mixer.output": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
            for mine, other in pairs.items():
                value = weights[f"{prefix}.{other}.{part}"]
                copied[f"{block}.{mine}.{part}"] = value.t() if part == "weight" else value
            for mine, other in {"mixer_norm": "ln_1", "mlp_norm": "ln_2"}.items():
                copied[f"{block}.{mine}.{part}"] = weights[f"{prefix}.{other}.{part}"]
    copied |= {f"trunk.final_norm.{part}": weights[f"transformer.ln_f.{part}"] for part in ("weight", "bias")}
    _load(module, copied)


def copy_from_corl(module: OfflineModule, reference: torch.nn.Module) -> None:
    """Copy the weights of CORL's network; its time table has 20 more rows, for padding."""
    weights = dict(reference.named_parameters())
    renamed = {
        "embed_timestep.weight": weights["timestep_emb.weight"][:HORIZON],
        **{
            f"embed_{name}.{part}": weights[f"{short}_emb.{part}"]
            for name, short in {"state": "state", "action": "action", "return": "return"}.items()
            for part in ("weight", "bias")
        },
    }
    copied = _embeddings({**weights, **renamed}, "emb_norm", "action_head.0")
    for layer in range(module.options.layers):
        block, prefix = f"trunk.blocks.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            together = weights[f"{prefix}.attention.in_proj_{part}"].chunk(3)
            for name, piece in zip(("query", "key", "value"), together, strict=True):
                copied[f"{block}.mixer.{name}.{part}"] = piece
            pairs = {"mixer.output": "attention.out_proj", "mlp_in": "mlp.0", "mlp_out": "mlp.2"}
            pairs |= {"mixer_norm": "norm1", "mlp_norm": "norm2"}
            for mine, other in pairs.items():
                copied[f"{block}.{mine}.{part}"] = weights[f"{prefix}.{other}.{part}"]
    copied |= {f"trunk.final_norm.{part}": weights[f"out_norm.{part}"] for part in ("weight", "bias")}
    _load(module, copied)


def _embeddings(weights: dict[str, Any], norm: str, head: str) -> dict[str, Any]:
    copied = {"embedding.embed_timestep.weight": weights["embed_timestep.weight"]}
    pairs = {f"embedding.embed_{name}": f"embed_{name}" for name in ("return", "state", "action")}
    pairs |= {"embedding.norm": norm, "head.layers.0": head}
    for mine, other in pairs.items():
        copied |= {f"{mine}.{part}": weights[f"{other}.{part}"] for part in ("weight", "bias")}
    return copied


def _load(module: OfflineModule, weights: dict[str, Any]) -> None:
    """Load the weights; every parameter must be among them."""
    missing = {name for name, _ in module.named_parameters()} ^ set(weights)
    assert not missing, f"not copied: {sorted(missing)}"
    module.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, strict=False)
