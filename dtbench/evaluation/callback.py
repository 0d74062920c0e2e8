"""Evaluations during training: diagnostics for the log, never the score (the last checkpoint is)."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from dtbench.evaluation.rollout import EvaluationProtocol, evaluate_together
from dtbench.hardware import FLOAT32
from dtbench.models.base import OfflineModule
from dtbench.suites.scores import ReferenceScores


class EvaluationCallback(Callback):
    """Evaluate every `every` steps at the score target; keep all values and the best one as diagnostics.

    `history` holds (step, mean normalised score on the 0–1 scale) and travels in the checkpoint.
    """

    #: Its name in the log.
    name = "evaluation/normalized"

    def __init__(
        self,
        protocol: EvaluationProtocol,
        reference: ReferenceScores,
        target: float,
        *,
        every: int,
        episodes: int,
        seed: int,
        precision: str = FLOAT32,
    ) -> None:
        self.protocol, self.reference, self.target = protocol, reference, target
        self.every, self.episodes, self.seed, self.precision = every, episodes, seed, precision
        self.history: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = batch_idx + 1
        if step % self.every:
            return
        assert isinstance(pl_module, OfflineModule)
        score = self.evaluate(pl_module, step, pl_module.device)  # all processes share the episodes
        pl_module.log(self.name, 100 * score, rank_zero_only=True)

    def evaluate(self, module: OfflineModule, step: int, device: torch.device) -> float:
        """Evaluate the module as it is after `step` steps, keep its score and return it (0–1)."""
        module.eval()
        options = (self.target, self.episodes, self.seed, device, self.precision)
        done = evaluate_together(module, self.protocol, *options)
        module.train()
        score = float(np.mean(self.reference.normalize(done.returns)))
        self.history.append((step, score))
        return score

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and score of the best evaluation so far."""
        return max(self.history, key=lambda entry: entry[1]) if self.history else None

    def state_dict(self) -> dict[str, Any]:
        return {"history": [list(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(int(step), float(score)) for step, score in state_dict["history"]]
