"""Behaviour cloning with an MLP, of all trajectories (`bc`) or of the best tenth by return (`bc10`).

The control that is not asked for a return: what an MLP makes of the same data. CORL's (algorithms/offline/
any_percent_bc.py) sees one state; that of the Decision Transformer paper (arXiv 2106.01345, gym/decision_transformer/
models/mlp_bc.py) sees the states of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtbench.config import RunConfig, require, require_one_of, require_positive
from dtbench.models.base import OfflineModule, Window, mean_over_real
from dtbench.models.parts.dropout import Dropout
from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.memory import Numbers, mlp_bytes

#: What the MLP sees; what `top_fraction` is a share of.
STATES, TOP_BY = ("step", "window"), ("trajectories", "steps")


@dataclass
class BehaviourCloningConfig:
    """An MLP with ReLU.

    Attributes:
        layers: hidden layers.
        width: units of a hidden layer.
        dropout: dropout behind each hidden layer.
        tanh: whether actions go through tanh, which bounds them to [−1, 1].
        states: `step`: each action is predicted from its own state; `window`: the last action of a window is predicted
            from all its states.
        top_fraction: share of the data to train on, best return first; 1 leaves that to the task.
        top_by: whether `top_fraction` counts `trajectories` or their `steps` (see `WindowOptions`).
        state_std_floor: added to the standard deviation by which states are divided.
        drop_timeouts: whether the last step of an episode that a time limit cut is left out.
    """

    layers: int = 2
    width: int = 256
    dropout: float = 0.0
    tanh: bool = True
    states: str = "step"
    top_fraction: float = 1.0
    top_by: str = "trajectories"
    state_std_floor: float = 1e-3
    drop_timeouts: bool = True

    def __post_init__(self) -> None:
        require_positive("model", self, "layers", "width", "state_std_floor")
        require(0 <= self.dropout < 1, "model.dropout", "must lie in [0, 1)", self.dropout)
        require_one_of("model.states", self.states, STATES)
        require(0 < self.top_fraction <= 1, "model.top_fraction", "must lie in (0, 1]", self.top_fraction)
        require_one_of("model.top_by", self.top_by, TOP_BY)


class BehaviourCloning(OfflineModule):
    """State or states → action by mean squared error."""

    Config = BehaviourCloningConfig

    def __init__(self, config: RunConfig, dims: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(config, dims, seed)
        options, layers = self.options, list[nn.Module]()
        self.sees_window = options.states == "window"
        width = dims["observation_dim"] * (self.context_length if self.sees_window else 1)
        for _ in range(options.layers):
            layers += [nn.Linear(width, options.width), nn.ReLU()]
            layers += [Dropout(options.dropout)] if options.dropout else []
            width = options.width
        layers.append(Float32Linear(width, dims["action_dim"]))
        self.network = nn.Sequential(*layers, *([nn.Tanh()] if options.tanh else []))

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for the best trajectories only; without such a wish the task's own share counts."""
        options = self.options
        wanted = {name: getattr(options, name) for name in ("top_by", "state_std_floor", "drop_timeouts")}
        return {**wanted, "top_fraction": options.top_fraction} if options.top_fraction < 1 else wanted

    def forward(self, states: Tensor) -> Tensor:
        """(…, obs_dim) → (…, action_dim); with `states: window` (B, K · obs_dim) → (B, action_dim)."""
        return self.network(states)

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        actions, real = batch["actions"], batch["padding_mask"]
        if self.sees_window:
            error, real = self(_joined(batch)) - actions[:, -1], real[:, -1]
        else:
            error = self(batch["observations"]) - actions
        return mean_over_real(error.square(), real), {"action_mae": mean_over_real(error.detach().abs(), real)}

    @property
    def stackable(self) -> bool:
        return True

    def act(self, window: Window) -> Tensor:
        return self(_joined(window) if self.sees_window else window["observations"][:, -1]).float()

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        return mlp_bytes(self, batch_size * (1 if self.sees_window else self.context_length), numbers)


def _joined(window: Window) -> Tensor:
    """Return the states of a window one after the other, 0 where it is padded: (B, K · obs_dim)."""
    states = window["observations"] * window["padding_mask"][..., None]
    return states.reshape(len(states), -1)
