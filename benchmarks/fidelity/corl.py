"""CORL's single-file Decision Transformer (corl-team/CORL, algorithms/offline/dt.py), run from its checkout as it is.

Its `train` is called: its data pipeline, network and optimiser. Replaced are the packages around it (pyrallis, wandb,
d4rl and gym). Its training loss divides by all steps of the windows, padding included; here it is recorded divided by
the real ones, like the others'.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import common
import torch
from common import CONTEXT, HORIZON, Acting, Columns, OldGym, Settings, Trained
from torch import Tensor, nn


@functools.cache
def load(checkout: Path) -> ModuleType:
    """Import CORL's `dt.py`."""
    with common.stand_ins(
        checkout / "algorithms" / "offline",
        d4rl={},
        gym={"Env": OldGym},
        pyrallis={"wrap": lambda: lambda function: function},
        wandb={},
    ):
        return importlib.import_module("dt")


def model_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of CORL's `DecisionTransformer` with equal settings; they are its own defaults."""
    return {
        "seq_len": CONTEXT,
        "episode_len": HORIZON,
        "embedding_dim": 128,
        "num_layers": 3,
        "num_heads": 1,
        "attention_dropout": settings.dropout,
        "residual_dropout": settings.dropout,
        "embedding_dropout": settings.dropout,
    }


def predict(model: nn.Module, window: dict[str, Tensor]) -> Tensor:
    """Predict all actions of the real steps of windows that have the same number of them."""
    real = slice(-int(window["padding_mask"][0].sum()), None)
    names = ("observations", "actions", "returns_to_go", "timesteps")
    return model(*(window[name][:, real] for name in names))


def train(checkout: Path, columns: Columns, settings: Settings, seed: int) -> Trained:
    """Run CORL's program."""
    dt = load(checkout)
    network = dt.DecisionTransformer
    losses: list[float] = []
    models: list[nn.Module] = []
    shares: list[float] = []

    class Recorder(network):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            models.append(self)

        def forward(self, *inputs: Tensor, padding_mask: Tensor | None = None, **named: Tensor) -> Tensor:
            if padding_mask is not None:  # in training only
                shares.append(float((~padding_mask).float().mean()))
            return super().forward(*inputs, padding_mask=padding_mask, **named)

    def log(values: dict[str, float], step: int) -> None:
        losses.append(values["train_loss"] / shares[-1])
        common.progress("corl", losses)

    dt.gym = SimpleNamespace(make=lambda name: OldGym(columns), Env=OldGym)
    dt.wandb = SimpleNamespace(init=common.nothing, run=SimpleNamespace(save=common.nothing), log=log)
    dt.wrap_env = lambda env, **_: env  # used in evaluation only, which is not done here
    dt.trange = lambda count, **_: range(count)
    dt.DecisionTransformer = Recorder
    config = dt.TrainConfig(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        batch_size=settings.batch_size,
        update_steps=settings.steps,
        num_workers=0,
        target_returns=(),
        train_seed=seed,
        device="cpu",
        **model_options(settings),
    )
    try:
        dt.train(config)
    finally:
        dt.DecisionTransformer = network
    states = columns["observations"]
    mean, std = states.mean(0), states.std(0) + 1e-6  # as CORL computes them
    return Trained(Acting(models[0].eval(), predict), losses, mean, std)


def loss(model: nn.Module, window: dict[str, Tensor]) -> Tensor:
    """Compute the mean squared error over the steps of windows without padding."""
    return torch.nn.functional.mse_loss(predict(model, window), window["actions"])
