"""TrajectoryDataModule: the one data module, used by every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from dtbench.data.store import TrajectoryStore
from dtbench.data.windows import WindowOptions, Windows

#: Share of a GPU's free memory that the dataset may take; a larger one stays a memory map on the CPU.
_GPU_SHARE = 0.5


class TrajectoryDataModule(lightning.LightningDataModule):
    """Batches of windows; the batch of step i is a function of (seed, i, rank).

    Args:
        path: folder of a `TrajectoryStore`.
        options: how trajectories become windows.
        batch_size: windows per batch and rank.
        steps: length of the training: one epoch of `steps` batches, whatever a model's optimisers do in a step.
        seed: of the draws.
        held_out_share: share of the trajectories that are held out; only some steps draw from them, and no others do.
        is_held_out_step: whether a step draws from the held-out trajectories.
        windows: over the same store with the same options, if they are open already.
    """

    def __init__(
        self,
        path: str | Path,
        options: WindowOptions,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        held_out_share: float = 0.0,
        is_held_out_step: Callable[[int], bool] = lambda step: False,
        windows: Windows | None = None,
    ) -> None:
        super().__init__()
        self.path, self.options = Path(path), options
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.held_out_share, self.is_held_out_step = held_out_share, is_held_out_step
        self._windows = windows

    @property
    def windows(self) -> Windows:
        """The windows over the store, opened at first use: a memory map, shared by all processes of a machine."""
        if self._windows is None:
            self._windows = Windows(TrajectoryStore.open(self.path), self.options)
        return self._windows

    def train_dataloader(self) -> WindowLoader:
        """Return the batches from the step at which the training is; called by Lightning."""
        trainer = self.trainer
        if trainer is None:
            return self._loader(0, lambda: 0)
        device = trainer.strategy.root_device
        if device.type == "cuda" and self.windows.nbytes < _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.windows.to(device)
        # After a restart Lightning has restored how many batches this epoch has done.
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        return self._loader(trainer.global_rank, lambda: done.processed)

    def _loader(self, rank: int, first_step: Callable[[], int]) -> WindowLoader:
        windows, held_out = self.windows, None
        if self.held_out_share > 0:
            windows, held_out = windows.split(self.held_out_share, self.seed)
        return WindowLoader(
            windows, self.batch_size, self.steps, self.seed, rank, first_step, held_out, self.is_held_out_step
        )


class WindowLoader:
    """A plain iterable instead of a DataLoader: a batch is one indexed gather, which needs no worker processes.

    Lightning leaves its sampling alone, too; that of a DataLoader it would replace under DDP.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        first_step: Callable[[], int] = lambda: 0,
        held_out: Windows | None = None,
        is_held_out_step: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.windows, self.batch_size, self.steps, self.seed, self.rank = windows, batch_size, steps, seed, rank
        self.first_step = first_step
        self.held_out, self.is_held_out_step = held_out, is_held_out_step

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.first_step(), self.steps):
            yield self.batch(step)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: Lightning itself counts the steps, and so knows where to continue."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore nothing, as `state_dict` keeps nothing."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return the batch of step `step` for this rank (keys and shapes: `Windows.gather`)."""
        return self.windows.gather(self.draw(step))  # of held-out windows, too: they share all arrays

    def draw(self, step: int) -> Tensor:
        """Draw the starts of the windows of step `step` for this rank: (B,) int64."""
        windows = self.held_out if self.held_out is not None and self.is_held_out_step(step) else self.windows
        return windows.draw(self.batch_size, seed=self.seed, step=step, rank=self.rank)
