"""Behaviour cloning with an MLP, of all trajectories (`bc`) or of the best tenth by return (`bc10`).

The control that is not asked for a return: what an MLP makes of the same data. CORL's (algorithms/offline/
any_percent_bc.py) sees one state; that of the Decision Transformer paper (arXiv 2106.01345, gym/decision_transformer/
models/mlp_bc.py) sees the states of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dtbench.config import RunConfig
from dtbench.errors import ConfigError
from dtbench.models.base import OfflineModule, Window
from dtbench.models.parts.actions import action_loss
from dtbench.models.parts.dropout import Dropout
from dtbench.models.parts.heads import Float32Linear
from dtbench.models.parts.memory import Numbers, mlp_bytes
from dtbench.models.parts.observations import FrameEncoder
from dtbench.models.parts.options import BehaviourCloningConfig
from dtbench.spaces import Spaces, Vector


class BehaviourCloning(OfflineModule):
    """State or states → action, by squared error or cross-entropy."""

    Config = BehaviourCloningConfig

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options, layers = self.options, list[nn.Module]()
        self.sees_window = options.states == "window"
        first = self._first_layer()
        for index in range(options.layers):
            layers += [nn.Linear(options.width, options.width) if index else first, nn.ReLU()]
            layers += [Dropout(options.dropout)] if options.dropout else []
        layers.append(Float32Linear(options.width, self.spaces.action.size))
        self.network = nn.Sequential(*layers, *([nn.Tanh()] if options.tanh else []))

    def _first_layer(self) -> nn.Module:
        """Return the map of what the network sees to the first hidden layer."""
        seen, width = self.spaces.observation, self.options.width
        if isinstance(seen, Vector):
            return nn.Linear(seen.size * (self.context_length if self.sees_window else 1), width)
        if self.sees_window:
            raise ConfigError(f"model.states=window joins vectors, and the task shows {seen}; set model.states=step.")
        return FrameEncoder(seen, width)

    @property
    def window_options(self) -> dict[str, Any]:
        """Ask for the best trajectories only; without such a wish the task's own share counts."""
        options = self.options
        wanted = {name: getattr(options, name) for name in ("top_by", "state_std_floor", "drop_timeouts")}
        return {**wanted, "top_fraction": options.top_fraction} if options.top_fraction < 1 else wanted

    def forward(self, states: Tensor) -> Tensor:
        """Observations (…, shape) → (…, action size); with `states: window` (B, K · obs_dim) → (B, action size)."""
        return self.network(states)

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        space, actions, real = self.spaces.action, batch["actions"], batch["padding_mask"]
        if self.sees_window:
            return action_loss(space, self(_joined(batch)), actions[:, -1], real[:, -1])
        return action_loss(space, self(batch["observations"]), actions, real)

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
