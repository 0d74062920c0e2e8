"""Behaviour cloning on single steps, of all trajectories (`bc`) or of the best tenth by return (`bc10`).

The control without a sequence and without a return to ask for: what an MLP makes of the same data. Cloning of the best
10 % is the Decision Transformer paper's own control (arXiv 2106.01345).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError

from dtbench.config import RunConfig, require, require_positive
from dtbench.models.base import OfflineModule, Window


@dataclass
class BehaviourCloningConfig:
    """An MLP with ReLU.

    Attributes:
        layers: hidden layers.
        width: units of a hidden layer.
        tanh: whether actions go through tanh, which bounds them to [−1, 1].
        top_fraction: share of the trajectories to train on, best return first; 1 leaves that to the task.
    """

    layers: int = 2
    width: int = 256
    tanh: bool = True
    top_fraction: float = 1.0

    def __post_init__(self) -> None:
        require_positive("model", self, "layers", "width")
        require(0 < self.top_fraction <= 1, "model.top_fraction", "must lie in (0, 1]", self.top_fraction)


class BehaviourCloning(OfflineModule):
    """s → a by mean squared error over the real steps of the windows."""

    Config = BehaviourCloningConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        layers: list[nn.Module] = []
        width = dims["observation_dim"]
        for _ in range(self.options.layers):
            layers += [nn.Linear(width, self.options.width), nn.ReLU()]
            width = self.options.width
        layers.append(nn.Linear(width, dims["action_dim"]))
        self.network = nn.Sequential(*layers, *([nn.Tanh()] if self.options.tanh else []))
        self.action_error = MeanAbsoluteError()

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for the best trajectories only; without such a wish the task's own share counts."""
        share = self.options.top_fraction
        return {"top_fraction": share} if share < 1 else {}

    def forward(self, observations: Tensor) -> Tensor:
        """(…, obs_dim) → (…, action_dim)."""
        return self.network(observations)

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["padding_mask"]
        predicted, taken = self(batch["observations"][real]), batch["actions"][real]
        error = self.action_error(predicted.detach().float(), taken)
        return nn.functional.mse_loss(predicted, taken), {"action_mae": error}

    def act(self, window: Window) -> Tensor:
        return self(window["observations"][:, -1]).float()
