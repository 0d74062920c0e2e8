"""Several seeds of one model, trained as one: their weights are stacked, and `torch.vmap` computes all their losses.

A small model leaves a GPU idle between its many small kernels; a stack shares each kernel among its seeds. Seed k draws
the windows and dropout masks of its lone run, its gradients are clipped by their own norm, and AdamW works number by
number: what differs from the lone run is the order in which sums are added up. After 50 steps in float32 on a CPU the
losses of the sequence models and of `bc` differed by at most 5e-7 of their size, the actions by 7e-7 and the weights by
4e-6 (`tests/runs/test_stack.py`); in bfloat16 the losses by up to 9e-3. On a GPU dropout masks come from one stream for
all seeds, so that a seed equals its lone run in distribution only; without dropout a stack's losses on an H100 were
those on a CPU (`tests/test_devices.py`). A training that is unstable magnifies this rounding, as it does that of
another machine or number of threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, cast

import lightning
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dtbench.data.datamodule import TrajectoryDataModule, WindowLoader
from dtbench.determinism import seed_torch, torch_seed
from dtbench.models.base import OfflineModule, Window
from dtbench.models.parts.dropout import Dropout, side_by_side
from dtbench.models.parts.optimizer import adamw

_PREFIX = "stacked."
_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Stack(lightning.LightningModule):
    """The modules of several seeds, trained as one.

    Args:
        seeds: one module per seed, equal in everything but their weights; they must be `stackable`. Their weights
            become views of the stacked ones, so that each can be used at any time.

    Attributes:
        seeds: those modules.
        stacked: a module like them, whose every parameter and buffer has one more dimension in front, the seeds.
    """

    def __init__(self, seeds: Sequence[OfflineModule]) -> None:
        super().__init__()
        self.save_hyperparameters(dict(seeds[0].hparams))
        self.seeds = tuple(seeds)  # a tuple, so that PyTorch does not take them for parts of this module
        self.stacked = copy.deepcopy(seeds[0])
        states = [_tensors(module) for module in seeds]
        for name, tensor in _tensors(self.stacked).items():
            tensor.data = torch.stack([state[name].detach() for state in states])
        self._share_weights()
        self._loss = (_Loss(seeds[0]),)
        self._masks = 2 * sum(isinstance(part, Dropout) for part in seeds[0].modules())

    def _share_weights(self) -> None:
        """Let the seeds' weights be views of the stacked ones."""
        stacked = _tensors(self.stacked)
        for index, module in enumerate(self.seeds):
            for name, tensor in _tensors(module).items():
                tensor.data = stacked[name].data[index]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the weights: what `to`, `cuda` and the like call."""
        super()._apply(fn, recurse)
        self._share_weights()
        return self

    def losses(self, batch: Window, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute each seed's loss of its batch.

        Args:
            batch: what the lone runs see, stacked: (seeds, B, …).
            step: 0-based step of the training.

        Returns:
            The losses (seeds,), and the metrics by name, each (seeds,).
        """
        for module in self.seeds:
            module.step = step
        weights = {f"module.{name}": tensor for name, tensor in _tensors(self.stacked).items()}

        def one_seed(weights: dict[str, Tensor], window: Window) -> tuple[Tensor, dict[str, Tensor]]:
            return cast(tuple[Tensor, dict[str, Tensor]], functional_call(self._loss[0], weights, (window,)))

        # On a CPU whatever draws random numbers other than dropout masks is refused: it would not be the lone run's.
        randomness = "error" if self.device.type == "cpu" else "different"
        seed_torch(self.seeds[0].seed, step)
        with side_by_side([torch_seed(module.seed, step) for module in self.seeds], self._masks):
            losses, metrics = torch.vmap(one_seed, randomness=randomness)(weights, batch)
        return losses, metrics

    def training_step(self, batch: Window, batch_idx: int) -> dict[str, Any]:
        """Compute the losses of one step. The gradient of their sum holds each seed's own gradient."""
        losses, metrics = self.losses(batch, batch_idx)
        recent = self.stacked.recent_losses
        recent[:, batch_idx % recent.shape[1]] = losses.detach()
        return {"loss": losses.sum(), "losses": losses.detach(), "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """Return AdamW with the model's own parameter groups, and the schedule of its rates."""
        first = self.seeds[0]
        groups = [{**group, "params": self._stacked(group["params"])} for group in first.parameter_groups()]
        return adamw(groups, first.optimizer_config, first.steps)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of each seed's gradients, then drop those of the step's frozen parameters."""
        first = self.seeds[0]
        if first.optimizer_config.gradient_clip > 0:
            clip_each(list(self.stacked.parameters()), first.optimizer_config.gradient_clip)
        for parameter in self._stacked(first.frozen_parameters(first.step)):
            parameter.grad = None

    def _stacked(self, parameters: Any) -> list[nn.Parameter]:
        """Return the stacked ones of the first seed's parameters."""
        names = {id(parameter): name for name, parameter in self.seeds[0].named_parameters()}
        stacked = dict(self.stacked.named_parameters())
        return [stacked[names[id(parameter)]] for parameter in parameters]

    def split(self, checkpoint: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return what the checkpoint of one seed's lone run holds, from the checkpoint of this stack."""
        module = self.seeds[index]
        weights = {name.removeprefix(_PREFIX): value[index].clone() for name, value in checkpoint["state_dict"].items()}
        lone = {**checkpoint, "state_dict": weights, module.CHECKPOINT_HYPER_PARAMS_KEY: dict(module.hparams)}
        if "optimizer_states" in checkpoint:
            states = checkpoint["optimizer_states"]
            lone["optimizer_states"] = [
                _of_each_parameter(state, lambda value: value[index].clone()) for state in states
            ]
        return lone

    @staticmethod
    def join(checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a stack's checkpoint from those of lone runs at the same step: the reverse of `split`."""
        first = checkpoints[0]
        states = [checkpoint["state_dict"] for checkpoint in checkpoints]
        optimizers = [checkpoint["optimizer_states"] for checkpoint in checkpoints]
        return {
            **first,
            "state_dict": {f"{_PREFIX}{name}": torch.stack([state[name] for state in states]) for name in states[0]},
            "optimizer_states": [_join_optimizers(same) for same in zip(*optimizers, strict=True)],
        }


class _Loss(nn.Module):
    """A module's loss, as a module that `functional_call` can call."""

    def __init__(self, module: OfflineModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, window: Window) -> tuple[Tensor, dict[str, Tensor]]:
        return self.module.loss(window)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def clip_each(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Scale each seed's gradients so that the norm of all of them together is at most `limit`.

    Args:
        parameters: stacked ones, (seeds, …).
        limit: the largest norm.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale = (limit / (total + _EPSILON)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.reshape(-1, *[1] * (gradient.dim() - 1)))


def _of_each_parameter(optimizer: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Change what an optimiser's state keeps of each parameter; the number of its steps is the same for all seeds."""
    state = {
        number: {key: value if key == "step" else change(value) for key, value in kept.items()}
        for number, kept in optimizer["state"].items()
    }
    return {**optimizer, "state": state}


def _join_optimizers(optimizers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    state = {
        number: {
            key: value if key == "step" else torch.stack([each["state"][number][key] for each in optimizers])
            for key, value in kept.items()
        }
        for number, kept in optimizers[0]["state"].items()
    }
    return {**optimizers[0], "state": state}


class StackLoader:
    """The batches of several seeds, stacked: (seeds, B, …); gathered in one operation."""

    def __init__(self, loaders: Sequence[WindowLoader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[Window]:
        for step in range(self.loaders[0].first_step(), len(self)):
            yield self.batch(step)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: Lightning itself counts the steps, and so knows where to continue."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore nothing, as `state_dict` keeps nothing."""

    def batch(self, step: int) -> Window:
        """Return the batches of step `step`."""
        starts = torch.stack([loader.draw(step) for loader in self.loaders])
        batch = self.loaders[0].windows.gather(starts.flatten())
        return {name: value.unflatten(0, starts.shape) for name, value in batch.items()}


class StackData(lightning.LightningDataModule):
    """The data of several seeds: the same dataset, and the batches of each."""

    def __init__(self, seeds: Sequence[TrajectoryDataModule]) -> None:
        super().__init__()
        self.seeds = seeds

    def train_dataloader(self) -> StackLoader:
        """Return the batches from the step at which the training is; called by Lightning."""
        for data in self.seeds:
            data.trainer = self.trainer
        return StackLoader([data.train_dataloader() for data in self.seeds])
