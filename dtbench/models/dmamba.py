"""Decision Mamba (Ota, 2024, arXiv 2403.19925; Toshihiro-Ota/decision-mamba, gym/)."""

from __future__ import annotations

from dtbench.models.base import RecurrentPolicy
from dtbench.models.parts.options import DecisionMambaConfig
from dtbench.models.parts.recurrent import SelectiveStateSpace
from dtbench.models.parts.trunk import TrunkConfig


class DecisionMamba(RecurrentPolicy):
    """DT with Mamba's selective state space in the place of attention."""

    Config = DecisionMambaConfig
    options: DecisionMambaConfig

    def mixer(self, config: TrunkConfig) -> SelectiveStateSpace:
        options = self.options
        return SelectiveStateSpace(config, options.states, options.expand, options.convolution)
