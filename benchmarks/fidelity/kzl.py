"""The authors' program (kzl/decision-transformer, gym/), run from its checkout as it is.

`experiment.experiment` itself is called: its batches, its optimiser, its trainer, its model. Replaced are only the file
it reads, the environment (gymnasium's, behind gym's old interface), and those parts of transformers 4.5 that newer
versions lack. Its losses are recorded by a subclass of its trainer.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import common
import numpy as np
import torch
import transformers.activations
import transformers.modeling_outputs
import transformers.models.gpt2.configuration_gpt2
import transformers.utils.logging
from common import CONTEXT, HORIZON, SCALE, Acting, Columns, OldGym, Settings, Trained
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class PreTrainedModel(nn.Module):
    """What the reference's GPT-2 uses of the class of that name in transformers 4.5.1."""

    def __init__(self, config: Any, *_: Any, **__: Any) -> None:
        super().__init__()
        self.config = config

    def init_weights(self) -> None:
        """Give every module its initial weights, as the subclass's `_init_weights` says."""
        self.apply(self._init_weights)

    def get_head_mask(self, head_mask: None, layers: int) -> list[None]:
        """Return no mask for each layer."""
        assert head_mask is None
        return [None] * layers

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype


def _config(**options: Any) -> SimpleNamespace:
    """Return what `GPT2Config(**options)` of transformers 4.5.1 holds, as far as the reference reads it."""
    defaults = {
        "n_ctx": 1024,
        "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "add_cross_attention": False,
        "use_cache": True,
        "output_attentions": False,
        "output_hidden_states": False,
        "use_return_dict": True,
    }
    return SimpleNamespace(**{**defaults, **options})


def _decorator(*_: Any, **__: Any) -> Any:
    """Leave the function as it is; the real decorator edits its docstring."""
    return lambda function: function


@functools.cache
def load(checkout: Path) -> ModuleType:
    """Import the reference's `experiment.py`."""
    docstrings = ("add_code_sample_docstrings", "add_start_docstrings", "add_start_docstrings_to_model_forward")
    unused = ("SequenceSummary", "find_pruneable_heads_and_indices", "prune_conv1d_layer")
    with common.stand_ins(
        checkout / "gym",
        gym={"make": lambda name: OldGym()},
        wandb={},
        transformers__file_utils={
            "ModelOutput": transformers.utils.ModelOutput,
            **dict.fromkeys((*docstrings, "replace_return_docstrings"), _decorator),
        },
        transformers__modeling_utils={
            "Conv1D": Conv1D,
            "PreTrainedModel": PreTrainedModel,
            **dict.fromkeys(unused, common.nothing),
        },
        transformers__utils__model_parallel_utils=dict.fromkeys(("assert_device_map", "get_device_map")),
    ):
        experiment = importlib.import_module("experiment")
        network = importlib.import_module("decision_transformer.models.decision_transformer")
    network.transformers = SimpleNamespace(GPT2Config=_config)
    return experiment


def model_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of the reference's `DecisionTransformer`, as its program gives them."""
    return {
        "max_length": CONTEXT,
        "max_ep_len": HORIZON,
        "hidden_size": 128,
        "n_layer": 3,
        "n_head": 1,
        "n_inner": 512,
        "activation_function": "relu",
        "n_positions": 1024,
        "resid_pdrop": settings.dropout,
        "attn_pdrop": settings.dropout,
    }


def predict(model: nn.Module, window: dict[str, Tensor]) -> Tensor:
    """Predict all actions of windows of dtbench's with the reference's network."""
    _, actions, _ = model(
        window["observations"],
        window["actions"],
        None,
        window["returns_to_go"][..., None],
        window["timesteps"],
        attention_mask=window["padding_mask"].long(),
    )
    return actions


def train(checkout: Path, columns: Columns, settings: Settings, seed: int) -> Trained:
    """Run the reference's program."""
    experiment = load(checkout)
    trajectories = common.split_episodes(columns)
    trainer = experiment.SequenceTrainer
    losses: list[float] = []
    models: list[nn.Module] = []

    class Recorder(trainer):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "eval_fns": []})
            models.append(self.model)

        def train_step(self) -> float:
            losses.append(super().train_step())
            common.progress("kzl", losses)
            return losses[-1]

    variant = {
        "env": "halfcheetah",
        "dataset": "medium",
        "mode": "normal",
        "K": CONTEXT,
        "pct_traj": 1.0,
        "batch_size": settings.batch_size,
        "model_type": "dt",
        "embed_dim": 128,
        "n_layer": 3,
        "n_head": 1,
        "activation_function": "relu",
        "dropout": settings.dropout,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup_steps,
        "num_eval_episodes": 0,
        "max_iters": 1,
        "num_steps_per_iter": settings.steps,
        "device": "cpu",
        "log_to_wandb": False,
    }
    experiment.open = lambda path, mode: contextlib.nullcontext()  # the file's content is here already
    experiment.pickle = SimpleNamespace(load=lambda file: trajectories)
    experiment.SequenceTrainer = Recorder
    common.seed_everything(seed)
    try:
        experiment.experiment("side-by-side", variant)
    finally:
        experiment.SequenceTrainer = trainer
    mean, std = state_statistics(columns)
    play = functools.partial(own_loop, experiment, models[0], columns)
    return Trained(Acting(models[0].eval(), predict), losses, mean, std, play)


def state_statistics(columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute mean and standard deviation of the observations as the program does."""
    states = columns["observations"]
    return np.mean(states, axis=0), np.std(states, axis=0) + 1e-6


def own_loop(
    experiment: ModuleType,
    model: nn.Module,
    columns: Columns,
    target: float,
    seeds: list[int],
    steps: int = HORIZON,
) -> list[float]:
    """Evaluate a network with the program's own loop, one episode per environment seed; return their returns."""
    env, (mean, std) = OldGym(seeds=seeds), state_statistics(columns)
    options = {"max_ep_len": steps, "scale": SCALE, "target_return": target / SCALE, "device": "cpu"}
    with torch.no_grad():
        played = [
            experiment.evaluate_episode_rtg(env, len(mean), 6, model, **options, state_mean=mean, state_std=std)
            for _ in seeds
        ]
    return [float(episode_return) for episode_return, _ in played]
