"""Decision S4 (Bar-David et al., 2023, arXiv 2306.05167, ICLR 2023) on diagonal state spaces; it has no code."""

from __future__ import annotations

from typing import Any

from torch import nn

from dtbench.models.base import RecurrentPolicy
from dtbench.models.parts.options import DecisionS4Config
from dtbench.models.parts.recurrent import DiagonalStateSpace
from dtbench.models.parts.trunk import TrunkConfig


class DecisionS4(RecurrentPolicy):
    """DT with a linear state space per channel in the place of attention."""

    Config = DecisionS4Config
    options: DecisionS4Config

    def mixer(self, config: TrunkConfig) -> DiagonalStateSpace:
        return DiagonalStateSpace(config, self.options.states)

    @property
    def stackable(self) -> bool:
        return False  # the FFTs of a stack round otherwise: by 1e-5 of a loss after 50 steps

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Keep weight decay away from the state spaces' dynamics, as the code of S4D does."""
        mixers = [module for module in self.modules() if isinstance(module, DiagonalStateSpace)]
        dynamics: list[nn.Parameter] = [parameter for mixer in mixers for parameter in mixer.dynamics]
        apart = {id(parameter) for parameter in dynamics}
        others = [parameter for parameter in self.parameters() if id(parameter) not in apart]
        return [*self.divided_by_decay(others), {"params": dynamics, "weight_decay": 0.0}]
